"""How much of what a fine-tuned model computes is due to fine-tuning, prompt by prompt."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import make_edit
from inscape.core.errors import InputError
from inscape.core.positions import select
from inscape.core.progress import Progress, tell
from inscape.core.step import Step
from inscape.engine.forward import run
from inscape.engine.inputs import prepare
from inscape.models.model import Model
from inscape.steer.states import check_texts
from inscape.steer.two_models.beside import Beside, wide

POSITIONS = ("last", "all")


@dataclass(frozen=True, eq=False)
class TuningContribution:
    """tuco: `|F| / (|P| + |F|)` in [0, 1], F and P the sums over layers of what tuning and the base wrote.

    Axes are [prompt] at the last token, [prompt, pos] at all (columns counted among real tokens, NaN behind the end).
    base, tuning: |P_l| and |F_l| of each layer's own update; base_sum, tuning_sum: of the sums up to it; all end in an
    axis of layers. beta: the largest share that tuning has in the sums up to any layer.
    """

    tuco: Float[Tensor, "prompt *pos"]
    base: Float[Tensor, "prompt *pos layer"]
    tuning: Float[Tensor, "prompt *pos layer"]
    base_sum: Float[Tensor, "prompt *pos layer"]
    tuning_sum: Float[Tensor, "prompt *pos layer"]
    position: str

    @property
    def beta(self) -> Float[Tensor, "prompt *pos"]:
        return _share(self.base_sum, self.tuning_sum).amax(-1)

    @property
    def by_layer(self) -> Float[Tensor, "prompt *pos layer"]:
        """The share of tuning in each layer's own update."""
        return _share(self.base, self.tuning)


def tuning_contribution(
    tuned: Model, base: Model, inputs: Any, *, position: str = "last", batch: int = 16, progress: Progress = None
) -> TuningContribution:
    """TuCo of every prompt: each block's update on the tuned model's stream, split into the base's and the rest.

    `P_l = base_l(x_l) - x_l`, `F_l = tuned_l(x_l) - base_l(x_l)`; the sums with the embedding are the tuned model's
    final state exactly. Compare prompts that end alike: the last token (of a chat template, say) decides a good deal.
    A low value says that the answer is the base's; it does not say that it is right or safe.

    inputs: a list of texts or token ids. position: "last", or "all" for one number a token. batch: prompts a forward.
    Cost: both models' blocks, once a prompt, without the head; float32 sums; no copy of weights.
    Raises: ModelError where the two are no pair, InputError. Warns where neither part writes anything (TuCo is 0).
    Source: Nuti et al. 2025, arXiv:2506.23423. Norms of sums, not sums of norms: parts that cancel count for nothing.
    """
    if position not in POSITIONS:
        raise InputError(f"position={position!r} can be {' or '.join(map(repr, POSITIONS))}.")
    given, beside = check_texts(inputs, "inputs"), Beside(tuned, base)
    parts: list[_Sums] = []
    for start in range(0, len(given), batch):
        ready = prepare(tuned, given[start : start + batch])
        sums = _Sums(beside, position)
        edits = [make_edit(f"{b.name}.resid_post", sums.see, "", contextual=True, calls=True) for b in tuned.blocks]
        run(tuned, ready, edits=edits, output=False)
        parts.append(sums)
        tell(progress, f"{min(start + batch, len(given))} of {len(given)} prompts", (start + batch) / len(given))
    width = max(p.norms.shape[1] for p in parts)
    norms = torch.cat([torch.nn.functional.pad(p.norms, (0, 0, 0, 0, 0, width - p.norms.shape[1]), value=torch.nan)
                       for p in parts])  # fmt: skip
    if position == "last":
        norms = norms[:, 0]
    own, own_f, total, total_f = norms.unbind(-2)
    last = total[..., -1] + total_f[..., -1]
    if bool((last == 0).any()):
        warnings.warn("neither model writes anything into the stream of some prompt: its TuCo is 0.", stacklevel=2)
    return TuningContribution(_share(total, total_f)[..., -1], own, own_f, total, total_f, position)


class _Sums:
    """Norms of one batch, [prompt, pos, 4, layer]: of each layer's two parts, and of their sums so far."""

    def __init__(self, beside: Beside, position: str) -> None:
        self.beside, self.position = beside, position
        self.sums: tuple[Tensor, Tensor] | None = None
        self.found: list[Tensor] = []

    def see(self, x: Tensor, step: Step) -> Tensor:
        before, base = self.beside.block(x, step)
        parts = [self._at(wide(p).detach(), step) for p in (wide(base) - wide(before), wide(x) - wide(base))]
        old = self.sums
        self.sums = (parts[0], parts[1]) if old is None else (old[0] + parts[0], old[1] + parts[1])
        norms = [v.norm(dim=-1) for v in (*parts, *self.sums)]
        self.found.append(torch.stack(norms, -1).float().cpu())
        return x

    def _at(self, x: Tensor, step: Step) -> Tensor:
        """The wanted tokens of each row, in the order of its text; NaN where it has no more."""
        if self.position == "last":
            chosen = select(-1, step)
            assert chosen is not None
            return x[torch.arange(len(x)), chosen.long().argmax(1).to(x.device)][:, None]
        real = step.real[:, step.start :]
        order = torch.where(real >= 0, real, real.shape[1]).argsort(dim=1, stable=True)
        moved = x.gather(1, order.to(x.device)[:, :, None].expand(-1, -1, x.shape[-1]))
        beyond = torch.arange(real.shape[1]) >= step.lengths[:, None]
        return moved.masked_fill(beyond.to(x.device)[:, :, None], torch.nan)

    @property
    def norms(self) -> Float[Tensor, "prompt pos part layer"]:
        return torch.stack(self.found, -1)


def _share(base: Tensor, tuning: Tensor) -> Tensor:
    whole = base + tuning
    return torch.where(whole == 0, torch.zeros_like(whole), tuning / torch.where(whole == 0, 1, whole))
