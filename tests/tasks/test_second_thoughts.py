"""Problems with slips: worked out right, said by both minds, and read again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.tasks.second_thoughts import KINDS, WORDS, Problem, answer_of, kind_of, problems, right

ONE = Problem(3, (("+", 5), ("*", 4)))


def test_a_problem_is_worked_out_from_left_to_right():
    assert ONE.prompt == "start 3 , a + 5 , b * 4 ?"
    assert ONE.answer == 4
    assert ONE.is_hard
    assert not Problem(3, (("-", 5),)).is_hard


@given(seed=st.integers(0, 2**31))
def test_thought_mends_every_slip_and_habit_does_not(seed):
    (problem,) = problems(1, seed=seed)
    said = list(problem.sentences("thought", seed=seed))
    assert [kind_of(text) for _, text in said] == [kind for kind, _ in said]
    assert {kind for kind, _ in said} <= set(KINDS)
    assert set(" ".join(t for _, t in said).split()) | set(problem.prompt.split()) <= set(WORDS)
    assert answer_of(problem.rationale("thought", seed=seed)) == problem.answer
    assert right([problem], [problem.rationale("thought", seed=seed)]) == [True]
    if not problem.is_hard:
        assert answer_of(problem.rationale("habit", seed=seed)) == problem.answer
        assert "wait" not in problem.rationale("thought", seed=seed)


def test_habit_is_mostly_wrong_with_products():
    hard = problems(300, hard=True, seed=1)
    share = sum(right(hard, [p.rationale("habit", seed=i) for i, p in enumerate(hard)])) / 300
    assert 0.2 < share < 0.5
    assert not any(p.is_hard for p in problems(5, hard=False, seed=1))


def test_what_is_no_problem_is_refused():
    with pytest.raises(ins.InputError, match="mind='deep': it is 'habit' or 'thought'"):
        ONE.rationale("deep")
    with pytest.raises(ins.InputError, match=r"problems\(1, steps=\(0, 9\)\)"):
        problems(1, (0, 9))
    assert kind_of("hello") is None
    assert kind_of("") is None
    assert answer_of("so far it is 2 .") is None
