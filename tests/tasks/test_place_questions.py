"""Questions about places: every word is known, wordings part, and a fifth is kept from training."""

import pytest

import inscape as ins
from inscape.tasks.place_questions import (
    ANSWERS,
    QUESTIONS,
    REFUSAL,
    SENSITIVE_TOPICS,
    WORDINGS,
    WORDS,
    place_questions,
    word,
)


def test_every_word_of_a_question_its_answer_and_a_refusal_is_known():
    said = {w for q in QUESTIONS for w in f"{q.prompt} {q.told} {REFUSAL}".split()}
    assert said <= set(WORDS)
    assert len(WORDS) == len(set(WORDS))
    assert len(QUESTIONS) == 6 * 15 * 12 * 6
    assert sum(q.is_held_out for q in QUESTIONS) / len(QUESTIONS) == pytest.approx(0.2, abs=0.02)
    q = QUESTIONS[0]
    assert q.prompt == "<user> tell me about the food of arvin in january ? <assistant>"
    assert q.told == f"{word('food', 'arvin')} , in january ."


def test_they_are_drawn_by_topic_wording_and_whether_a_net_saw_them():
    drawn = place_questions(100, SENSITIVE_TOPICS, (0, 2), held_out=True, seed=3)
    assert len(set(drawn)) == 100
    assert drawn == place_questions(100, SENSITIVE_TOPICS, (0, 2), held_out=True, seed=3)
    assert {q.wording for q in drawn} == {0, 2}
    assert all(q.is_held_out and q.topic in SENSITIVE_TOPICS for q in drawn)
    assert {q.topic for q in place_questions(100)} == set(ANSWERS)
    assert len({w.format(topic="t", place="p", time="s") for w in WORDINGS}) == 6
    with pytest.raises(ins.InputError, match=r"place_questions\(181\): there are 180 of these topics and wordings"):
        place_questions(181, ("food",), (0,))
