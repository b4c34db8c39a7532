"""Splits of a task's items that keep together what belongs together: whole answers, whole groups."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls.ranks import strata_of
from inscape.core.nulls.values import groups as groups_of


def split_by_answer(
    answers: Sequence[str],
    *,
    stratify: Sequence[float] | None = None,
    test: float = 0.5,
    n_strata: int = 4,
    seed: int = 0,
) -> tuple[list[int], list[int]]:
    """Items to train on and items to test on, of which no answer is in both: what is learned cannot be the answers.

    stratify: a number an item (the same for all items of an answer), such as the answer's log prior: answers are drawn
    within its `n_strata` quantiles, so that common and rare ones are on both sides. test: share of the answers.
    Returns indices in the order given. Raises: InputError when a side would be empty, ShapeError for unequal lists.
    """
    if stratify is not None and len(stratify) != len(answers):
        raise ShapeError(f"{len(answers)} answers and {len(stratify)} numbers to stratify by: give one an item.")
    if not 0 < test < 1:
        raise InputError(f"test={test}: it is the share of answers held out, between 0 and 1.")
    different = list(dict.fromkeys(answers))
    first = {answer: i for i, answer in reversed(list(enumerate(answers)))}
    number = np.array([0.0 if stratify is None else float(stratify[first[a]]) for a in different])
    stratum = strata_of(number, n_strata)
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(different)), stratum))  # shuffled inside each stratum
    taken = np.diff(np.floor((np.arange(len(different) + 1) + rng.random()) * test)) > 0  # evenly spaced, random start
    held = {different[i] for i, is_test in zip(order, taken, strict=True) if is_test}
    if not held or len(held) == len(different):
        raise InputError(
            f"{len(different)} different answers cannot be split with test={test}: one side would be empty."
        )
    sides: tuple[list[int], list[int]] = ([], [])
    for i, answer in enumerate(answers):
        sides[answer in held].append(i)
    return sides


def folds(labels: Any, groups: Any = None, *, n: int = 5, seed: int = 0) -> Int[Tensor, " item"]:
    """The fold of every item, 0 to n - 1: every label about as often in each, whole groups in one.

    Largest groups first, each goes to the fold that has the least of its labels. Test on fold i, stop by fold i + 1,
    fit on the rest. labels: of any kind that can be equal. groups: what must not be on two sides (the answers to one
    prompt, the chunks of one text); each item alone when None.
    Cost: groups x n. Deterministic from `seed`. Raises: InputError for fewer than two folds, or groups than folds.
    """
    held = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    label = np.unique(held, return_inverse=True)[1].reshape(-1)
    group = groups_of(groups, "groups", len(label))
    n_groups = int(group.max()) + 1 if len(group) else 0
    if n < 2 or n_groups < n:
        raise InputError(f"{n_groups} groups cannot go into {n} folds.\n  take 2 folds or more, and fewer than groups.")
    table = np.zeros((n_groups, int(label.max()) + 1))
    np.add.at(table, (group, label), 1)
    rng = np.random.default_rng(seed)
    draw = rng.permutation(n_groups)
    order = draw[np.argsort(-table[draw].sum(1), kind="stable")]
    count, fold = np.zeros((n, table.shape[1])), np.zeros(n_groups, dtype=int)
    for g in order:
        load = (count * table[g]).sum(1)  # items of the same labels that are there
        fold[g] = min(range(n), key=lambda f: (load[f], count[f].sum()))
        count[fold[g]] += table[g]
    return torch.from_numpy(fold[group])
