"""What share of the way to a goal an edit has gone, where the goal is the ideal or the other class."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError

FLOOR = 1e-6  # a way shorter than this is no way


def normalised_effect(
    edited: Float[Tensor, "..."], plain: Float[Tensor, "..."], goal: Float[Tensor, "..."] | float | int
) -> Float[Tensor, "..."]:
    """`(edited - plain) / (goal - plain)`: 0 where an edit does nothing, 1 at the goal; NaN without a way.

    goal: the best there is (+1 or -1 for a difference of two probabilities), or the value of the other class. Where
    `plain` is at the goal already there is nothing to say, and the value is NaN: count them before you average.
    Raises: ShapeError for unlike shapes.
    """
    other = torch.as_tensor(goal, dtype=torch.float64)
    if edited.shape != plain.shape or (other.ndim and other.shape != plain.shape):
        raise ShapeError(f"edited {tuple(edited.shape)}, plain {tuple(plain.shape)}, goal {tuple(other.shape)} differ.")
    way = other - plain.double()
    return torch.where(way.abs() > FLOOR, (edited.double() - plain.double()) / way, torch.nan)


@dataclass(frozen=True)
class TruthEffect:
    """How far an edit turns true statements false and false ones true, and the mean of both; 1 at best."""

    to_false: float
    to_true: float

    @property
    def mean(self) -> float:
        return (self.to_false + self.to_true) / 2

    def __float__(self) -> float:
        return self.mean


def nie(
    true: Float[Tensor, " n"],
    true_edited: Float[Tensor, " n"],
    false: Float[Tensor, " m"],
    false_edited: Float[Tensor, " m"],
    *,
    towards: str = "ideal",
) -> TruthEffect:
    """Normalised indirect effect of an edit on P(TRUE) - P(FALSE) of true and of false statements.

    Means over statements first, then the ratio. towards="ideal": the goal is -1 for true statements and +1 for false
    ones, as in the released runs of the source. "gap": the goal of each class is the other class's unedited mean, so
    that 1 means "as if it were of the other class", and more is possible.
    NaN where the way is empty (means already at the goal, or classes that do not differ).
    Raises: InputError for another `towards`. Source: Du et al. 2025, arXiv:2504.02904, both forms.
    """
    if towards not in ("ideal", "gap"):
        raise InputError(f"towards={towards!r}: it can be 'ideal' or 'gap'.")
    means = [x.double().mean() for x in (true, true_edited, false, false_edited)]
    goals = (-1.0, 1.0) if towards == "ideal" else (float(means[2]), float(means[0]))
    return TruthEffect(
        float(normalised_effect(means[1], means[0], goals[0])), float(normalised_effect(means[3], means[2], goals[1]))
    )
