"""Do two scores of the same items agree?"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.nulls.bootstrap import interval_of
from inscape.core.nulls.permutation import permutation_p
from inscape.core.nulls.ranks import Ordered
from inscape.core.nulls.values import Seed, Values, check_draws, generator, groups, resamples, shuffles, vector


@dataclass(frozen=True, eq=False)
class Correlation:
    """A correlation with its interval and its null; null: the correlation with one side shuffled."""

    value: float
    interval: Interval
    p: float
    null: Float[Tensor, " n"]

    def __float__(self) -> float:
        return self.value


def correlation(
    x: Values,
    y: Values,
    *,
    kind: str = "spearman",
    within: Values | None = None,
    n: int = 1000,
    level: float = 0.95,
    alternative: str = "two-sided",
    seed: Seed = 0,
) -> Correlation:
    """The correlation of two scores over items, by rank or by value, with an interval and a permutation p value.

    Choose "spearman" (ranks, ties shared) unless the size of the differences is itself the claim; a few large values
    make any "pearson". within: shuffle only among items of one group, where groups differ in both scores anyway.

    Cost: two sorts; n passes over the items for the interval and n for the null.
    Raises: InputError when one side has one value only, or with fewer than three items.
    Source: Spearman 1904; percentile interval by item, ranks formed anew in every resample.
    """
    check_draws(n, level)
    a = vector(x, "x")
    b = vector(y, "y", len(a))
    if len(a) < 3:
        raise InputError(f"{len(a)} items correlate always.\n  measure three or more; an interval needs dozens.")
    for name, side in (("x", a), ("y", b)):
        if np.ptp(side) == 0:
            raise InputError(f"{name} is {side[0]:g} for every item, and a constant correlates with nothing.")
    if kind not in ("spearman", "pearson"):
        raise InputError(f"kind={kind!r} is none of 'spearman' and 'pearson'.")
    everything = np.zeros(len(a), dtype=int)
    sides = (Ordered(a, everything), Ordered(b, everything)) if kind == "spearman" else None
    rng, one = generator(seed), np.ones((1, len(a)))

    def of(weight: np.ndarray) -> np.ndarray:
        ranks = [s.below(weight) for s in sides] if sides else [a[None], b[None]]
        return _pearson(ranks[0], ranks[1], weight)

    value = float(of(one)[0])
    boot = np.concatenate([of(w) for w in resamples(len(a), n, rng)])
    ra, rb = (s.below(one)[0] for s in sides) if sides else (a, b)
    group = everything if within is None else groups(within, "within", len(a))
    null = np.concatenate([_pearson(ra[None], rb[o], one) for o in shuffles(n, group, rng)])
    p = float(permutation_p(value, null, alternative))
    return Correlation(value, interval_of(value, boot, level, len(a)), p, torch.from_numpy(null))


def rank_correlation(x: Values, y: Values) -> float:
    """Spearman's rank correlation alone, ties shared: for the few points of a curve, which no resample can judge.

    Choose `correlation` for scores of items. Raises: InputError as there. Source: Spearman 1904.
    """
    a = vector(x, "x")
    b = vector(y, "y", len(a))
    for name, side in (("x", a), ("y", b)):
        if len(a) < 3 or np.ptp(side) == 0:
            raise InputError(
                f"{name} has too few points that differ ({len(set(side.tolist()))} of {len(a)}) for ranks."
            )
    one, everything = np.ones((1, len(a))), np.zeros(len(a), dtype=int)
    return float(_pearson(Ordered(a, everything).below(one), Ordered(b, everything).below(one), one)[0])


def _pearson(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> Float[np.ndarray, " rows"]:
    """The correlation of each row where items count `weight` times; NaN where one side is constant."""
    total = weight.sum(1, keepdims=True)
    da, db = (v - (weight * v).sum(1, keepdims=True) / total for v in (a, b))
    both, va, vb = ((weight * v).sum(1) for v in (da * db, da * da, db * db))
    spread = np.sqrt(va * vb)
    return np.divide(both, spread, out=np.full(len(spread), np.nan), where=spread > 0)
