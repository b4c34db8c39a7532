"""Confidence intervals by drawing the items again.

1. Draw as many items as there are, with replacement, and compute the statistic of the drawn ones; n times.
2. percentile: the interval is the middle `level` of these.
3. bca: the two ends are moved for bias (how many lie below the estimate) and for skew (from leaving out one item each).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.interval import Interval
from inscape.core.nulls.values import CHUNK, Seed, Values, array, check_draws, flags, generator, groups, resamples

NORMAL = NormalDist()


@dataclass(frozen=True, eq=False)
class Intervals:
    """Many estimates with the ends of their intervals, in the shape of what was measured; each by itself at `level`."""

    value: Float[Tensor, "*axes"]
    low: Float[Tensor, "*axes"]
    high: Float[Tensor, "*axes"]
    level: float
    n_items: int


def bootstrap(
    values: Values | tuple[Values, ...],
    statistic: Callable[..., Any] | None = None,
    *,
    by: Values | None = None,
    n: int = 2000,
    level: float = 0.95,
    method: str = "bca",
    seed: Seed = 0,
) -> Interval:
    """The mean of the items, or any statistic of them, with a confidence interval.

    For two conditions on the same items give the differences (`bootstrap(a - b)`), or both with a statistic of both:
    `bootstrap((a, b), lambda a, b: a.mean() / b.mean())` draws their rows together. For a share that is near 0 or 1,
    or of few items, take `share`: a bootstrap of 20 right out of 20 has no width. Many means at once: `bootstrap_each`.

    Resamples of few items vary too little, so the tails are those of Student's t (`tails_of`): of 95 % intervals for
    the mean of 30 items, plain ones hold it in 93 of 100 cases.
    Cost: the mean is one matrix product; a statistic is called n times, and once an item for "bca".
    values: one value (or row) an item, or a tuple of such. statistic: of the drawn rows, in the type that they came in.
    by: the item of each row, where several rows belong to one; whole items are drawn. n: resamples.
    Raises: InputError for NaN, or fewer than two items; ShapeError for several values of different lengths.
    Source: Efron 1987, Better bootstrap confidence intervals (bca), by item; ours draws groups where `by` says so, and
    has the tails of Hesterberg 2015.
    """
    check_draws(n, level)
    several = isinstance(values, tuple) and all(hasattr(v, "__len__") for v in values)
    columns = tuple(_rows(v, f"values {i}") for i, v in enumerate(values)) if several else (_rows(values, "values"),)
    length = len(columns[0])
    if any(len(c) != length for c in columns):
        raise ShapeError(
            f"the values have {', '.join(str(len(c)) for c in columns)} items; all need the same ones, in one order."
        )
    group = _items(by, length)
    if statistic is None:
        if len(columns) != 1 or columns[0].ndim != 1:
            raise ShapeError(
                "the mean needs one number an item.\n  give a statistic, or take bootstrap_each for many means."
            )
        value, boot, jack = _means(array(columns[0], "values")[:, None], group, n, generator(seed))
    else:
        value, boot, jack = _called(statistic, columns, group, n, method == "bca", generator(seed))
    n_items = int(group.max()) + 1
    low, high = _ends(value, boot, jack, level, method, n_items)
    return Interval(float(value[0]), float(low[0]), float(high[0]), level, n_items)


def bootstrap_each(
    values: Values,
    *,
    by: Values | None = None,
    n: int = 2000,
    level: float = 0.95,
    method: str = "bca",
    seed: Seed = 0,
) -> Intervals:
    """The mean over items at every place of an array, each with its interval; all places share the same resamples.

    Choose it for curves, grids and heads ([items, layer, head]); `bootstrap` gives one number. The intervals are not
    widened for how many there are: to say which places differ from nothing, take `max_over_family`.

    Cost: one matrix product [n, items] x [items, places]; memory bounded. Arguments as in `bootstrap`.
    """
    check_draws(n, level)
    held = array(values, "values")
    group = _items(by, len(held))
    flat, seed = held.reshape(len(held), -1), int(generator(seed).integers(2**62))
    width = max(1, CHUNK // n)
    parts = []
    for start in range(0, flat.shape[1], width):  # the same seed: every part sees the same resamples
        value, boot, jack = _means(flat[:, start : start + width], group, n, generator(seed))
        parts.append((value, *_ends(value, boot, jack, level, method, int(group.max()) + 1)))
    value, low, high = (torch.from_numpy(np.concatenate(p).reshape(held.shape[1:])) for p in zip(*parts, strict=True))
    return Intervals(value, low, high, level, int(group.max()) + 1)


def share(right: Values, *, level: float = 0.95) -> Interval:
    """The share of items that are right, with Wilson's interval.

    Choose it for accuracies: its interval has a width at 0 and at 1 and holds for few items, where the bootstrap's
    does not. Items that belong together need `bootstrap(..., by=)`.

    Cost: none. Source: Wilson 1927; coverage in Brown, Cai & DasGupta 2001.
    """
    held = flags(right, "right")
    check_draws(1, level)
    n, p, z = len(held), float(held.mean()), NORMAL.inv_cdf(0.5 + level / 2)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, 0.0 if p == 0 else middle - half, 1.0 if p == 1 else middle + half, level, n)


def interval_of(value: float, boot: Float[np.ndarray, " n"], level: float, n_items: int) -> Interval:
    """The percentile interval of resampled values of so many items; those that are not defined (NaN) are left out.

    Raises: InputError when more than one in ten is not defined.
    """
    kept = boot[np.isfinite(boot)]
    if len(kept) < 0.9 * len(boot):
        raise InputError(
            f"{len(boot) - len(kept)} of {len(boot)} resamples of {n_items} items have no value: too few of one kind.\n"
            f"  measure more items."
        )
    low, high = np.quantile(kept, tails_of(level, n_items))
    return Interval(value, float(low), float(high), level, n_items)


def tails_of(level: float, n_items: int) -> Float[np.ndarray, " 2"]:
    """Which shares of the resamples lie below the ends of an interval: `P(Z < -+ sqrt(n / (n - 1)) t)`, t of n - 1.

    (1 -+ level) / 2 for many items. The variance of resamples is (n - 1) / n of what it should be, and it is estimated:
    both are put right as in an interval by Student's t. Source: Hesterberg 2015, What teachers should know about the
    bootstrap, 5.4 ("expanded percentile"); the quantile of t by its expansion in 1 / (n - 1).
    """
    z, k = NORMAL.inv_cdf(0.5 + level / 2), max(1, n_items - 1)
    t = z + (z**3 + z) / (4 * k) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * k**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * k**3)
    low = max(NORMAL.cdf(-t * (1 + 1 / k) ** 0.5), 1e-12)  # of two items, all resamples
    return np.array([low, 1 - low])


def _rows(values: Values, what: str) -> Any:
    """Tensors stay tensors, the rest becomes arrays, so that a statistic meets what it was written for."""
    array(values, what)
    return values.detach() if isinstance(values, Tensor) else np.asarray(values)


def _items(by: Values | None, length: int) -> Int[np.ndarray, " n"]:
    group = groups(by, "by", length)
    if group.max() < 1:
        raise InputError(
            f"an interval needs two items or more, and there is one{'' if by is None else ' in `by`'}.\n"
            f"  measure more items."
        )
    return group


def _means(
    rows: Float[np.ndarray, "n k"], group: Int[np.ndarray, " n"], n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean [k], its resamples [n, k] and its values without one item each [items, k]."""
    size = np.bincount(group).astype(float)
    total = np.zeros((len(size), rows.shape[1]))
    np.add.at(total, group, rows)
    boot = np.concatenate([(c @ total) / (c @ size)[:, None] for c in resamples(len(size), n, rng)])
    jack = (total.sum(0) - total) / (size.sum() - size)[:, None]
    return rows.mean(0), boot, jack


