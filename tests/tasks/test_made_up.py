"""People, paragraphs and senses that are made up: what is known of them holds."""

import pytest

import inscape as ins
from inscape.models.toy.words import piece_tokenizer
from inscape.tasks.people import people, words
from inscape.tasks.python_docs import python_paragraphs
from inscape.tasks.senses import (
    CUES,
    EMPTY,
    WORDS,
    sense_items,
    sentences,
    strong_cues,
    vocabulary,
    weak_cues,
    without_context,
)


def test_people_are_different_and_told_of_as_often_as_they_say() -> None:
    some = people(60, told=(0, 3), seed=1)
    assert len({p.prompt for p in some}) == 60
    assert [p.told for p in some[:4]] == [0, 3, 0, 3]
    assert {w for p in some for w in f"{p.prompt} {p.answer}".split()} <= set(words())
    assert people(60, told=(0, 3), seed=1) == some
    with pytest.raises(ins.InputError, match="there are 576 names"):
        people(577)


def test_paragraphs_are_prose_and_come_once() -> None:
    docs = python_paragraphs()
    assert len(docs) > 500
    assert len({p.text for p in docs}) == len(docs)
    assert all(len(p.text) >= 80 for p in docs)
    assert len({p.topic for p in docs}) > 40


def test_pieces_of_words_give_every_text_back() -> None:
    tokenizer = piece_tokenizer([p.text for p in python_paragraphs()[:40]], 400)
    assert len(tokenizer) == 400
    for text in ("def f(x): return x ** 2", "naïve Σ", python_paragraphs()[50].text):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    with pytest.raises(ins.InputError, match="single bytes alone are 256"):
        piece_tokenizer(["a"], 200)


def test_a_cue_never_stands_with_a_sense_of_another_topic() -> None:
    nouns = {s.noun: s for both in WORDS.values() for s in both}
    topic = {cue: t for t, cues in CUES.items() for cue in cues}
    assert len(topic) == 96, "a cue is of one topic"
    rare = 0
    some = sentences(2000, seed=3)
    for prompt, answer in some:
        said = prompt.split()
        cues = [w for w in said if w in topic and said[said.index(w) - 1] == "the"]
        word = said[said.index("saw") + 2]
        senses = (nouns[word],) if word in nouns else WORDS[word]
        meant = next(s for s in senses if answer in (s.kind, s.do, s.has))
        assert all(topic[c] == meant.topic for c in cues)
        if word in WORDS:
            assert not any(c in weak_cues(meant.topic) for c in cues)
            rare += meant == WORDS[word][1]
    n = sum(p.split()[p.split().index("saw") + 2] in WORDS for p, _ in some)
    assert 0.06 < rare / n < 0.14
    assert {w for prompt, answer in some for w in [*prompt.split(), answer]} <= set(vocabulary())


def test_items_say_what_is_right_what_is_tempting_and_what_supports_either() -> None:
    items = sense_items(200, rare=0.5, weak=1.0, seed=2)
    assert sum(item.is_rare for item in items) == 100
    for item in items:
        sense, other = WORDS[item.word][item.is_rare], WORDS[item.word][not item.is_rare]
        assert (item.answer, item.wrong) == (getattr(sense, item.asked), getattr(other, item.asked))
        assert item.answer not in item.plus
        assert item.wrong not in item.minus
        assert not set(item.plus) & set(item.minus)
        assert set(item.cues) <= set(weak_cues(sense.topic))
        lengths = {len(p.split()) for p in (item.prompt, item.corrected, item.neutral)}
        assert len(lengths) == 1
        assert any(c in item.corrected.split() for c in strong_cues(sense.topic))
        assert without_context(item).prompt == item.neutral
        assert any(w in item.neutral.split() for w in EMPTY)
    with pytest.raises(ins.InputError, match="shares are between 0 and 1"):
        sense_items(5, rare=1.5)
