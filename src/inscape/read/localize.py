"""In which layers a quantity of the candidates shows: what a lens says of each candidate, correlated with it by layer.

1. The stream at one position, before the first block and after every block, goes through the model's own norm and
   head; the scores of each item's candidates are kept: `lens[stage, item, candidate]`.
2. Within an item the candidates are ranked, so that only their order counts, and the ranks are correlated with those of
   the quantity; the mean over items is the value of the stage.
3. The same with the quantity dealt to other candidates (or to other items) is the null, for all stages at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls import max_over_family
from inscape.core.nulls.ranks import Ordered
from inscape.core.progress import Progress, tell
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.read.lenses.logit import checked_unembedding
from inscape.tasks.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Localized:
    """By quantity, its correlation with the lens at every stage, beside the same with the quantity shuffled.

    stages: the site before the first block, and the one after each. p: corrected for looking at all stages.
    """

    stages: tuple[str, ...]
    value: dict[str, Float[Tensor, " stage"]]
    null: dict[str, Float[Tensor, "n stage"]]
    p: dict[str, Float[Tensor, " stage"]]

    @property
    def layers(self) -> tuple[str, ...]:
        """The blocks, in order."""
        return tuple(stage.rsplit(".", 1)[0] for stage in self.stages[1:])

    def peak(self, name: str) -> str:
        """The block after which the quantity shows most."""
        return self.layers[int(self._of(name)[1:].argmax())]

    def jump(self, name: str) -> str:
        """The block that adds most: the largest rise from the stage before it."""
        return self.layers[int(self._of(name).diff().argmax())]

    def band(self, name: str, q: float = 0.99) -> float:
        """What the best stage stays below in a share q of shuffles."""
        self._of(name)
        return float(torch.quantile(self.null[name].amax(1), q))

    def _of(self, name: str) -> Tensor:
        if name not in self.value:
            raise InputError(f"no quantity is called {name!r}; there are {', '.join(self.value)}.")
        return self.value[name]


def correlate(
    model: Model,
    inputs: Any,
    candidates: Sequence[str | int],
    targets: Mapping[str, Any],
    *,
    at: int = -1,
    baseline: Any = None,
    n: int = 1000,
    seed: int = 0,
    progress: Progress = None,
) -> Localized:
    """Which layers' lens follows a quantity of the candidates: a prior, the evidence of the task, anything known.

    `value[s] = mean over items of spearman(lens[s, item, :], target[item, :])`.

    inputs: the items, one row each. candidates: tokens (or texts of one token), the same for all items. targets: by
    name, a number a candidate [candidate], shuffled among candidates; or [item, candidate], whose rows are dealt to
    other items. at: the position that is read, counted among real tokens.
    baseline: neutral inputs whose mean lens is subtracted, stage by stage: early layers favour frequent tokens
        whatever they read, and without it that counts as a prior.
    Choose `logit_lens` to see what a layer would say; choose patching to see what a layer does.
    Cost: one forward without its head (two with a baseline), and scores of the candidates alone.
    Raises: ShapeError for targets of other shapes, InputError for fewer than three candidates or a constant target,
    TokenError for a candidate of several tokens, ModelError where the lens is not the model's own.
    Source: correlation by layer of arXiv:2504.12585; ranks within items, the baseline and the null are ours.
    """
    ids = _ids(model, candidates)
    tell(progress, "reading every layer", None)
    lens, stages = _lens(model, inputs, ids, at)
    if baseline is not None:
        lens = lens - _lens(model, baseline, ids, at)[0].mean(1, keepdim=True)
    seen = _unit_ranks(lens.double())
    rng = np.random.default_rng(seed)
    value, null, p = {}, {}, {}
    for i, (name, target) in enumerate(targets.items()):
        tell(progress, f"shuffling {name}", i / len(targets))
        known = torch.as_tensor(target, dtype=torch.float64).cpu()
        _check(name, known, seen.shape[1:])
        wanted = _unit_ranks(known)
        if known.ndim == 1:  # one shuffle of the candidates for all items: what they share is shuffled together
            mean = seen.mean(1)
            value[name] = mean @ wanted
            orders = torch.from_numpy(np.stack([rng.permutation(len(known)) for _ in range(n)]))
            null[name] = wanted[orders] @ mean.T
        else:
            every = torch.einsum("sik,jk->sij", seen, wanted)
            value[name] = every.diagonal(dim1=1, dim2=2).mean(1)
            orders = torch.from_numpy(np.stack([rng.permutation(len(known)) for _ in range(n)]))
            null[name] = every[:, torch.arange(len(known)), orders].mean(-1).T
        p[name] = max_over_family(value[name], null[name]).p
    return Localized(stages, value, null, p)


def _ids(model: Model, candidates: Sequence[str | int]) -> Tensor:
    texts = [c for c in candidates if isinstance(c, str)]
    tokens = Tokens(model) if texts else None
    ids = [tokens.one("the", c) if tokens is not None and isinstance(c, str) else int(c) for c in candidates]
    if len(set(ids)) < 3:
        raise InputError(f"{len(set(ids))} different candidates cannot be ranked to any purpose; give three or more.")
    return torch.tensor(ids)


def _lens(model: Model, inputs: Any, ids: Tensor, at: int) -> tuple[Float[Tensor, "stage item candidate"], tuple]:
    unembed = checked_unembedding(model, inputs)
    stages = (f"{model.blocks[0].name}.resid_pre", *(f"{block.name}.resid_post" for block in model.blocks))
    trace = run(model, inputs, read=list(stages), reduce="last" if at == -1 else [at])
    return torch.stack([unembed.columns(trace[s].flatten(1), ids).cpu() for s in stages]), stages


def _check(name: str, target: Tensor, shape: Sequence[int]) -> None:
    n_items, n_candidates = shape
    if tuple(target.shape) not in ((n_candidates,), (n_items, n_candidates)):
        raise ShapeError(
            f"the quantity {name!r} has shape {tuple(target.shape)}; it is one number a candidate ({n_candidates},) or "
            f"one for each item too ({n_items}, {n_candidates})."
        )
    rows = target.reshape(-1, n_candidates)
    if not bool(rows.isfinite().all()) or bool((rows.amax(1) == rows.amin(1)).any()):
        raise InputError(
            f"the quantity {name!r} is the same for all candidates (or not finite), so nothing follows it."
        )


def _unit_ranks(values: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows k"]:
    """Ranks along the last axis, ties shared, centred and of length 1: products of two such rows are Spearman's."""
    flat = values.reshape(-1, values.shape[-1]).numpy()
    row = np.repeat(np.arange(len(flat)), flat.shape[1])
    ranks = Ordered(flat.reshape(-1), row).below(np.ones((1, flat.size)))[0].reshape(values.shape)
    centred = torch.from_numpy(ranks - ranks.mean(-1, keepdims=True))
    return centred / centred.norm(dim=-1, keepdim=True).clamp(min=1e-12)