def _called(
    statistic: Callable[..., Any],
    columns: tuple[Any, ...],
    group: Int[np.ndarray, " n"],
    n: int,
    leave_out: bool,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    members = [np.flatnonzero(group == g) for g in range(group.max() + 1)]

    def of(rows: np.ndarray) -> float:
        drawn = (c[torch.from_numpy(rows).to(c.device)] if isinstance(c, Tensor) else c[rows] for c in columns)
        value = float(statistic(*drawn))
        if not np.isfinite(value):
            raise InputError(
                f"the statistic is {value} on a resample of the {len(members)} items.\n"
                f"  a statistic that needs items of every kind needs more of them."
            )
        return value

    value = of(np.arange(len(group)))
    boot = [of(np.concatenate([members[g] for g in rng.integers(0, len(members), len(members))])) for _ in range(n)]
    jack = [of(np.flatnonzero(group != g)) for g in range(len(members))] if leave_out else []
    return np.array([value]), np.array(boot)[:, None], np.array(jack)[:, None]


def _ends(
    value: np.ndarray, boot: np.ndarray, jack: np.ndarray, level: float, method: str, n_items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the interval of every column."""
    tails = tails_of(level, n_items)
    if method == "percentile":
        low, high = np.quantile(boot, tails, axis=0)
        return low, high
    if method != "bca":
        raise InputError(f"method={method!r} is no bootstrap interval; there are 'bca' and 'percentile'.")
    n = len(boot)
    below = (boot < value).mean(0) + 0.5 * (boot == value).mean(0)
    bias = _inverse(below.clip(0.5 / n, 1 - 0.5 / n))
    off = jack.mean(0) - jack
    spread = (off**2).sum(0) ** 1.5
    skew = np.divide((off**3).sum(0), 6 * spread, out=np.zeros_like(spread), where=spread > 0)
    z = bias + _inverse(tails)[:, None]
    share = _normal(bias + z / (1 - skew * z))
    ordered = np.sort(boot, axis=0)
    place = share.clip(0, 1) * (n - 1)
    under = np.floor(place).astype(int)
    lower, upper = (np.take_along_axis(ordered, np.minimum(i, n - 1), axis=0) for i in (under, under + 1))
    low, high = lower + (place - under) * (upper - lower)
    return low, high


def _normal(z: np.ndarray) -> np.ndarray:
    return torch.special.ndtr(torch.from_numpy(z)).numpy()


def _inverse(p: np.ndarray) -> np.ndarray:
    return torch.special.ndtri(torch.from_numpy(p)).numpy()
