"""What one kind of head was found to be: a score a head, beside what chance gives the best of all heads."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.nulls.family import max_over_family


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores of every head, [layer, head], NaN where there is none to give.

    p: of each head, corrected for having looked at all heads. line: what a head's score has to pass so that the best of
    all heads passes its own in 5 of 100 draws of the control. chance: the control's mean, over heads. unit: what the
    score is. parts: what it takes to be of this kind, where that is several things. notes: what else was seen.
    """

    score: Float[Tensor, "layer head"]
    p: Float[Tensor, "layer head"]
    line: Float[Tensor, "layer head"]
    chance: float
    unit: str
    parts: dict[str, "Measured"] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def beside(
    score: Float[Tensor, "layer head"],
    null: Float[Tensor, "draw layer head"],
    unit: str,
    *,
    own_scale: bool = False,
    notes: tuple[str, ...] = (),
) -> Measured:
    """A score beside its null; heads without a score are in neither.

    own_scale: heads are compared in standard deviations of their own null, where one head's score may be of another
    size than the next one's, as effects are; attention and shares are not.
    """
    there = ~score.isnan() & ~null.isnan().any(0)
    p, line = torch.full(score.shape, torch.nan), torch.full(score.shape, torch.nan)
    corrected = max_over_family(score[there], null[:, there], standardise=own_scale)
    p[there] = corrected.p.float()
    middle, spread = (null[:, there].mean(0), null[:, there].std(0)) if own_scale else (0.0, 1.0)
    line[there] = torch.ones_like(p[there]) * (middle + spread * corrected.threshold(0.95))
    return Measured(torch.where(there, score, torch.nan), p, line, float(null[:, there].mean()), unit, notes=notes)


def all_of(main: Measured, parts: dict[str, Measured], notes: tuple[str, ...] = ()) -> Measured:
    """A kind that takes several things: scored by the main one, with the largest p of all, so that each of them holds.

    Source: Berger 1982, the intersection-union test.
    """
    p = torch.stack([part.p for part in parts.values()]).amax(0)
    return replace(main, p=p, parts=parts, notes=notes)
