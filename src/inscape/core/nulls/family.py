"""Many scores looked at together: p values that count every look."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls.permutation import permutation_p
from inscape.core.nulls.values import Values, array


@dataclass(frozen=True, eq=False)
class Corrected:
    """p values of a family, corrected for its size: the chance that any member gets there by luck.

    maxima: the most extreme member of each null draw, in the units that members were compared in.
    """

    p: Float[Tensor, "*axes"]
    maxima: Float[Tensor, " n"]

    def threshold(self, q: float = 0.95) -> float:
        """What the best of the family stays below in a share q of null draws."""
        return float(np.quantile(self.maxima.numpy(), q))


def max_over_family(
    observed: Values,
    null: Values,
    *,
    alternative: str = "greater",
    standardise: bool = False,
    step_down: bool = True,
) -> Corrected:
    """Corrected p values of every member of a family, from the most extreme member of each null draw.

    A member's p is the share of draws whose best member does as well: the chance of one false find among all is then
    at most p, however the members depend on one another. Step-down leaves the members that are already found out of
    the maximum for the next, which finds more and keeps the promise. Choose `benjamini_hochberg` when a known share of
    false finds is fine, as for a first list of candidates.

    observed: [*axes], one score a member. null: [n, *axes], where one draw shuffles the labels of all members alike.
    standardise: compare in standard deviations of each member's null, where members have different scales.
    Cost: a sort of the members and one pass over the null. Raises: ShapeError when the axes differ.
    Source: Westfall & Young 1993, free step-down; p with the observation counted in.
    """
    seen, under = array(observed, "observed"), array(null, "null")
    if under.ndim != seen.ndim + 1 or under.shape[1:] != seen.shape:
        raise ShapeError(
            f"the null has shape {tuple(under.shape)} for a family of shape {tuple(seen.shape)}.\n"
            f"  its first axis are the draws; the others must be those of the family."
        )
    flat, draws = seen.reshape(-1), under.reshape(len(under), -1)
    if standardise:
        middle, spread = draws.mean(0), draws.std(0)
        spread = np.where(spread > 0, spread, 1.0)
        flat, draws = (flat - middle) / spread, (draws - middle) / spread
    if alternative == "less":
        flat, draws = -flat, -draws
    elif alternative == "two-sided":
        flat, draws = np.abs(flat), np.abs(draws)
    elif alternative != "greater":
        raise InputError(f"alternative={alternative!r} is no side; there are 'greater', 'less' and 'two-sided'.")
    maxima = draws.max(1)
    order = np.argsort(-flat, kind="stable")
    if step_down:  # the maximum over this member and all that scored lower
        rest = np.maximum.accumulate(draws[:, order][:, ::-1], axis=1)[:, ::-1]
    else:
        rest = np.repeat(maxima[:, None], len(flat), axis=1)
    p = np.empty_like(flat)
    p[order] = np.maximum.accumulate(permutation_p(flat[order], rest).numpy())
    return Corrected(torch.from_numpy(p.reshape(seen.shape)), torch.from_numpy(maxima))


def benjamini_hochberg(p: Values) -> Float[Tensor, "*axes"]:
    """p values adjusted so that among those below q, a share of at most q is expected to be false.

    `adjusted_(i) = min over j >= i of p_(j) m / j`. Choose it to keep a list of candidates; choose `max_over_family`
    when every single find must hold.

    p: one a member, any shape. Raises: InputError outside [0, 1].
    Source: Benjamini & Hochberg 1995, for members that are independent or depend positively.
    """
    held = array(p, "p")
    if ((held < 0) | (held > 1)).any():
        raise InputError("p values lie between 0 and 1, and some of these do not.")
    flat = held.reshape(-1)
    order = np.argsort(flat)
    scaled = flat[order] * len(flat) / np.arange(1, len(flat) + 1)
    adjusted = np.empty_like(flat)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return torch.from_numpy(adjusted.reshape(held.shape))
