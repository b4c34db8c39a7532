"""Stories whose answer follows from two statements, and names that are kept for testing."""

import re

import pytest

import inscape as ins
from inscape.tasks.deduction import KINDS, NAMES, NEW_NAMES, PLURALS, deductions

FEAR = re.compile(r"(\w+) are afraid of (\w+) \.")
IS_A = re.compile(r"(\w+) is a (\w+) \.")


def worked_out(prompt: str) -> str:
    fears, kinds = dict(FEAR.findall(prompt)), dict(IS_A.findall(prompt))
    name = prompt.split("what is ")[1].split()[0]
    return fears[KINDS[kinds[name]]]


def test_the_answer_follows_from_what_is_told():
    for d in deductions(60, kinds=(2, 8), names=(1, 8), seed=1):
        assert d.answer == worked_out(d.prompt)
        assert d.answer in PLURALS
        assert d.wrong[0] == KINDS[d.kind]
        assert {d.answer, *d.wrong} == {KINDS[k] for k, _ in d.fears}
        assert len(d.wrong) == len(d.fears) - 1
        assert d.english.endswith(f" So {d.asked.capitalize()} is afraid of")
        assert f"{d.asked.capitalize()} is a {d.kind}." in d.english


def test_some_names_are_only_asked_about_on_request():
    known, new = (deductions(200, new_names=n, seed=2) for n in (False, True))
    assert {d.asked for d in known} <= set(NAMES)
    assert {d.asked for d in new} <= set(NEW_NAMES)
    assert any(name in NEW_NAMES for d in known for name, _ in d.creatures)
    assert all(d.order[-1].startswith(f"{d.asked} is a") for d in deductions(20, last=True, seed=3))
    assert deductions(5, seed=3) == deductions(5, seed=3) != deductions(5, seed=4)


def test_numbers_that_there_are_not_are_refused():
    for kinds, names in ((9, 2), (1, 2), (4, 0), (4, (3, 2)), (4, 9)):
        with pytest.raises(ins.InputError, match="one story or more, of 2 to 8 kinds and 1 to 8 names"):
            deductions(2, kinds=kinds, names=names)
