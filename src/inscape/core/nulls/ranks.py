"""Ranks of items that count several times, as they do in a resample: what AUC and rank correlation share."""

import numpy as np
from jaxtyping import Float, Int


class Ordered:
    """Items in the order of a score inside their strata, with their ties, found once for all resamples."""

    def __init__(self, score: Float[np.ndarray, " n"], stratum: Int[np.ndarray, " n"]) -> None:
        self.order = np.lexsort((score, stratum))
        sorted_score, sorted_stratum = score[self.order], stratum[self.order]
        new_stratum = np.r_[True, sorted_stratum[1:] != sorted_stratum[:-1]]
        new_value = new_stratum | np.r_[True, sorted_score[1:] != sorted_score[:-1]]
        self.stratum_first, _ = _ends(new_stratum)
        self.first, self.last = _ends(new_value)

    def below(self, weight: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b n"]:
        """The weight of items of the same stratum with a lower score, and half the weight of those with the same.

        Items in the order they were given in.
        """
        total = np.concatenate([np.zeros((len(weight), 1)), np.cumsum(weight[:, self.order], axis=1)], axis=1)
        under = total[:, self.first] - total[:, self.stratum_first]
        tied = total[:, self.last + 1] - total[:, self.first]
        out = np.empty_like(under)
        out[:, self.order] = under + 0.5 * tied
        return out


def strata_of(by: Float[np.ndarray, " n"], n_strata: int) -> Int[np.ndarray, " n"]:
    """Equal values together where there are at most n_strata, else that many strata of about equal size."""
    values, code = np.unique(by, return_inverse=True)
    if len(values) <= n_strata:
        return code
    edges = np.quantile(by, np.linspace(0, 1, n_strata + 1)[1:-1])
    return np.searchsorted(edges, by, side="right")


def _ends(new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each place the first and the last place of its run; `new` marks where runs begin."""
    starts = np.flatnonzero(new)
    run = np.cumsum(new) - 1
    return starts[run], np.r_[starts[1:], len(new)][run] - 1
