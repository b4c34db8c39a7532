"""Prompts in many languages, and languages that are made up."""

import pytest
import torch

import inscape as ins
from inscape.models.toy.words import SPECIAL
from inscape.tasks.many_languages import CLOZE, NAMES, cloze, definitions, nouns, translation
from inscape.tasks.parallel_languages import ParallelLanguages


def test_every_noun_has_a_word_in_every_language_and_none_twice() -> None:
    words = nouns()
    assert len(words) >= 60
    for of in words.values():
        assert list(of) == list(NAMES)
        assert len(set(of.values())) == 6
    for language in ("fr", "de", "es"):
        assert len({of[language] for of in words.values()}) == len(words)
    assert list(nouns(["de"])["dog"].items()) == [("de", "Hund")]
    with pytest.raises(ins.InputError, match="no nouns in xx"):
        nouns(["xx"])


def test_no_prompt_shows_its_answer_or_a_word_of_english() -> None:
    words = nouns()
    for task in (
        translation(words, "fr", "de"),
        translation(words, "zh", "ja"),
        cloze(words, "fr"),
        cloze(words, "zh"),
    ):
        for concept, prompt in zip(task.concepts, task.prompts, strict=True):
            answer = words[concept][task.target]
            assert f'"{answer}"' not in prompt
            assert f"“{answer}”" not in prompt
            assert "English" not in prompt
            assert prompt[-1] in '"“'
            assert prompt.count("\n") == 4
    assert translation(words, "fr", "de").shown == ("fr", "de")
    assert translation(words, "de", "de").name == "repeat de"
    assert translation(words, "fr", "de", ["dog"]).prompts[0].endswith('Français: "chien" - Deutsch: "')


def test_a_seed_draws_what_is_shown() -> None:
    words = nouns()
    one, two, same = (translation(words, "fr", "de", seed=s).prompts for s in (0, 1, 0))
    assert one == same
    assert one != two


def test_definitions_are_parallel_and_name_no_answer() -> None:
    words = nouns()
    assert list(definitions("fr")) == list(definitions("zh"))
    for language in CLOZE:
        for concept, text in definitions(language).items():
            assert words[concept][language] not in text


def test_prompts_that_cannot_be_made_are_refused() -> None:
    words = nouns()
    with pytest.raises(ins.InputError, match="no definitions in 'de'"):
        cloze(words, "de")
    with pytest.raises(ins.InputError, match="'unicorn' is not among the words"):
        translation(words, "fr", "de", ["unicorn"])
    with pytest.raises(ins.InputError, match="need more"):
        translation(dict(list(words.items())[:3]), "fr", "de")


def test_made_up_languages_mean_the_same_and_share_no_word() -> None:
    made = ParallelLanguages(things=8, doings=4)
    assert made.tokenizer.convert_ids_to_tokens(int(made.ids("b", torch.tensor(5)))) == "b5"
    rows, meaning = made.lists(50, torch.Generator().manual_seed(0), "a", "c")
    assert bool((rows[:, 0] == SPECIAL.index("<bos>")).all())
    assert torch.equal(rows[:, 1::3], made.ids("a", meaning))
    assert torch.equal(rows[:, 2::3], made.ids("c", meaning))
    drawn, _ = made.lists(200, torch.Generator().manual_seed(0))
    size = 12
    languages = (drawn - len(SPECIAL) - 2).div(size, rounding_mode="floor")
    assert bool((languages[:, 1] != languages[:, 2]).all())
    texts = made.texts(300, (0.9, 0.1, 0.0), torch.Generator().manual_seed(0))
    share = ((texts[:, 1] - len(SPECIAL) - 2) < size).float().mean()
    assert 0.84 < float(share) < 0.96
    with pytest.raises(ins.InputError, match="at least 2, 6 and 3"):
        ParallelLanguages(things=2)


def test_lists_end_before_an_answer_that_they_have_not_shown() -> None:
    made = ParallelLanguages(things=8, doings=4)
    rows, asked = made.prompts(40, "c", "b", seed=1)
    assert torch.equal(asked, torch.arange(40) % 8)
    assert torch.equal(rows[:, -1], made.ids("c", asked))
    assert not bool((rows == made.ids("b", asked)[:, None]).any())
    assert bool(((rows == made.ids("c", asked)[:, None]).sum(1) == 1).all())
