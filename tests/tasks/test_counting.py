"""Counting in words: the count, the balance of counts, and what is read from a written answer."""

from collections import Counter

import pytest

import inscape as ins
from inscape import tasks
from inscape.tasks.counting import Item, count_items, count_of, integer_in
from tests.common.tokenizers import OpenWords, byte_tokenizer

OPEN = OpenWords()


@pytest.mark.parametrize(
    ("kind", "word", "target", "count"),
    [
        ("letter", "strawberry", "r", 3),
        ("letter", "Rear", "r", 2),
        ("letter", "moon", "x", 0),
        ("substring", "banana", "an", 2),
        ("substring", "banana", "ana", 2),  # they overlap
        ("length", "banana", "", 6),
        ("distinct", "Banana", "", 3),
    ],
)
def test_counts_are_right(kind: str, word: str, target: str, count: int) -> None:
    assert count_of(kind, word, target) == count


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ins.InputError, match="signs that are no letters"):
        count_of("letter", "don't", "t")
    with pytest.raises(ins.InputError, match="no length it can have"):
        count_of("substring", "banana", "")
    with pytest.raises(ins.InputError, match="no length it can have"):
        count_of("letter", "banana", "an")
    with pytest.raises(ins.InputError, match="kind='vowels'"):
        count_of("vowels", "banana")
    with pytest.raises(ins.InputError, match="setting='loud'"):
        tasks.counting(OPEN, 4, setting="loud")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", 3),
        (" There are three of them.", 3),
        ("The word has 10 letters, so the answer is 2.", 2),
        ("s-t-r: 1, 2, 3. Answer: 3", 3),
        ("r appears 1 time, then 2 more. In total 3", 3),
        ("1 + 2 = 3 letters", 3),
        ("**Answer:** 4", 4),
        ("the answer is two, not 3", 2),
        ("b2b", None),
        ("2.5", None),
        ("-3", None),
        ("none", None),
        ("someone said often", None),
        ("", None),
        ("12,", 12),
    ],
)
def test_a_number_is_read_from_what_was_written(text: str, number: int | None) -> None:
    assert integer_in(text) == number


def test_an_item_judges_an_answer_and_knows_a_parse_failure() -> None:
    item = Item("letter", "strawberry", "r", 3)
    assert item.check("three") is True
    assert item.check("Answer: 2") is False
    assert item.check("I do not know") is None


def test_settings_change_the_word_alone() -> None:
    item = Item("letter", "moon", "o", 2)
    assert item.render() == 'How many times does the letter "o" occur in the word "moon"?'
    assert '"m o o n"' in item.render("spaces")
    assert '"m-o-o-n"' in item.render("hyphens")
    assert '"m, o, o, n"' in item.render("list")
    assert item.render("capitals") == 'How many times does the letter "O" occur in the word "MOON"?'


@pytest.mark.parametrize("kind", ["letter", "substring", "length", "distinct"])
def test_items_are_right_and_balanced(kind: str) -> None:
    made = count_items(kind, 40)
    for item in made:
        assert item.count == count_of(kind, item.word, item.target)
    assert len(set(made)) == 40
    spread = Counter(x.count for x in made)
    plain = Counter(x.count for x in count_items(kind, 40, balance=False))
    assert max(spread.values()) <= max(plain.values())
    if kind == "letter":
        assert max(spread[i] for i in (0, 1, 2)) - min(spread[i] for i in (0, 1, 2)) <= 1
    assert count_items(kind, 10, seed=3) == count_items(kind, 10, seed=3)


def test_more_questions_than_there_are_is_refused() -> None:
    with pytest.raises(ins.InputError, match="these 2 words give 1 to 2 questions"):
        count_items("length", 3, words=("moon", "sun"))


@pytest.mark.parametrize("setting", ["plain", "spaces", "capitals"])
def test_pairs_ask_what_items_ask(setting: str) -> None:
    made = tasks.counting(OPEN, 20, setting=setting)
    for i in range(20):
        item = Item(*(made.facts[f][i] for f in ("kind", "word", "target", "count")))
        assert made.clean[i] == f"{item.render(setting)} Answer:"
        assert made.answers[i] == f" {item.count}"
    width = 1 if setting != "spaces" else max(map(len, made.facts["word"]))
    assert made.roles["word"].shape == (20, width)


def test_lengths_in_bytes_cannot_be_aligned_and_the_reason_is_said() -> None:
    with pytest.raises(ins.TokenError, match=r"the clean prompt has .* tokens and the corrupted one"):
        tasks.counting(byte_tokenizer(), 4, kind="length")
