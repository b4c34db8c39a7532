"""Prompts with answers as batches."""

import pytest

from inscape.core.errors import InputError, TokenError
from inscape.models.toy.words import word_tokenizer
from inscape.train import answer_batches

TOKENIZER = word_tokenizer(["a", "b", "c", "d"])


def test_only_the_answers_are_labelled_and_every_pair_comes_once_an_epoch():
    prompts, answers = ["a b", "c", "d d d"], [" c d", " b", " a"]
    batch = answer_batches(TOKENIZER, prompts, answers, size=2)
    first, second = batch(0), batch(1)
    assert (len(first["input_ids"]), len(second["input_ids"])) == (2, 1)
    rows = []
    for given in (first, second):
        for ids, labels, mask in zip(given["input_ids"], given["labels"], given["attention_mask"], strict=True):
            text = TOKENIZER.decode(ids[(labels == -100) & (mask == 1)], skip_special_tokens=True)
            rows.append((text, TOKENIZER.decode(labels[labels != -100])))
            assert (labels[labels != -100] == ids[labels != -100]).all()
            assert (ids[mask == 0] == 0).all()
    assert sorted(rows) == [("a b", "c d"), ("c", "b"), ("d d d", "a")]
    orders = {tuple(batch(2 * e)["input_ids"].flatten().tolist()) for e in range(6)}
    assert len(orders) > 1
    assert all((batch(3)["input_ids"] == batch(3)["input_ids"]).flatten())


def test_what_cannot_be_a_batch_of_answers_says_so():
    with pytest.raises(InputError, match="2 prompts and 1 answers: there must be one a prompt"):
        answer_batches(TOKENIZER, ["a", "b"], [" c"])
    with pytest.raises(InputError, match="there is no tokenizer"):
        answer_batches(None, ["a"], [" c"])
    with pytest.raises(TokenError, match=r"' z' does not continue 'a' in whole, known tokens: they end in .*'<unk>'"):
        answer_batches(TOKENIZER, ["a"], [" z"])
    with pytest.raises(TokenError, match="'' does not continue 'a'"):
        answer_batches(TOKENIZER, ["a"], [""])
