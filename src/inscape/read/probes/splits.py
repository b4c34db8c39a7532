"""Which rows are held out: folds in which no group is on both sides and every class is everywhere."""

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.readout import Labels, labels_of


def folds_of(
    y: Labels, n: int = 5, *, groups: Labels | None = None, stratify: bool = True, seed: int = 0
) -> Int[Tensor, " rows"]:
    """The fold of every row, from 0 to n - 1: rows of one group (a prompt, a city, a subject) are in one fold.

    stratify: every fold gets about its share of each class: of single rows exactly, of groups as well as a greedy
    division, largest groups first, can. Leave it off for numbers.
    Raises: InputError for fewer groups than folds, or a class of fewer groups than two; ShapeError.
    """
    rows = len(y)
    labels = labels_of(y, rows)
    if n < 2:
        raise InputError(f"{n} folds hold nothing out; take 2 or more.")
    kinds = np.unique(labels, return_inverse=True)[1] if stratify else np.zeros(rows, int)
    names, group = np.unique(
        np.arange(rows) if groups is None else labels_of(groups, rows, "groups"), return_inverse=True
    )
    if len(names) < n:
        raise InputError(f"{len(names)} groups cannot make {n} folds: a group is never on both sides.")
    amount = np.zeros((len(names), int(kinds.max()) + 1))
    np.add.at(amount, (group, kinds), 1)
    thin = [k for k in range(amount.shape[1]) if (amount[:, k] > 0).sum() < 2]
    if thin:
        raise InputError(
            f"class {np.unique(labels).tolist()[thin[0]]!r} is in one group alone, so it cannot be both learned and "
            "tested.\n  leave it out, or give finer groups."
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(names))
    order = order[np.argsort(-amount[order].sum(1), kind="stable")]
    share = amount.sum(0) / n
    filled = np.zeros((n, amount.shape[1]))
    fold = np.empty(len(names), int)
    tie = rng.permutation(n)
    for g in order:
        after = ((filled + amount[g]) / share) ** 2 - (filled / share) ** 2
        cost = after.sum(1) + 1e-9 * filled.sum(1)
        fold[g] = tie[np.argmin(cost[tie])]
        filled[fold[g]] += amount[g]
    if np.bincount(fold, minlength=n).min() == 0:
        raise InputError(f"{len(names)} groups of unlike size left one of {n} folds empty: take fewer folds.")
    return torch.from_numpy(fold[group])


def split_of(
    test: Labels, rows: int, groups: Labels | None = None
) -> tuple[Int[Tensor, " train"], Int[Tensor, " test"]]:
    """Rows to train on and rows to test on, from a mask or the numbers of those to test on.

    Raises: InputError when a group is on both sides, or a side is empty.
    """
    held = np.asarray(test.cpu() if isinstance(test, Tensor) else test)
    mask: Bool[np.ndarray, " rows"] = np.zeros(rows, bool)
    if held.dtype == bool:
        if held.shape != (rows,):
            raise ShapeError(f"a mask of {held.shape} for {rows:,} rows: one a row.")
        mask = held
    elif held.size and (held.dtype.kind not in "iu" or held.min() < 0 or held.max() >= rows):
        raise InputError(f"test= is a mask over rows, or row numbers below {rows:,}.")
    else:
        mask[held.astype(int)] = True
    if mask.all() or not mask.any():
        raise InputError(f"{int(mask.sum()):,} of {rows:,} rows are held out: there must be some on both sides.")
    if groups is not None:
        group = labels_of(groups, rows, "groups")
        both = np.intersect1d(group[mask], group[~mask])
        if len(both):
            raise InputError(f"group {both.tolist()[0]!r} and {len(both) - 1} others are on both sides of the split.")
    return torch.from_numpy(np.flatnonzero(~mask)), torch.from_numpy(np.flatnonzero(mask))
