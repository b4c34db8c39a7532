"""Splits by answer: no answer on both sides, all strata on both."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.errors import InputError, ShapeError
from inscape.tasks.split import folds, split_by_answer


@given(
    answers=st.lists(st.integers(0, 20).map(str), min_size=30, max_size=60),
    test=st.floats(0.2, 0.8),
    seed=st.integers(0, 99),
)
def test_no_answer_is_on_both_sides_and_every_item_is_on_one(answers, test, seed):
    if len(set(answers)) < 6:
        return
    train, held = split_by_answer(answers, test=test, seed=seed)
    assert sorted(train + held) == list(range(len(answers)))
    assert not {answers[i] for i in train} & {answers[i] for i in held}
    assert abs(len({answers[i] for i in held}) - test * len(set(answers))) <= 1


@given(seed=st.integers(0, 99))
def test_every_stratum_is_on_both_sides_in_its_share(seed):
    answers = [f"a{i}" for i in range(40)]
    numbers = [float(i) for i in range(40)]
    _, held = split_by_answer(answers, stratify=numbers, n_strata=4, test=0.5, seed=seed)
    assert [sum(10 * q <= i < 10 * q + 10 for i in held) for q in range(4)] == [5] * 4


def test_the_seed_draws_the_split():
    answers = [f"a{i}" for i in range(40)]
    assert split_by_answer(answers, seed=1) == split_by_answer(answers, seed=1)
    assert split_by_answer(answers, seed=1) != split_by_answer(answers, seed=2)


def test_what_cannot_be_split_says_so():
    with pytest.raises(InputError, match="1 different answers cannot be split"):
        split_by_answer(["a", "a"])
    with pytest.raises(InputError, match=r"test=1\.5: it is the share"):
        split_by_answer(["a", "b"], test=1.5)
    with pytest.raises(ShapeError, match="2 answers and 1 numbers to stratify by"):
        split_by_answer(["a", "b"], stratify=[1.0])


@given(seed=st.integers(0, 1000), n=st.integers(2, 6), size=st.integers(1, 4))
def test_folds_keep_groups_whole_and_labels_even(seed: int, n: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(60), size)
    labels = rng.integers(0, 2, 60 * size)
    fold = folds(labels, groups, n=n, seed=seed)
    assert sorted(set(fold.tolist())) == list(range(n))
    assert all(len(set(fold[groups == g].tolist())) == 1 for g in range(60))
    share = [float(labels[(fold == i).numpy()].mean()) for i in range(n)]
    assert max(share) - min(share) < 0.35
    sizes = np.bincount(fold.numpy())
    assert sizes.max() - sizes.min() <= 4 * size + 4
    assert torch.equal(fold, folds(labels, groups, n=n, seed=seed))


def test_folds_without_groups_are_stratified() -> None:
    labels = [True] * 20 + [False] * 80
    fold = folds(labels, n=5)
    assert [int(sum(labels[i] for i in range(100) if fold[i] == f)) for f in range(5)] == [4] * 5
    assert np.bincount(fold.numpy()).tolist() == [20] * 5


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(ins.InputError, match="2 groups cannot go into 3 folds"):
        folds([0, 1, 0, 1], [0, 0, 1, 1], n=3)
