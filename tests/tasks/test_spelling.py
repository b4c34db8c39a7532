"""Acronyms for answers of any length and tokenizer."""

import pytest

from inscape.core.errors import InputError
from inscape.tasks.acronym import spelling


def test_prompts_spell_their_answers():
    prompts, answers = spelling(["man", "hose"], seed=3)
    assert answers == [" man", " hose"]
    for prompt, answer in zip(prompts, answers, strict=True):
        assert "".join(w[0] for w in prompt.removesuffix(":").split()) == answer.strip()
    assert spelling(["man"], spaced=True)[1] == [" m a n"]
    assert spelling(["man"], seed=3) != spelling(["man"], seed=4)


def test_solved_lines_spell_others():
    (prompt,), _ = spelling(["man"], shots=3, among=["sun", "man", "cat", "dog"])
    *lines, asked = prompt.split("\n")
    assert asked.endswith(":")
    shown = [line.split(": ") for line in lines]
    assert sorted(b for _, b in shown) == ["cat", "dog", "sun"]
    assert all("".join(w[0] for w in a.split()) == b for a, b in shown)


def test_letters_without_words_say_so():
    with pytest.raises(
        InputError, match="no words spell 'tax': there are words for the letters abcdefghijklmnopqrstuvwyz"
    ):
        spelling(["tax"])
    with pytest.raises(InputError, match="3 solved lines need more than 2 answers"):
        spelling(["man"], shots=3, among=["sun", "cat"])
