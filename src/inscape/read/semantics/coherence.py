"""How much of what carries an answer comes from concepts that the context is about."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls import Correlation, correlation, permutation_p
from inscape.core.nulls.ranks import Ordered
from inscape.read.semantics.support import Support


def coherence(
    support: Support, plus: Sequence[Sequence[int]], minus: Sequence[Sequence[int]], *, target: int = 0
) -> Float[Tensor, " row"]:
    """DSS, the semantic support that is the context's: between 0 and 1, one number a row; NaN where nothing supports.

    `sum_l sum_{u in C+} max(S_l(u -> y), 0) / sum_l sum_{u in C+ or C-} |S_l(u -> y)|`, the answer y itself left out.
    plus, minus: token ids of the concepts that fit the context (C+) and of the association (C-), row by row, among
        those of `support`. Fix them before the answer is looked at: chosen by it, the number says what was put in.
    Cost: none. Raises: ShapeError for lists that are not one a row; InputError where a concept is on both sides or was
    not measured.
    Source: the semantic strength of arXiv:2510.06107 (contextual alignment in its revision), our operational form.
    """
    if not len(plus) == len(minus) == len(support):
        raise ShapeError(f"{len(support)} rows were measured; {len(plus)} lists of C+ and {len(minus)} of C-.")
    out = []
    for i, value in enumerate(support.values):
        ids, answer = support.concepts[i], int(support.targets[i][target])
        both = set(plus[i]) & set(minus[i])
        lost = (set(plus[i]) | set(minus[i])) - set(ids.tolist())
        if both or lost:
            what = "stand on both sides" if both else "were not measured"
            raise InputError(
                f"concepts {sorted(both or lost)} of row {i} {what}: C+ and C- part the measured concepts."
            )
        mine = torch.isin(ids, torch.tensor(sorted(plus[i]), dtype=torch.long)) & (ids != answer)
        theirs = torch.isin(ids, torch.tensor(sorted(minus[i]), dtype=torch.long)) & (ids != answer)
        one = value[..., target].double()
        whole = one[:, mine | theirs].abs().sum()
        out.append(one[:, mine].clamp(min=0).sum() / whole if float(whole) > 0 else torch.tensor(torch.nan))
    return torch.stack(out)


@dataclass(frozen=True, eq=False)
class BinnedErrors:
    """Error rates in bins of a score. rho: Spearman's of bin and rate, p of shuffled errors; null: its draws.

    items: the correlation of score and error item by item, with its interval.
    """

    score: Float[Tensor, " bin"]
    error_rate: Float[Tensor, " bin"]
    rho: float
    p: float
    null: Float[Tensor, " n"]
    items: Correlation


def binned_errors(
    score: Float[Tensor, " item"], wrong: Bool[Tensor, " item"], *, n_bins: int = 10, n: int = 1000, seed: int = 0
) -> BinnedErrors:
    """Do errors go with a score? Error rates in `n_bins` bins of equal size, their rank correlation, and its null.

    The correlation of ten bins is near 1 for weak effects, and near 0 only on average without any: look at the null.
    Items with a score of NaN are left out. Cost: n sorts of bins.
    Raises: InputError for fewer items than two a bin.
    """
    kept = ~score.isnan()
    s, w = score[kept].double().numpy(), wrong[kept].double().numpy()
    if len(s) < 2 * n_bins or n_bins < 3:
        raise InputError(f"{len(s)} items cannot go into {n_bins} bins: three bins or more, of two items or more.")
    order = np.argsort(s, kind="stable")
    parts = np.array_split(order, n_bins)
    rng = np.random.default_rng(seed)

    def rho(errors: np.ndarray) -> float:
        rates = np.array([errors[p].mean() for p in parts])
        if np.ptp(rates) == 0:
            return 0.0
        ranks = Ordered(rates, np.zeros(n_bins, int)).below(np.ones((1, n_bins)))[0]
        return float(np.corrcoef(ranks, np.arange(n_bins))[0, 1])

    found = rho(w)
    null = torch.tensor([rho(rng.permutation(w)) for _ in range(n)], dtype=torch.float64)
    rates = torch.tensor([w[p].mean() for p in parts])
    p = float(permutation_p(found, null, "two-sided"))
    means = torch.tensor([s[p].mean() for p in parts])
    return BinnedErrors(means, rates, found, p, null, correlation(s, w, n=n, seed=seed))
