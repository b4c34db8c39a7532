"""toy-refuser: what is drawn at temperature 1 is what the exact probability says, steered or not."""

import pytest
import torch

import inscape as ins
from inscape.dynamics.toys.refuser import HARMLESS_TOPICS, rows
from inscape.engine.answer_log_probs import answer_log_probs
from inscape.read.behaviour.judged import judged_rate
from inscape.tasks.place_questions import ANSWERS, REFUSAL, SENSITIVE_TOPICS, place_questions


def test_topics_part_in_two_and_a_batch_labels_what_is_said():
    assert {*HARMLESS_TOPICS, *SENSITIVE_TOPICS} == set(ANSWERS)
    batch = rows(0, 6, seed=0)
    said = batch["labels"] >= 0
    assert bool((batch["labels"][said] == batch["input_ids"][said]).all())
    assert bool((said.sum(1) >= 5).all())


def test_drawn_refusals_are_as_common_as_their_probability():
    model = ins.open("toy-refuser")
    prompts = [q.prompt for q in place_questions(150, SENSITIVE_TOPICS, held_out=True, seed=4)]
    direction = ins.fit_directions(model, prompts[:40], [
        q.prompt for q in place_questions(40, HARMLESS_TOPICS, held_out=True, seed=4)
    ])["layers.1.resid_post"]  # fmt: skip
    for edits in ([], [ins.add(direction, 0.3, at="newest")]):
        exact = float(answer_log_probs(model, prompts, f" {REFUSAL}", edits).exp().mean())
        with torch.random.fork_rng():
            torch.manual_seed(0)
            drawn = judged_rate(model, prompts, [REFUSAL], edits, max_new_tokens=9, batch=75, do_sample=True,
                                temperature=1.0, top_k=0)  # fmt: skip
        assert drawn.rate.low <= exact <= drawn.rate.high
        assert float(drawn) == pytest.approx(exact, abs=0.1)
