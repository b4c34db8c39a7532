"""Labelled texts: right labels, words that give nothing away, groups, noise; and pointer hops."""

import re
from collections import Counter

import pytest

import inscape as ins
from inscape import tasks
from inscape.models.toy.arrows import WORDS
from inscape.tasks.concepts import BAD, GOOD


@pytest.mark.parametrize("name", tasks.CONCEPTS)
def test_a_set_is_what_its_seed_draws_and_balanced(name: str) -> None:
    make = tasks.CONCEPTS[name]
    made, again, other = make(600, seed=3), make(600, seed=3), make(600, seed=4)
    assert made == again
    assert made.texts != other.texts
    assert len(set(made.texts)) == 600
    counts = Counter(made.labels)
    assert len(counts) == 2
    assert min(counts.values()) > 0.45 * 600
    assert len(set(made.groups)) >= 20
    with pytest.raises(ins.InputError, match="four texts"):
        make(2)


def test_labels_follow_from_the_texts() -> None:
    for text, label, group in zip(*_columns(tasks.negation(200, seed=1)), strict=True):
        is_good = group in GOOD
        assert group in GOOD or group in BAD
        assert label == ("good" if is_good != (f"not {group}" in text) else "bad")
    for people in (1, 2, 4):
        for text, label, _ in zip(*_columns(tasks.coin_flips(40, people=people, seed=1)), strict=True):
            side = "tails" if text.startswith("A coin shows tails") else "heads"
            flips = len(re.findall(r"\w+ flips it", text))
            wanted = side if flips % 2 == 0 else {"heads": "tails", "tails": "heads"}[side]
            assert label == wanted
            assert text.count(" it.") == people
    kinds = tasks.word_kind(600)
    assert all(g in t for t, g in zip(kinds.texts, kinds.groups, strict=True))
    with pytest.raises(ins.InputError, match="different texts"):
        tasks.word_kind(601)
    with pytest.raises(ins.InputError, match="1 to 4"):
        tasks.coin_flips(10, people=5)


def _columns(made: tasks.LabelledTexts) -> tuple:
    return made.texts, made.labels, made.groups


def test_labelled_texts_can_be_cut_and_changed() -> None:
    made = tasks.negation(20)
    assert made.subset([3, 1]).texts == (made.texts[3], made.texts[1])
    noisy = made.changed(lambda t: tasks.prefixed(t, seed=2), "noisy")
    assert noisy.labels == made.labels
    assert all(t.split(" ", 1)[0] in ("aaa", "bbb") for t in noisy.texts)
    assert len({t.split(" ", 1)[0] for t in noisy.texts}) == 2
    with pytest.raises(ins.InputError, match="20 items"):
        made.subset([20])
    with pytest.raises(ins.ShapeError, match="1 texts, 2 labels"):
        tasks.LabelledTexts("x", ("a",), (1, 2), ("g",))


def test_misspelling_moves_inner_letters_only() -> None:
    made = tasks.misspelt(["yesterday we went home"], 1.0)[0]
    for word, was in zip(made.split(), ["yesterday", "we", "went", "home"], strict=True):
        assert sorted(word) == sorted(was)
        assert (word[0], word[-1]) == (was[0], was[-1])
        assert (word == was) == (len(was) < 4)
    assert tasks.misspelt(["yesterday"], 0.0) == ("yesterday",)
    with pytest.raises(ins.InputError, match="share of the words"):
        tasks.misspelt(["a"], 2.0)
    with pytest.raises(ins.InputError, match="one word or more"):
        tasks.prefixed(["a"], ())


def test_hops_follow_the_arrows() -> None:
    made = tasks.hops(40, seed=5)
    assert Counter(made.asked) == {1: 10, 2: 10, 3: 10, 4: 10}
    for text, k, ends, answer in zip(made.texts, made.asked, made.ends, made.answers, strict=True):
        *arrows, question = text.split()
        goes = dict(a.split(">") for a in arrows)
        at = question.split(":")[1]
        for step in range(4):
            at = goes[at]
            assert at == ends[step]
        assert answer == ends[k - 1]
        assert set(text.split()) <= set(WORDS)
    assert made.after(2).labels == tuple(e[1] for e in made.ends)
    with pytest.raises(ins.InputError, match="1 to 4 hops"):
        tasks.hops(3, 5)
    with pytest.raises(ins.InputError, match="1 to 4 hops"):
        made.after(0)
