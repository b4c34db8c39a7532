"""Splits of a task's items that keep whole answers together."""

from collections.abc import Sequence

import numpy as np

from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls.ranks import strata_of


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
