"""Judges of texts: what they say of texts whose answer is plain, and their own error rates on labelled ones."""

import re

import pytest
import torch

import inscape as ins
from inscape.core.judges import begins_with, contains, exact_match, judge_of, length, matches


def test_a_phrase_counts_as_whole_words():
    judge = contains(["great", "as  an AI"])
    assert [judge(t) for t in ("GREAT!", "a greatly", "As an\nAI model", "an AI", "")] == [
        True,
        False,
        True,
        False,
        False,
    ]


def test_a_pattern_is_found_anywhere():
    judge = matches(r"\d+ dollars")
    assert judge("it costs 12 dollars") is True
    assert judge("it costs") is False
    assert matches(re.compile("A", re.I))("banana") is True


def test_an_answer_is_compared_with_that_of_its_own_prompt():
    judge = exact_match(["12", ["seven", "7"]])
    assert judge.of(["12\nmore", " Seven "]).tolist() == [1.0, 1.0]
    assert judge.of(["7", "12"], [1, 1]).tolist() == [1.0, 0.0]
    last = exact_match(["5"], extract=lambda text: (re.findall(r"\d+", text) or [None])[-1])
    assert last.of(["so 2 + 3 is 5.", "no idea", "5 or 6"], [0, 0, 0]).tolist() == [1.0, 0.0, 0.0]


def test_lengths():
    text = "One two. Three four five? Six"
    assert [length(u)(text) for u in ("words", "characters", "sentences")] == [6.0, 29.0, 2.0]


def test_error_rates_are_those_that_were_planted():
    texts = ["yes"] * 40 + ["no"] * 60
    labels = [True] * 30 + [False] * 10 + [False] * 54 + [True] * 6
    found = contains(["yes"]).error_rate(texts, labels)
    assert float(found) == pytest.approx(0.16)
    assert found.missed is not None
    assert found.false_alarms is not None
    assert found.missed.value == pytest.approx(6 / 36)
    assert found.false_alarms.value == pytest.approx(10 / 64)
    assert found.error.low < 0.16 < found.error.high
    assert found.error.n_items == 100
    assert contains(["yes"]).error_rate(["yes"], [1]).false_alarms is None


def test_functions_and_objects_are_judges():
    assert judge_of(len).of(["ab", "abc"]).tolist() == [2.0, 3.0]
    assert judge_of(lambda t: t == "x").of(["x", "y"]).tolist() == [1.0, 0.0]

    class Fitted:
        def predict(self, texts):
            return torch.tensor([float(len(t) > 1) for t in texts])

    assert judge_of(Fitted()).of(["a", "bb"]).tolist() == [0.0, 1.0]
    judge = begins_with(["no"])
    assert judge_of(judge) is judge
    assert judge.of([]).tolist() == []
    assert repr(length()) == "Judge(words)"


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ins.InputError, match="give a list of phrases"):
        contains("great")
    with pytest.raises(ins.InputError, match="no regular expression"):
        matches("(")
    with pytest.raises(ins.InputError, match="a list of right answers"):
        exact_match("12")
    with pytest.raises(ins.InputError, match="answers of 1 prompts; a text answers prompt 1"):
        exact_match(["a"]).of(["x", "y"])
    with pytest.raises(ins.InputError, match="counted in words, characters, sentences"):
        length("pages")
    with pytest.raises(ins.InputError, match="3 is no judge"):
        judge_of(3)
    with pytest.raises(ins.InputError, match="the judge said 'x' to 'a'"):
        judge_of(lambda t: "x").of(["a"])
    with pytest.raises(ins.InputError, match="judges a list of texts"):
        length().of("text")
    with pytest.raises(ins.ShapeError, match="2 texts and the prompts of 1"):
        length().of(["a", "b"], [0])
    with pytest.raises(ins.InputError, match="1 of them not finite"):
        judge_of(lambda t: float("nan")).of(["a"])
    with pytest.raises(ins.InputError, match="'maybe' is no yes or no"):
        length().error_rate(["a"], ["maybe"])
    with pytest.raises(ins.ShapeError, match="1 texts and 2 labels"):
        length().error_rate(["a"], [True, False])
