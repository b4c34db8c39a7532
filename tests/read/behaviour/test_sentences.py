"""Sentences and their states: equal to a run of the text by itself, from where the answer begins."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import inscape as ins
from inscape.read.behaviour.sentences import sentence_states
from tests.common.small import gpt2
from tests.common.tokenizers import word_tokenizer

WORDS = ("go", "on", "we", "add", "two", "and", "stop", "now", "?", ".", "wait", ",")
PROMPTS, TEXTS = ["go on ?", "add two . now ?"], ["we add two . wait , stop .", "now stop"]
SITE = "layers.1.resid_post"


def model() -> "ins.Model":
    tokenizer = word_tokenizer(WORDS)
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=len(tokenizer))
    return ins.open(GPT2LMHeadModel(config).eval(), tokenizer=tokenizer)


def test_sentences_begin_behind_the_prompt():
    got = sentence_states(model(), PROMPTS, TEXTS, SITE)
    assert got.text == ("we add two .", "wait , stop .", "now stop")
    assert got.prefix == ("go on ?", "go on ? we add two .", "add two . now ?")
    assert got.item.tolist() == [0, 0, 1]


@pytest.mark.parametrize("of", ["own", "predicting", "before"])
def test_states_are_those_of_the_text_by_itself(of):
    net = model()
    got = sentence_states(net, PROMPTS, TEXTS, SITE, of=of, batch=2)
    for text, prefix, state in zip(got.text, got.prefix, got.states, strict=True):
        trace = ins.run(net, f"{prefix} {text}", read=SITE)[SITE][0]
        n, m = len(net.tokenizer(prefix)["input_ids"]), len(net.tokenizer(f"{prefix} {text}")["input_ids"])
        want = {"own": trace[n:m], "predicting": trace[n - 1 : m - 1], "before": trace[n - 1 : n]}[of].mean(0)
        torch.testing.assert_close(state, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"of": "last"}, "'last' is none of 'own'"),
        ({"texts": ["a"]}, "2 prompts and 1 texts"),
        ({"prompts": "go"}, "2 prompts and 2 texts"),
        ({"texts": ["", " "]}, "no text holds a sentence"),
    ],
)
def test_what_cannot_be_cut_is_refused(asked, says):
    given = {"prompts": PROMPTS, "texts": TEXTS} | asked
    with pytest.raises(ins.InputError, match=says):
        sentence_states(model(), given.pop("prompts"), given.pop("texts"), SITE, **given)


def test_a_tokenizer_that_does_not_say_where_tokens_are_is_refused():
    net = model()
    slow = type("Slow", (), {"is_fast": False})()
    with pytest.raises(ins.InputError, match="only a fast tokenizer says"):
        sentence_states(ins.open(net.module, tokenizer=slow), PROMPTS, TEXTS, SITE)
    with pytest.raises(ins.InputError, match="no tokenizer"):
        sentence_states(gpt2(), PROMPTS, TEXTS, SITE)
