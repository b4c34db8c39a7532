"""How well a score ranks yes above no, and how much of that is left among items of the same length.

AUC = share of pairs (a yes, a no) in which the yes has the higher score, ties half. With `by`, only pairs of one
stratum count, and all such pairs count the same: a score that only knows the length falls to 0.5.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.nulls.bootstrap import interval_of
from inscape.core.nulls.permutation import permutation_p
from inscape.core.nulls.ranks import Ordered, strata_of
from inscape.core.nulls.values import Seed, Values, check_draws, flags, generator, resamples, shuffles, vector


@dataclass(frozen=True, eq=False)
class Auc:
    """An area under the ROC curve with its interval and its null.

    plain: the same without strata. n_pairs: pairs that were compared. null: the area with labels shuffled, inside
    their strata.
    """

    value: float
    interval: Interval
    p: float
    null: Float[Tensor, " n"]
    plain: float
    n_pairs: int

    def __float__(self) -> float:
        return self.value


def auc(
    score: Values,
    label: Values,
    *,
    by: Values | None = None,
    n_strata: int = 10,
    n: int = 1000,
    level: float = 0.95,
    alternative: str = "greater",
    seed: Seed = 0,
) -> Auc:
    """The area under the ROC curve of a score, over pairs of about equal length (or whatever `by` is), with its null.

    Give `by` whenever the covariate alone could tell yes from no: long answers are wrong more often, so everything
    that grows with length has an AUC. This is not the partial AUC over a range of false positives.

    score: higher means yes. label: yes or no. by: a number an item, such as its length. n_strata: strata of equal
    size; values are their own strata where there are no more than that. n: resamples, and shuffles.
    Cost: one sort; n passes over the items.
    Raises: InputError when no stratum holds both a yes and a no.
    Source: Mann & Whitney 1947; pooled over strata as in Janes & Pepe 2008; percentile interval by item.
    """
    check_draws(n, level)
    s = vector(score, "score")
    y = flags(label, "label", len(s))
    everything = np.zeros(len(s), dtype=int)
    stratum = everything if by is None else strata_of(vector(by, "by", len(s)), n_strata)
    rng, one = generator(seed), np.ones((1, len(s)))
    value, n_pairs = (float(x[0]) for x in _areas(Ordered(s, stratum), y, stratum, one))
    if n_pairs == 0:
        raise InputError(
            f"{'all labels are alike' if by is None else 'no stratum holds both a yes and a no'}: there is no pair to "
            f"compare.\n  {'measure items of both kinds' if by is None else 'take fewer strata'}."
        )
    ordered = Ordered(s, stratum)
    boot = np.concatenate([_areas(ordered, y, stratum, w)[0] for w in resamples(len(s), n, rng)])
    low = ordered.below(one)[0]  # with unit weights the ranks stay, and only the labels move
    yes = np.bincount(stratum, weights=y)
    own = float((yes * (yes + 0) / 2).sum())  # pairs of a yes with a yes (and itself, as a half)
    null = np.concatenate([(y[o] @ low - own) / n_pairs for o in shuffles(n, stratum, rng)])
    plain = value if by is None else float(_areas(Ordered(s, everything), y, everything, one)[0][0])
    p = float(permutation_p(value, null, alternative))
    return Auc(value, interval_of(value, boot, level, len(s)), p, torch.from_numpy(null), plain, round(n_pairs))


def _areas(
    ordered: Ordered, y: np.ndarray, stratum: np.ndarray, weight: np.ndarray
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"]]:
    """The area and the number of pairs for items that count `weight` times, [b, n]; NaN where there is no pair."""
    won = (weight * y * ordered.below(weight * (1 - y))).sum(1)
    places = np.eye(int(stratum.max()) + 1)[stratum]
    pairs = ((weight * y) @ places * ((weight * (1 - y)) @ places)).sum(1)
    return np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0), pairs
