"""Acronyms for answers of any length and tokenizer."""

import pytest

from inscape.core.errors import InputError
from inscape.tasks.acronym import SPELLED, fragments, rivals, spelling


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


def test_rivals_differ_in_one_letter_in_one_place():
    assert rivals(["man", "sun", "hose"], ["map", "men", "man", "mean", "nam", "rose"]) == [
        ["men", "map"],
        [],
        ["rose"],
    ]
    assert rivals(["man", "map", "cat"]) == [["map"], ["man"], []]
    among = ["cat", "car", "can", "bat", "sit"]
    for answer, found in zip(among, rivals(among), strict=True):
        slow = {x for x in among if sum(a != b for a, b in zip(x, answer, strict=True)) == 1}
        assert set(found) == slow


def test_fragments_are_one_letter_away_and_no_words():
    words = ["man", "boat", "river"]
    made = fragments(words, 3, seed=1)
    flat = [x for xs in made for x in xs]
    assert len(flat) == len(set(flat)) == 9
    assert not set(flat) & {*words, *SPELLED}
    for word, found in zip(words, made, strict=True):
        assert all(len(x) == len(word) and sum(a != b for a, b in zip(x, word, strict=True)) == 1 for x in found)
    assert fragments(words, 3, seed=1) == made != fragments(words, 3, seed=2)
    with pytest.raises(InputError, match="'i' has 4 fragments that are one letter away, and 5 are asked for"):
        fragments(["i"], 5)
