"""How well scores detect something, on items that were not learned from."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.nulls import bootstrap, permutation_test
from inscape.core.nulls.ranks import Ordered
from inscape.core.progress import Progress, tell
from inscape.core.readout import Labels, labels_of
from inscape.read.signatures.signature import Signatures
from inscape.tasks.split import folds


@dataclass(frozen=True, eq=False)
class Detection:
    """An area under the ROC curve, its interval, and how often shuffled labels give as much.

    auc: over all items, or the mean over folds where a readout was fitted for each. p: of shuffled labels; of several
    folds twice the mean of their own. by_fold: one a fold. scores: of every item, by the readout that did not see it.
    """

    auc: Interval
    p: float
    n_yes: int
    n_no: int
    by_fold: tuple[float, ...] = ()
    scores: Float[Tensor, " item"] | None = None

    def __float__(self) -> float:
        return self.auc.value


def detect(
    scores: Labels, labels: Labels, groups: Labels | None = None, *, n: int = 1000, level: float = 0.95, seed: int = 0
) -> Detection:
    """The area under the ROC curve of scores, with an interval and a permutation p value.

    groups: what items belong together (answers to one prompt, chunks of one document): whole groups are drawn for the
    interval, and labels are shuffled in whole groups where these have one label each, else inside them.
    `core.nulls.auc(by=length)` compares only items of equal length: what to ask when length itself tells the label.
    Cost: n sorts. Raises: InputError for labels of one kind, or groups too few to draw from; ShapeError for numbers
    that do not fit.
    """
    value = torch.as_tensor(labels_of(scores, len(scores), "scores")).double()
    yes = check_labels(labels, len(value))

    auc = bootstrap((value, yes), _area_or_half, by=groups, n=n, level=level, method="percentile", seed=seed)
    code = None if groups is None else torch.as_tensor(_codes(groups, len(yes)))
    return Detection(auc, _p_of_shuffles(value, yes, code, n, seed), int(yes.sum()), int((~yes).sum()))


def cross_validated(
    readout: Any,
    x: Signatures,
    y: Labels,
    groups: Labels | None = None,
    *,
    n_folds: int = 5,
    tested: int | None = None,
    n: int = 500,
    seed: int = 0,
    progress: Progress = None,
) -> Detection:
    """What a readout detects in items it was not fitted on: test on fold i, stop by fold i + 1, fit on the others.

    readout: a `LOSNet`, a `SignatureBaseline`, anything with fit(x, y, valid=) and decision; a copy is fitted a fold.
    groups: never on two sides of a split. tested: how many of the folds to test on, all when None; the items of the
    others have the score NaN. The area is the mean of the folds' own (scores of different fits are on different
    scales), its interval from drawing items (or groups) of each fold again.
    p: in every fold labels are shuffled as `detect` shuffles them, whole groups where a group has one. Folds are no
    independent tests, as each one's labels taught the others' readouts: p is twice the mean of theirs, which holds
    however they depend on each other (Vovk & Wang 2020, arXiv:1212.4966). One tested fold keeps its own.
    n: resamples, and shuffles. Cost: a fit a tested fold. Raises: as `detect` and the readout.
    """
    yes = check_labels(y, len(x))
    fold = folds(yes, groups, n=n_folds, seed=seed)
    scores = torch.full((len(x),), torch.nan, dtype=torch.float64)
    for i in range(n_folds if tested is None else tested):
        tell(progress, f"fold {i + 1}", i / n_folds)
        test, valid = fold == i, fold == (i + 1) % n_folds
        rest = ~(test | valid)
        fitted = copy.copy(readout).fit(x.select(rest), yes[rest], valid=(x.select(valid), yes[valid]))
        scores[test] = fitted.decision(x.select(test)).double()
    seen = ~scores.isnan()
    held, truth, place = scores[seen], yes[seen], fold[seen]

    def mean(s: Tensor, t: Tensor, f: Tensor) -> float:
        each = [area(s[f == i], t[f == i]) for i in f.unique() if bool(t[f == i].any()) and not bool(t[f == i].all())]
        return sum(each) / len(each) if each else 0.5

    by = torch.as_tensor(_codes(groups, len(x)))[seen] if groups is not None else None
    auc = bootstrap((held, truth, place), mean, by=by, n=n, method="percentile", seed=seed)
    parts = [place == i for i in place.unique()]
    own = [
        _p_of_shuffles(held[part], truth[part], None if by is None else by[part], n, seed + i)
        for i, part in enumerate(parts)
        if bool(truth[part].any()) and not bool(truth[part].all())
    ]
    p = own[0] if len(own) == 1 else min(1.0, 2 * sum(own) / len(own)) if own else 1.0
    each = tuple(area(held[part], truth[part]) for part in parts)
    return Detection(auc, p, int(truth.sum()), int((~truth).sum()), each, scores)


def _area_or_half(scores: Tensor, yes: Tensor) -> float:
    """The area; a half where a resample holds one kind only."""
    return area(scores, yes) if bool(yes.any()) and not bool(yes.all()) else 0.5


def _p_of_shuffles(value: Tensor, yes: Tensor, code: Tensor | None, n: int, seed: int) -> float:
    """How often shuffled labels give as large an area: whole groups change theirs where each has one, else inside."""
    if code is None:
        return permutation_test(lambda y: _area_or_half(value, y), yes, n=n, seed=seed).p
    group = torch.unique(code, return_inverse=True)[1]
    count = torch.bincount(group)
    share = torch.zeros(len(count)).index_add(0, group, yes.float()) / count
    if bool(((share > 0) & (share < 1)).any()):
        return permutation_test(lambda y: _area_or_half(value, y), yes, within=group, n=n, seed=seed).p
    return permutation_test(lambda g: _area_or_half(value, g[group]), share > 0.5, n=n, seed=seed).p


def area(scores: Float[Tensor, " item"], yes: Bool[Tensor, " item"]) -> float:
    """The share of pairs (a yes, a no) in which the yes has the higher score, ties half. Raises: InputError."""
    y = yes.bool().cpu().numpy()
    if y.all() or not y.any():
        raise InputError("all labels are alike, so there is no pair to compare: items of both kinds are needed.")
    s = scores.detach().double().cpu().numpy()
    below = Ordered(s, (y * 0)).below((1.0 - y)[None])[0]
    return float(below[y].sum() / (y.sum() * (~y).sum()))


def check_labels(y: Labels, n: int) -> Bool[Tensor, " item"]:
    """Yes or no an item. Raises: InputError for other labels or only one kind, ShapeError for another number."""
    held = torch.as_tensor(labels_of(y, n))
    if not bool(((held == 0) | (held == 1)).all()):
        raise InputError(f"labels must be yes or no (True and False, 1 and 0), and hold {held.unique().tolist()[:5]}.")
    yes = held.bool()
    if bool(yes.all()) or not bool(yes.any()):
        raise InputError("all labels are alike: a detector needs items of both kinds.")
    return yes


def _codes(groups: Labels, n: int) -> Int[Any, " item"]:
    import numpy as np

    return np.unique(labels_of(groups, n, "groups"), return_inverse=True)[1]
