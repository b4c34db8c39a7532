"""log P(answer | prompt) under edits: what a generation that says the answer would have been sure of."""

import pytest
import torch

import inscape as ins
from inscape.engine.answer_log_probs import answer_log_probs
from inscape.models.toy.words import word_tokenizer
from inscape.read.behaviour.continuations import continuation_log_probs
from tests.common.small import direction, gpt2_module

WORDS = word_tokenizer([f"w{i}" for i in range(60)], split="spaces")
PROMPTS = ["w1 w2", "w3", "w9 w8 w7 w6"]
ANSWERS = [" w5 w6 w7", " w5 w6", " w1 w4"]
SITE = "layers.1.resid_post"


@pytest.fixture
def model():
    return ins.open(gpt2_module(), tokenizer=WORDS)


@pytest.mark.parametrize("at", ["newest", "generated", "prompt", "all"])
def test_it_is_what_a_generation_under_the_edits_would_say(model, at):
    edits = [ins.add(direction(SITE), 3.0, at=at)]
    found = answer_log_probs(model, PROMPTS, ANSWERS, edits, batch_rows=2)
    for prompt, answer, got in zip(PROMPTS, ANSWERS, found.tolist(), strict=True):
        wanted = iter(WORDS(answer, add_special_tokens=False).input_ids)
        said: list[float] = []

        def emit(ids, scores, wanted=wanted, said=said):
            token = next(wanted)
            said.append(float(scores.log_softmax(-1)[0, token]))
            return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([token]), 0.0)

        n = len(answer.split())
        ins.generate(model, [prompt], edits, max_new_tokens=n, min_new_tokens=n, logits_processor=[emit])
        assert got == pytest.approx(sum(said), abs=1e-4)


def test_without_edits_it_is_the_probability_of_the_continuation(model):
    plain = continuation_log_probs(model, PROMPTS, ANSWERS)
    torch.testing.assert_close(answer_log_probs(model, PROMPTS, ANSWERS), plain, atol=1e-4, rtol=1e-4)
    same = answer_log_probs(model, PROMPTS, " w5 w6", batch_rows=1)
    torch.testing.assert_close(same, continuation_log_probs(model, PROMPTS, [" w5 w6"] * 3), atol=1e-4, rtol=1e-4)


def test_what_is_no_pair_is_refused(model):
    with pytest.raises(ins.InputError, match="3 prompts and 2 answers"):
        answer_log_probs(model, PROMPTS, ANSWERS[:2])
    with pytest.raises(ins.TokenError, match="does not continue"):
        answer_log_probs(model, PROMPTS, " z")
