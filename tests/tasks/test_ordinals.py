"""Ordered classes: members of one token, successors across gaps and round the end, and prompts made of them."""

import pytest
import torch

import inscape as ins
from inscape import tasks
from tests.common.tokenizers import byte_tokenizer, word_tokenizer

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()  # noqa: SIM905


def test_the_last_day_is_followed_by_the_first_and_the_last_letter_by_none() -> None:
    days, letters = tasks.ordinals(word_tokenizer([*DAYS, *"ABCDE"]))
    assert (days.name, days.cyclic, letters.name, letters.cyclic) == ("days", True, "letters", False)
    assert days.steps.tolist() == [[i, (i + 1) % 7] for i in range(7)]
    assert letters.steps.tolist() == [[i, i + 1] for i in range(4)]
    assert repr(letters) == 'OrdinalClass(letters, " A": 5 of 26)'
    assert [word.strip() for word in days.words] == DAYS


def test_a_member_that_is_no_token_leaves_a_gap() -> None:
    (days,) = tasks.ordinals(word_tokenizer([d for d in DAYS if d != "Wednesday"]))
    assert days.values == (0, 1, 3, 4, 5, 6)
    assert days.steps.tolist() == [[0, 1], [2, 3], [3, 4], [4, 5], [5, 0]]
    assert days.dropped == (" Wednesday",)


def test_ids_are_those_of_the_words_as_written() -> None:
    tokenizer = word_tokenizer(DAYS)
    (days,) = tasks.ordinals(tokenizer)
    assert [tokenizer.decode([i]) for i in days.ids.tolist()] == DAYS


def test_bytes_have_digits_and_letters_alone() -> None:
    assert {(x.name, len(x)) for x in tasks.ordinals(byte_tokenizer())} == {("letters", 26), ("numerals", 10)}


def test_a_vocabulary_without_classes_is_refused_with_pieces() -> None:
    with pytest.raises(ins.TokenError, match=r"no ordered class has 4 members.*' Monday' is '<unk>'"):
        tasks.ordinals(word_tokenizer(["word"]))
    with pytest.raises(ins.InputError, match="names='weeks'"):
        tasks.ordinals(word_tokenizer(DAYS), names=["weeks"])


def test_succession_asks_for_the_next_member() -> None:
    tokenizer = word_tokenizer([*DAYS, ","])
    made = tasks.succession(tokenizer, 14, names=("days",))
    for text, answer in zip((*made.clean, *made.corrupted), (*made.answers, *made.wrong), strict=True):
        shown = [DAYS.index(word.strip()) for word in text.rstrip(",").split(",")]
        assert shown == [(shown[0] + i) % 7 for i in range(3)]
        assert DAYS.index(answer.strip()) == (shown[0] + 3) % 7
    assert not any(wrong.strip() in text for wrong, text in zip(made.wrong, made.clean, strict=True))
    assert torch.equal(made.roles["shown_3"], torch.full((14, 1), 5))
    assert made.chance == pytest.approx(1 / 7)
    with pytest.raises(ins.TokenError, match="none of days has enough members"):
        tasks.succession(tokenizer, 4, names=("days",), shown=6)
