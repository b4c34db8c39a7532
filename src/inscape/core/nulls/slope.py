"""Does being right follow a number, such as how common the answer is? A logistic regression, with its control.

`log odds(right) = intercept + slope x + covariates`, fitted by Newton steps on Firth's penalised likelihood, which has
a finite answer also when x tells right from wrong perfectly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.nulls.bootstrap import interval_of
from inscape.core.nulls.permutation import permutation_p
from inscape.core.nulls.values import (
    Seed,
    Values,
    array,
    check_draws,
    flags,
    generator,
    groups,
    resamples,
    shuffles,
    vector,
)

STEPS, CLOSE = 100, 1e-8


@dataclass(frozen=True, eq=False)
class Slope:
    """A logistic slope, in log odds a unit of x, with its interval and its null.

    null: slopes with x shuffled; a shuffle that has none (it tells right from wrong perfectly) stands there as one as
    large as the slope, so that p is never too small.
    """

    value: float
    interval: Interval
    p: float
    null: Float[Tensor, " n"]

    def __float__(self) -> float:
        return self.value


def logistic_slope(
    x: Values,
    right: Values,
    covariates: Values | None = None,
    *,
    by: Values | None = None,
    firth: bool = True,
    n: int = 1000,
    level: float = 0.95,
    alternative: str = "two-sided",
    seed: Seed = 0,
) -> Slope:
    """How the log odds of being right change with x, other things equal, beside the same with x shuffled.

    The shuffle moves only what the covariates do not explain of x, so that their own effect stays in the null.

    x: one number an item. right: yes or no. covariates: [items, k], held constant. by: the item of each row, where
    several rows belong to one: the interval draws whole items, and the shuffle deals the items' means among items and
    what is left inside each. firth: without it the plain likelihood is maximised.
    Cost: 2n small regressions, solved together.
    Raises: InputError when x is constant or follows from the covariates; when all are right or all wrong; and without
    firth when x or a covariate tells right from wrong perfectly, as the slope is then infinite.
    Source: Firth 1993 and Heinze & Schemper 2002; null of Potter 2005 (permuted residuals); interval by item,
    percentile, where they take the profile likelihood.
    """
    check_draws(n, level)
    held = vector(x, "x")
    y = flags(right, "right", len(held))
    if y.min() == y.max():
        raise InputError(f"all {len(y)} items are {'right' if y[0] else 'wrong'}, so nothing can follow from x.")
    others = np.ones((len(held), 1))
    if covariates is not None:
        extra = array(covariates, "covariates").reshape(len(held), -1)
        spread = extra.std(0)
        others = np.concatenate([others, (extra - extra.mean(0)) / np.where(spread > 0, spread, 1.0)], axis=1)
    # The part of x that the covariates explain moves into their coefficients; the slope stays the same.
    rest = held - others @ np.linalg.lstsq(others, held, rcond=None)[0]
    scale = float(rest.std())
    if scale <= 1e-9 * max(float(np.abs(held).max()), 1e-300):
        raise InputError("x is constant, or follows from the covariates: it has no slope of its own.")
    design = np.concatenate([(rest / scale)[:, None], others], axis=1)
    group = groups(by, "by", len(held))
    rng, one = generator(seed), np.ones((1, len(held)))
    value = float(_slopes(design[None], y, one, firth)[0]) / scale
    if not np.isfinite(value):
        more = "there are too few items for a slope." if firth else "take firth=True."
        raise InputError(f"x and the covariates tell right from wrong perfectly, so the slope is infinite.\n  {more}")
    boot = np.concatenate(
        [_slopes(design[None], y, w[:, group], firth) for w in resamples(int(group.max()) + 1, n, rng)]
    )
    null = np.concatenate([_with_x(design, y, x, one, firth) for x in _shuffled(design[:, 0], group, n, rng)])
    null = np.where(np.isfinite(null), null, value * scale)  # without a slope, it counts as one as large
    p = float(permutation_p(value, null / scale, alternative))
    interval = interval_of(value, boot / scale, level, int(group.max()) + 1)
    return Slope(value, interval, p, torch.from_numpy(null / scale))


def _shuffled(
    x: Float[np.ndarray, " m"], group: Int[np.ndarray, " m"], n: int, rng: np.random.Generator
) -> Iterator[Float[np.ndarray, "chunk m"]]:
    """x dealt anew, n times: the groups' means among groups, and what is left within each group.

    Rows of one group are no independent draws: shuffled one by one they would make any slope look rare.
    """
    mean = np.bincount(group, weights=x) / np.bincount(group)
    within = x - mean[group]
    among = shuffles(n, np.zeros(len(mean), dtype=int), rng)
    if np.abs(within).max() <= 1e-12:  # every row its own group, or x the same in each
        yield from (mean[order][:, group] for order in among)
        return
    rows = (order for chunk in shuffles(n, group, rng) for order in chunk)
    for order in among:
        yield mean[order][:, group] + within[np.stack(list(islice(rows, len(order))))]


def _with_x(design: np.ndarray, y: np.ndarray, x: np.ndarray, one: np.ndarray, firth: bool) -> np.ndarray:
    moved = np.repeat(design[None], len(x), axis=0)
    moved[:, :, 0] = x
    return _slopes(moved, y, one, firth)


def _slopes(
    design: Float[np.ndarray, "b1 n k"], y: Float[np.ndarray, " n"], weight: Float[np.ndarray, "b2 n"], firth: bool
) -> Float[np.ndarray, " b"]:
    """The first coefficient of every regression; b1 and b2 are equal or 1. NaN where the steps do not settle."""
    b = max(len(design), len(weight))
    beta = np.zeros((b, design.shape[2]))
    moving = np.ones(b, dtype=bool)
    for _ in range(STEPS):
        x = design if len(design) == 1 else design[moving]
        w = weight if len(weight) == 1 else weight[moving]
        p = 1 / (1 + np.exp(-np.clip((x @ beta[moving, :, None])[..., 0], -500, 500)))
        fisher = w * p * (1 - p)
        information = np.swapaxes(x, 1, 2) @ (fisher[..., None] * x) + 1e-12 * np.eye(x.shape[2])
        inverse = np.linalg.pinv(information, hermitian=True)
        error = w * (y - p)
        if firth:  # plus half the leverage towards 0.5
            leverage = fisher * ((x @ inverse) * x).sum(-1)
            error = error + leverage * (0.5 - p)
        step = (inverse @ (np.swapaxes(x, 1, 2) @ error[..., None]))[..., 0]
        step *= np.minimum(1.0, 5.0 / np.maximum(np.abs(step).max(1, keepdims=True), 1e-300))
        beta[moving] += step
        moving[moving] = np.abs(step).max(1) > CLOSE
        if not moving.any():
            break
    beta[moving | (np.abs(beta).max(1) > 40)] = np.nan
    return beta[:, 0]
