"""Representational similarity analysis: do two sites call the same items far apart?"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.readout import Labels

DISTANCES = ("euclidean", "correlation", "cosine", "crossnobis")
COMPARISONS = ("spearman", "pearson", "kendall", "cosine")
MOST = 60  # items that Kendall's tau compares: (pairs of items)^2 signs


def dissimilarities(
    x: Float[Tensor, "n d"],
    distance: str = "correlation",
    *,
    conditions: Labels | None = None,
    folds: Labels | None = None,
) -> Float[Tensor, "items items"]:
    """The dissimilarity of every two items (RDM), symmetric with an empty diagonal.

    "euclidean": squared, a unit. "correlation": 1 - Pearson over units; blind to each item's mean and length.
    "cosine": 1 - cosine. "crossnobis": `(x_i - x_j)` in one fold times the same in another, a unit, averaged over pairs
    of folds: noise that differs between folds cancels, so 0 means no difference and estimates may be negative.
    conditions: rows of one condition are averaged (inside a fold), items are the sorted conditions. folds: a label a
    row, for crossnobis; every fold needs every condition.
    Cost: items^2 d; 8 items^2 bytes.
    Raises: InputError for a distance that is not there, an item that does not vary, or folds that do not hold all.
    Source: Kriegeskorte et al. 2008; Walther et al. 2016 (crossnobis, here without whitening: whiten x before).
    """
    if distance not in DISTANCES:
        raise InputError(f"distance={distance!r}: there are {', '.join(DISTANCES)}.")
    x = x.detach().double()
    if (distance == "crossnobis") != (folds is not None):
        raise InputError("crossnobis takes folds=, a label a row, and no other distance does.")
    if distance == "crossnobis":
        return _crossnobis(x, conditions, folds)
    if conditions is not None:
        names, code = np.unique(np.asarray(conditions), return_inverse=True)
        x = torch.stack([x[torch.from_numpy(code == c)].mean(0) for c in range(len(names))])
    if distance == "euclidean":
        x = x - x.mean(0)
        size = x.square().sum(1)
        return ((size[:, None] + size - 2 * x @ x.T) / x.shape[1]).clamp(min=0).fill_diagonal_(0)
    if distance == "correlation":
        x = x - x.mean(1, keepdim=True)
    length = x.norm(dim=1, keepdim=True)
    if bool((length == 0).any()):
        raise InputError(f"item {int((length == 0).nonzero()[0, 0])} is constant: it has no {distance} with others.")
    x = x / length
    return (1 - x @ x.T).fill_diagonal_(0)


@dataclass(frozen=True)
class RSA:
    """Agreement of two sites' dissimilarities over all pairs of items.

    Choose "spearman" unless distances are linear in each other; "kendall" (tau-a) where many are tied; "pearson" or
    "cosine" for crossnobis, whose zero means something. Blind to rotation, scale and translation with "euclidean"; sees
    how strongly directions vary, as CKA does. The shuffle exchanges items of one side.
    Cost: items^2 a comparison, and a sort a site; "kendall" items^4, for at most 60 items.
    Parameters: distance, conditions, folds as in `dissimilarities`. compare: how the two are compared.
    Raises: InputError for fewer than four items, and for dissimilarities that are all equal.
    Source: Kriegeskorte et al. 2008; tau-a by Nili et al. 2014.
    """

    distance: str = "correlation"
    compared: str = "spearman"
    conditions: Labels | None = None
    folds: Labels | None = None

    is_distance = False
    symmetric = True

    @property
    def name(self) -> str:
        return f"RSA ({self.distance}, {self.compared})"

    def prepare(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "items items"]:
        if self.compared not in COMPARISONS:
            raise InputError(f"compared={self.compared!r}: there are {', '.join(COMPARISONS)}.")
        rdm = dissimilarities(x, self.distance, conditions=self.conditions, folds=self.folds)
        n = len(rdm)
        if n < 4 or (self.compared == "kendall" and n > MOST):
            raise InputError(
                f"RSA by {self.compared} takes 4 items or more{f', {MOST} at most' * (n > MOST)}; got {n}."
            )
        i, j = torch.triu_indices(n, n, 1, device=x.device)
        values = rdm[i, j]
        if float(values.max() - values.min()) <= 1e-12 * float(values.abs().max()):
            raise InputError("all items are equally far apart, and nothing agrees with that.")
        if self.compared == "spearman":
            values = _ranks(values)
        if self.compared in ("spearman", "pearson"):
            values = values - values.mean()
        if self.compared != "kendall":
            values = values / values.norm()
        out = torch.zeros_like(rdm)
        out[i, j] = out[j, i] = values
        return out

    def items(self, a: Tensor) -> int:
        return len(a)

    def width(self, a: Tensor, b: Tensor) -> int:
        return len(a) ** 2 if self.compared != "kendall" else len(a) ** 4 // 4

    def compare(self, a: Tensor, b: Tensor, orders: Int[Tensor, "c items"]) -> Float[Tensor, " c"]:
        if self.compared == "kendall":
            return _kendall(a, b, orders)
        o = orders.to(b.device)
        return torch.stack([(a * b[p][:, p]).sum() / 2 for p in o]).cpu()


def _kendall(a: Tensor, b: Tensor, orders: Tensor) -> Tensor:
    i, j = torch.triu_indices(len(a), len(a), 1, device=a.device)
    sign: Callable[[Tensor], Tensor] = lambda v: (v[:, None] - v).sign()  # noqa: E731
    mine = sign(a[i, j])
    return torch.stack([(mine * sign(b[p][:, p][i, j])).sum() for p in orders.to(b.device)]).cpu() / (
        len(i) * (len(i) - 1)
    )


def _ranks(values: Tensor) -> Tensor:
    """Ranks, ties sharing their mean."""
    found, place, count = values.unique(return_inverse=True, return_counts=True)
    del found
    return (count.cumsum(0) - (count - 1) / 2)[place].double()


def _crossnobis(x: Tensor, conditions: Labels | None, folds: Labels | None) -> Tensor:
    fold = np.asarray(folds)
    if fold.shape != (len(x),):
        raise InputError(f"folds has the shape {fold.shape} for {len(x)} rows: one label a row.")
    if conditions is None:
        raise InputError("crossnobis takes conditions= as well: which rows of two folds are the same item.")
    kinds, names = np.unique(np.asarray(conditions)), np.unique(fold)
    if len(names) < 2:
        raise InputError("crossnobis takes two folds or more: it multiplies the difference in one with another's.")
    means = []
    for f in names:
        for c in kinds:
            rows = torch.from_numpy((fold == f) & (np.asarray(conditions) == c))
            if not bool(rows.any()):
                raise InputError(f"fold {f!r} has no row of condition {c!r}: every fold needs every condition.")
            means.append(x[rows.to(x.device)].mean(0))
    m = torch.stack(means).reshape(len(names), len(kinds), -1)
    m = m - m.mean((0, 1))
    total = m.sum(0)
    products = (total @ total.T - torch.einsum("fcd,fed->ce", m, m)) / (len(names) * (len(names) - 1) * x.shape[1])
    products = (products + products.T) / 2
    own = products.diagonal()
    return (own[:, None] + own - 2 * products).fill_diagonal_(0)
