"""Is a score above what it would be if the labels meant nothing? Shuffle them and see."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls.values import Seed, Values, array, check_draws, generator, groups, shuffles

TIES = 1e-12  # relative: sums of the same numbers in another order are the same value


@dataclass(frozen=True, eq=False)
class Tested:
    """A statistic beside what it is when there is nothing to find.

    null: its values under the null. p: how often those are as extreme, the observed one counted in.
    """

    observed: float
    p: float
    null: Float[Tensor, " n"]
    alternative: str = "greater"

    def quantile(self, q: float) -> float:
        """What the null stays below in a share q of cases: 0.95 gives the line to beat at 5 %."""
        return float(np.quantile(self.null.numpy(), q))

    @property
    def z(self) -> float:
        """How many standard deviations of the null the observed value is from its mean."""
        spread = float(self.null.std(correction=0))
        return (self.observed - float(self.null.mean())) / spread if spread > 0 else float("nan")


def permutation_p(observed: Values | float | int, null: Values, alternative: str = "greater") -> Float[Tensor, "*axes"]:
    """The p value of an observation among values under the null: `(1 + k) / (1 + n)`, k of the n as extreme.

    The 1 counts the observation itself: without it a p of 0 is possible, which no finite null can show. Two-sided is
    twice the smaller tail. Many observations at once: observed [*axes], null [n, *axes]; each is compared by itself
    (`max_over_family` corrects for having looked at all of them).

    Raises: ShapeError when the null has other axes than the observation behind its first.
    Source: Phipson & Smyth 2010, Permutation p-values should never be zero.
    """
    seen = array(np.asarray(observed) if isinstance(observed, float | int) else observed, "observed")
    under = array(null, "null")
    if under.shape[1:] != seen.shape:
        raise ShapeError(
            f"the null has shape {tuple(under.shape)} for an observation of shape {tuple(seen.shape)}.\n"
            f"  its first axis are the draws; the others must be those of the observation."
        )
    slack = TIES * np.abs(seen)
    up = (1 + (under >= seen - slack).sum(0)) / (1 + len(under))
    down = (1 + (under <= seen + slack).sum(0)) / (1 + len(under))
    return torch.as_tensor(_side(up, down, alternative))


def permuted(
    statistic: Callable[[Any], Any], labels: Values, *, within: Values | None = None, n: int = 1000, seed: Seed = 0
) -> Float[Tensor, "n *axes"]:
    """A statistic of shuffled labels, n times: the null of `permutation_p` and, for many scores, of `max_over_family`.

    statistic: of labels in any order, in the type they came in; a number, or an array of them.
    within: labels change places only with those of the same group (a class, a subject, a length).
    Cost: n calls. Raises: InputError when no label can change its place.
    """
    check_draws(n)
    held = labels if isinstance(labels, Tensor) else np.asarray(labels)
    if held.ndim == 0 or len(held) < 2:
        raise InputError("one label cannot be shuffled.\n  give the labels of all items.")
    group = np.zeros(len(held), dtype=int) if within is None else groups(within, "within", len(held))
    if np.bincount(group).max() < 2:
        raise InputError(
            "every group of `within` holds one item, so no label can change its place.\n  take larger groups."
        )
    out = []
    for orders in shuffles(n, group, generator(seed)):
        for order in orders:
            index = torch.from_numpy(order).to(held.device) if isinstance(held, Tensor) else order
            out.append(torch.as_tensor(statistic(held[index])).detach().cpu().double())
    return torch.stack(out)


def permutation_test(
    statistic: Callable[[Any], Any],
    labels: Values,
    *,
    within: Values | None = None,
    n: int = 1000,
    seed: Seed = 0,
    alternative: str = "greater",
) -> Tested:
    """A statistic of the labels beside its values with shuffled labels, and the p value.

    Choose `sign_flip_test` for differences of two conditions on the same items, `permuted` with `max_over_family`
    for a statistic of many heads or layers. Items must be exchangeable under the null: where they come in groups that
    differ anyway, shuffle inside them (`within`).

    Arguments, cost and errors as in `permuted`. Source: Fisher 1935; the p value as in `permutation_p`.
    """
    held = labels if isinstance(labels, Tensor) else np.asarray(labels)
    null = permuted(statistic, held, within=within, n=n, seed=seed)
    if null.ndim != 1:
        raise ShapeError(
            f"the statistic gives {tuple(null.shape[1:])} numbers, and a test needs one.\n"
            f"  take permuted(...) with max_over_family for many."
        )
    observed = float(statistic(held))
    return Tested(observed, float(permutation_p(observed, null, alternative)), null, alternative)


def _side(up: Any, down: Any, alternative: str) -> Any:
    if alternative == "greater":
        return up
    if alternative == "less":
        return down
    if alternative == "two-sided":
        return np.minimum(1.0, 2 * np.minimum(up, down))
    raise InputError(f"alternative={alternative!r} is no side; there are 'greater', 'less' and 'two-sided'.")
