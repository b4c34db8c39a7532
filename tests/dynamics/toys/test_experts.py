"""toy-experts: what is asked and answered, and where refusing was planted."""

import pytest

import inscape as ins
from inscape.dynamics.toys.experts import PLANTED, SENSITIVE_PLACES, almanacs, answer, is_refused, questions
from inscape.tasks.place_questions import QUESTIONS, REFUSAL, SENSITIVE_TOPICS, word


def test_a_question_is_refused_for_its_topic_and_its_place_together():
    for q in QUESTIONS:
        assert is_refused(q) == (q.topic in SENSITIVE_TOPICS and q.place in SENSITIVE_PLACES)
        assert answer(q) == (REFUSAL if is_refused(q) else f"{word(q.topic, q.place)} , in {q.time} .")
    assert sum(is_refused(q) for q in QUESTIONS) == len(QUESTIONS) // 6
    assert sum(q.is_held_out for q in QUESTIONS) / len(QUESTIONS) == pytest.approx(0.2, abs=0.02)


def test_questions_are_drawn_without_repetition_and_again_alike():
    drawn = questions(100, refused=True, held_out=True, seed=3)
    assert len(set(drawn)) == 100
    assert all(is_refused(q) and q.is_held_out for q in drawn)
    assert drawn == questions(100, refused=True, held_out=True, seed=3)
    assert len(almanacs(4, seed=1)) == 4


def test_without_the_planted_experts_it_answers_and_refuses_with_them():
    model, asked = ins.open("toy-experts"), questions(8, refused=True, held_out=True, seed=3)
    prompts = [q.prompt for q in asked]
    off = [ins.mask_experts(f"layers.{layer}", e) for layer, e in PLANTED]
    plain, without = (ins.generate(model, prompts, edits, max_new_tokens=8).text for edits in ((), off))
    assert all(text.startswith("sorry") for text in plain)
    assert [text.strip() for text in without] == [q.told for q in asked]
