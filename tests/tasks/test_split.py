"""Splits by answer: no answer on both sides, all strata on both."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inscape.core.errors import InputError, ShapeError
from inscape.tasks.split import split_by_answer


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
