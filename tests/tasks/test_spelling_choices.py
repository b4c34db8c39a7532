"""Words and fragments chosen among what is one letter away."""

import pytest

import inscape as ins
from inscape.core.errors import InputError
from inscape.tasks.acronym import SPELLED
from inscape.tasks.spelling_choices import spelling_choices


def test_options_are_one_letter_away_and_the_right_one_comes_first():
    items = spelling_choices(ins.open("toy-acronym"), 8, lengths=(3,), seed=1)
    assert len(items) == len(items.options) == len(items.family) == len(items.lengths) > 4
    for prompt, right, options in zip(items.prompts, items.right, items.options, strict=True):
        asked = prompt.split("\n")[-1].removesuffix(":")
        assert "".join(word[0] for word in asked.split()) == right[1:] == options[0][1:]
        assert len(set(options)) == len(options) > 1
    for word in (right for i, right in zip(items.family, items.right, strict=True) if items.family.index(i) == i):
        assert word[1:] in SPELLED
    assert items.chance == pytest.approx(sum(1 / len(x) for x in items.options) / len(items))


def test_more_words_than_there_are_say_how_many_there_are():
    with pytest.raises(InputError, match="4 words of 11 letters are asked for, and there are 0 to draw from"):
        spelling_choices(ins.open("toy-acronym"), 4, lengths=(11,))
