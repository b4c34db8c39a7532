"""Tokens in frames: every token stands last, behind what the tokenizer knows."""

import pytest

import inscape as ins
from inscape.tasks.frames import framed


def test_every_token_stands_behind_every_frame_that_the_tokenizer_knows() -> None:
    model = ins.open("toy-name-order")
    names = model.tokenizer("Mary John")["input_ids"][1:]
    rows = framed(model, names, ("At the market", "xyzzy"))
    assert [row[-1] for row in rows] == names
    assert rows[0][:-1] == model.tokenizer("At the market")["input_ids"]


def test_without_a_known_frame_tokens_stand_behind_the_beginning_of_the_text() -> None:
    assert framed(ins.open("toy-name-order"), [7, 8], ("xyzzy",)) == [[1, 7], [1, 8]]


def test_a_model_without_a_tokenizer_is_told_so() -> None:
    with pytest.raises(ins.InputError, match="needs a tokenizer"):
        framed(ins.open("toy-digits-vit"), [1])
