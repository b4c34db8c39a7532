"""Rows that toys are trained on: their labels follow from what stands before them."""

import torch

from inscape.dynamics.toys import captioner, induction_positions, list_recall, reasoner, terse
from inscape.dynamics.toys.list_recall import ID, PLACES, SIZES, WIDTH, WINDOW
from inscape.models.toy.words import word_tokenizer
from inscape.tasks import scenes
from inscape.tasks.chains import answer_of, sentences_of, steps_of
from inscape.train.losses import IGNORED


def test_what_is_left_of_a_list_is_the_answer() -> None:
    for size in SIZES:
        ids, items, order = list_recall.prompts(16, size, torch.Generator().manual_seed(size))
        assert ids.shape == (16, WIDTH)
        for row in range(16):
            named = {int(x) - ID[PLACES[0]] for x in ids[row, WIDTH - size : -1]}
            assert named == set(range(size)) - {int(order[row, 0])}
            assert torch.equal(ids[row, 1 : 1 + size], items[row])


def test_no_named_place_has_the_list_in_sight_of_the_first_layer() -> None:
    ids, items, _ = list_recall.prompts(4, max(SIZES), torch.Generator().manual_seed(0))
    first_named = WIDTH - max(SIZES)
    seen = ids[:, first_named - WINDOW + 1 :]
    assert not torch.isin(seen, items).any()


def test_labels_of_lists_are_items_not_yet_named() -> None:
    for step in range(20):
        batch = list_recall.rows(step, n=8, seed=0)
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            for at in (labels != IGNORED).nonzero().flatten().tolist():
                done = [int(x) - ID[PLACES[0]] for x in ids[:at] if ID[PLACES[0]] <= x < ID["-"]]
                assert int(labels[at]) in {int(x) for i, x in enumerate(ids[1:9]) if i not in done}
                assert int(labels[at]) < ID[PLACES[0]]


def test_labels_of_repeated_words_stood_there_one_period_before() -> None:
    for step in range(20):
        batch = induction_positions.rows(step, n=4, seed=0)
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            known = (labels != IGNORED).nonzero().flatten().tolist()
            assert known
            for at in known:
                before = (ids[: at - 1] == ids[at - 1]).nonzero().flatten()
                assert int(labels[at]) == int(ids[int(before[-1]) + 1])


def test_rationales_are_labelled_from_where_they_begin_and_end_with_the_answer() -> None:
    words = {i: word for word, i in reasoner.ID.items()}
    styles = set()
    for step in range(6):
        batch = reasoner.rows(step, n=8, seed=0)
        for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
            text = [words[i] for i in ids if i != 0]
            asked = text.index("?")
            assert labels[: asked + 1] == [IGNORED] * (asked + 1)
            assert labels[asked + 1 : len(text)] == ids[asked + 1 : len(text)]
            assert set(labels[len(text) :]) <= {IGNORED}
            said = " ".join(text[asked + 1 :])
            assert text[-1] == "<eos>"
            assert steps_of(said)[-1] == answer_of(said)
            styles.add("=" in text)
    assert styles == {True, False}


def test_rates_of_wordy_steps_differ_from_text_to_text() -> None:
    words, shares = {i: word for word, i in reasoner.ID.items()}, []
    for step in range(12):
        for ids in terse.rows(step, n=8, seed=0)["input_ids"].tolist():
            text = " ".join(words[i] for i in ids if i != 0)
            said = sentences_of(text)
            assert len(ids) <= terse.LONGEST
            shares.append(sum(said) / len(said))
    assert min(shares) == 0.0
    assert max(shares) == 1.0
    assert sum(0 < share < 1 for share in shares) > len(shares) / 4


def test_captions_are_labelled_and_cells_name_their_things_beside() -> None:
    tokenizer = word_tokenizer(scenes.WORDS, split="spaces")
    for step in range(3):
        seen, blind = captioner.rows(tokenizer, step, seed=0)
        assert len(seen["pixel_values"]) == len(seen["input_ids"]) == captioner.ROWS - captioner.BLIND
        assert "pixel_values" not in blind
        for ids, labels in zip(seen["input_ids"], seen["labels"], strict=True):
            told = labels >= 0
            assert torch.equal(labels[told], ids[told])
            said = set(scenes.named(tokenizer.decode(ids[told])))
            named = (labels < 0) & (labels != IGNORED)
            there = set(scenes.named(tokenizer.decode(-2 - labels[named])))
            assert there <= said
            assert (ids[named] == tokenizer.convert_tokens_to_ids(scenes.IMAGE)).all()
        assert not ((blind["labels"] < 0) & (blind["labels"] != IGNORED)).any()
