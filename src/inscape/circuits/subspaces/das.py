"""Distributed alignment search: the subspace whose exchange makes a model give another run's answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from inscape.circuits.subspaces.contrast import Contrast, Effect, edits_of, effect, scores, values
from inscape.circuits.subspaces.first_order import first_order
from inscape.core.direction import Direction
from inscape.core.edit import Edit
from inscape.core.errors import InputError, ModelError
from inscape.core.progress import Progress
from inscape.models.model import Model
from inscape.tasks.pairs import Pairs
from inscape.train import fit, frozen, linear

CONTROLS = (None, "shuffle")
STARTS = ("random", "slope")


@dataclass(frozen=True, eq=False)
class Subspace:
    """A subspace at a site. V: orthonormal columns; at a per-head site d is all heads together.

    history: loss of every step of the search. source: in words. model: fingerprint of the weights it was found on.
    """

    site: str
    V: Float[Tensor, "d k"]
    history: tuple[float, ...] = ()
    source: str = ""
    model: str = ""
    shape: tuple[int, ...] = field(default=(), repr=False)

    def direction(self) -> Direction:
        """The one direction of a subspace of one dimension. Raises: InputError for more."""
        if self.V.shape[1] != 1:
            raise InputError(f"this subspace has {self.V.shape[1]} dimensions; a direction has one.")
        return Direction(self.site, self.V[:, 0].reshape(self.shape or -1), self.source, self.model)

    def score(self, model: Model, pairs: Pairs | Contrast, at: str | int = "end", batch: int = 32) -> Effect:
        """What exchanging it does on pairs: the share of the score that is lost, and interchange accuracy."""
        contrast = Contrast.of(pairs, at)
        _, source = values(model, contrast, self.site, batch)
        before, _ = scores(model, contrast, batch=batch)
        after, turned = scores(model, contrast, lambda p, rows: p.put(self.site, source[rows], self.V), batch)
        return effect(before, after, turned)


class _Basis(nn.Module):
    """An orthonormal basis of k columns, as the QR factor of a free matrix.

    Its entries are of size one, so a step of Adam turns V by about lr, whatever d is. Householder vectors have entries
    of size d^-1/2: in a site of 2048 units the first steps outgrow them, and V falls onto the first axis and stays.
    """

    def __init__(self, d: int, k: int, seed: int, start: Float[Tensor, "d k"] | None = None) -> None:
        super().__init__()
        drawn = torch.randn(d, k, generator=torch.Generator().manual_seed(seed))
        self.free = nn.Parameter(drawn if start is None else start.clone() * d**0.5)

    @property
    def V(self) -> Float[Tensor, "d k"]:
        return torch.linalg.qr(self.free).Q


def das(
    model: Model, site: str, pairs: Pairs | Contrast, k: int = 1, *, at: str | int = "end", epochs: int = 30,
    batch: int = 20, lr: float = 0.1, floor: float = 0.1, start: str = "random", control: str | None = None,
    seed: int = 0, progress: Progress = None,
) -> Subspace:  # fmt: skip
    """The k-dimensional subspace whose exchange best makes the model give the source's answer.

    Minimises the cross-entropy of the source's answer after h' = h + V V' (h_source - h) at one position, over V with
    orthonormal columns, the model frozen. A subspace that flips the answer need not be one that the model uses: always
    `audit` it. Choose a probe's direction where labels are at hand and the question is what is represented.

    at: a role of one token, or a position. start: "random", or "slope", the best subspace to first order
    (`first_order`), from which a wide site takes far fewer steps. lr falls in a straight line to floor * lr.
    control: "shuffle" asks for one of the two answers at random, pair by pair: what can be learned of the pairs
    themselves, with nothing to find.
    Cost: epochs x pairs forwards, and backwards down to the site, of the columns from the position on where the model
    goes on from a cache, else of all; one run of the sources, one of the bases. Deterministic by `seed`.
    Raises: InputError for pairs without contrast or several tokens; ModelError where gradients do not reach the site.
    Source: Geiger et al. 2023, arXiv:2303.02536; settings of Makelov et al. 2023, arXiv:2311.17030. Ours keeps only the
    k columns that are exchanged, theirs rotate all of d.
    """
    if control not in CONTROLS:
        raise InputError(f"control={control!r} is none of das; it can be 'shuffle' or None.")
    if start not in STARTS:
        raise InputError(f"start={start!r} is none of das; it can be 'random' or 'slope'.")
    contrast = Contrast.of(pairs, at)
    if contrast.wrong is None or contrast.answer is None:
        raise InputError("das learns from the source's answer: give a contrast with answer= and wrong=, not metric=.")
    _, source = values(model, contrast, site)
    shape, d = tuple(source.shape[1:]), source[0].numel()
    if not 1 <= k <= d:
        raise InputError(f"k={k}: {site} has {d} dimensions.")
    swap = torch.zeros(len(contrast), dtype=torch.bool)
    if control == "shuffle":
        swap = torch.rand(len(contrast), generator=torch.Generator().manual_seed(seed)) < 0.5
    wanted = torch.where(swap, contrast.answer, contrast.wrong)
    signs = 1 - 2 * swap.float()
    first = first_order(model, site, contrast, k, signs=signs)[0].V if start == "slope" else None
    prefix = contrast.prefix(model)
    steps = epochs * ceil(len(contrast) / batch)
    basis = _Basis(d, k, seed, first).to(model.device)

    def loss(module: Any, rows: Int[Tensor, " batch"]) -> tuple[Tensor, Mapping[str, Any]]:
        v = module.V

        def edit(part: Contrast, some: Any) -> Edit:
            return part.put(site, source[some], v)

        if prefix is not None:
            logits = prefix.run(rows.tolist(), edits_of(contrast, edit), grad=True).float()
        else:
            part = contrast.subset(rows)
            logits = part.run(model, edits=[edit(part, rows)], grad=True).output.logits[:, -1].float()
        if not logits.requires_grad:
            raise ModelError(f"no gradient of the answer reaches {site}: it cannot be searched.")
        target = wanted[rows].to(logits.device)
        return F.cross_entropy(logits, target), {"turned": float((logits.argmax(-1) == target).float().mean())}

    with frozen(model.module):
        history = fit(
            basis, partial(_rows, len(contrast), batch, seed), loss, steps=steps, lr=lr,
            schedule=partial(linear, floor=floor), optimizer=torch.optim.Adam, clip=None, seed=seed, progress=progress,
        )  # fmt: skip
    said = f"DAS, {k} dimension{'s' * (k > 1)}, {len(contrast)} pairs" + (", shuffled answers" if control else "")
    return Subspace(site, basis.V.detach().cpu(), tuple(history.loss), said, model.fingerprint, shape)


def _rows(n: int, batch: int, seed: int, step: int) -> Int[Tensor, " batch"]:
    """The rows of a step: every epoch another order."""
    per_epoch = ceil(n / batch)
    order = torch.randperm(n, generator=torch.Generator().manual_seed((seed << 32) + step // per_epoch))
    return order[(step % per_epoch) * batch :][:batch]
