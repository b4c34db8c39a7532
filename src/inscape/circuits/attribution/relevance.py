"""Can an estimate be trusted here? Its rank correlation with the exact sweep of the same places."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.grid import Grid
from inscape.core.interval import Interval
from inscape.core.nulls.bootstrap import bootstrap
from inscape.core.nulls.correlation import correlation
from inscape.core.nulls.ranks import Ordered


@dataclass(frozen=True)
class Relevance:
    """How well estimates rank places: 1 as the exact sweep does, 0 not at all.

    rank: Spearman's correlation of the two grids' changes, with its interval; over: what the interval is over, "pairs",
    or with one pair "cells", which are not independent, so that it is too narrow. p: of a correlation as large with the
    places shuffled. control: the same correlation for the control of the estimates, if they have one. value: Pearson's,
    which also asks for the right sizes. top: share of the n places of largest exact change that are among the n of
    largest estimate; n_top: that n.
    """

    rank: Interval
    over: str
    p: float
    value: float
    top: float
    n_top: int
    control: float | None = None


def relevance(estimates: Grid, exact: Grid, *, n_top: int | None = None, n: int = 1000, seed: int = 0) -> Relevance:
    """Rank correlation of estimated with exactly measured changes, over all cells of the grid.

    Changes are those from the base run, the mean over pairs. n_top: a tenth of the places when left out.
    n: resamples of pairs, and orders of the null. Cost: none on the model.
    Raises: InputError for grids of other places, pairs or direction.
    """
    if estimates.axes != exact.axes or estimates.labels != exact.labels:
        raise InputError(
            f"the two grids are of other places: {estimates.axes} with {tuple(map(len, estimates.labels))} entries, "
            f"{exact.axes} with {tuple(map(len, exact.labels))}.\n  ask both for the same sites, positions and heads."
        )
    if len(estimates.base) != len(exact.base) or not np.allclose(estimates.base, exact.base, rtol=0.02, atol=0.02):
        raise InputError(
            "the two grids start from other runs: their base metrics differ.\n"
            "  give both the same pairs, metric and direction."
        )
    told, done = (_changes(g.per_pair, g.base) for g in (estimates, exact))
    flat = correlation(told.mean(0), done.mean(0), n=n, seed=seed)
    rank, over = flat.interval, "cells"
    if len(told) > 1:
        rank, over = bootstrap((told, done), _spearman, method="percentile", n=n, seed=seed), "pairs"
    a, b = np.abs(told.mean(0)), np.abs(done.mean(0))
    k = n_top or max(1, len(a) // 10)
    top = len(set(np.argsort(-a)[:k]) & set(np.argsort(-b)[:k])) / k
    other = getattr(estimates, "control", None)
    control = None
    if other is not None:
        known = ~np.isnan(_changes(other.per_pair, other.base)).any(1)
        control = _spearman(_changes(other.per_pair, other.base)[known], done[known])
    value = float(np.corrcoef(told.mean(0), done.mean(0))[0, 1])
    return Relevance(rank, over, flat.p, value, top, k, control)


def _changes(per_pair: Tensor, base: Tensor) -> np.ndarray:
    return (per_pair.flatten(1) - base[:, None]).double().numpy()


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    one, flat = np.ones((1, a.shape[1])), np.zeros(a.shape[1], dtype=int)
    ranks = [Ordered(x.mean(0), flat).below(one)[0] for x in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
