"""When the prediction is settled: distance of every layer's lens from the final prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.nulls import Intervals, bootstrap_each
from inscape.core.progress import Progress, tell
from inscape.models.model import Model
from inscape.read.lenses.logit import LensReading, logit_lens


@dataclass(frozen=True, eq=False)
class LensProfile:
    """Per input and layer, means over tokens; `bootstrap_each` over the first axis gives intervals.

    kl: sum p_lens (log p_lens - log p_final), nats. overlap: share of the final top k that the lens has among its own.
    control: the overlap with the final top k of another token of the same input, which frequent tokens share.
    """

    layers: tuple[str, ...]
    kl: Float[Tensor, "input layer"]
    overlap: Float[Tensor, "input layer"]
    control: Float[Tensor, "input layer"] | None
    k: int
    how: str
    n_tokens: int

    def intervals(self, *, seed: int = 0) -> dict[str, Intervals]:
        """Means over inputs with 95 % intervals: "kl", "overlap", and "control" where there is one."""
        known = {"kl": self.kl, "overlap": self.overlap, "control": self.control}
        return {name: bootstrap_each(x, seed=seed) for name, x in known.items() if x is not None}


def lens_profile(
    model: Model,
    inputs: Sequence[Any],
    *,
    k: int = 5,
    skip_first: bool = True,
    control: str | None = "shuffle",
    seed: int = 0,
    budget: int | None = None,
    progress: Progress = None,
) -> LensProfile:
    """KL and top-k overlap of every layer's logit lens with the final prediction, input by input.

    inputs: one entry a run, of one row or of a batch. skip_first: leave the first token out of the means. budget: as in
    `logit_lens`. Choose `logit_lens` for single tokens; this is for the question after how many layers it is said.
    Cost: as `logit_lens`: one head row a layer and token, the dear part where the vocabulary is large.
    Raises: as `logit_lens`; InputError for no inputs or one token.
    Source: Csordas et al. 2025, arXiv:2505.13898; the overlap's control is ours.
    """
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} is none of lens_profile; it can be 'shuffle' or None.")
    generator = torch.Generator().manual_seed(seed)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    reading: LensReading | None = None
    n_tokens = 0
    for number, one in enumerate(inputs):
        tell(progress, f"reading input {number + 1} of {len(inputs)}", number / len(inputs))
        reading = logit_lens(model, one, k=k, control=None, budget=budget)
        keep = reading.mask.clone()
        if skip_first:
            keep &= keep.long().cumsum(1) > 1
        if not bool(keep.any()):
            raise InputError(f"input {number} has no token to measure besides its first, which skip_first leaves out.")
        n_tokens += int(keep.sum())
        top = reading.top[:, keep]
        other = torch.randperm(top.shape[1], generator=generator)
        moved = torch.empty_like(other)
        moved[other] = other.roll(1)
        rows.append((reading.kl[:, keep].mean(1), _overlap(top, top[-1]), _overlap(top, top[-1][moved])))
    if reading is None:
        raise InputError("there are no inputs to measure.")
    kl, overlap, beside = (torch.stack(x) for x in zip(*rows, strict=True))
    width = reading.top.shape[-1]
    return LensProfile(reading.layers, kl, overlap, beside if control else None, width, reading.how, n_tokens)


def _overlap(top: Tensor, final: Tensor) -> Float[Tensor, " layer"]:
    """Share of the final tokens [token, k] among those of every layer [layer, token, k]."""
    return (top[..., :, None] == final[None, :, None, :]).any(-2).float().mean((-1, -2))
