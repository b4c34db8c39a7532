"""Scenes are drawn by their seed, captions say what is there, and habit adds what is only tempting."""

import pytest
import torch

import inscape as ins
from inscape.models.toy.words import word_tokenizer
from inscape.tasks.scenes import CELL, GRID, HABITS, IMAGE, NOISE, THINGS, TOGETHER, WORDS, asked, named, scenes


def test_captions_name_what_is_there_and_habit_what_is_tempting():
    for i, scene in enumerate(scenes(60, seed=1)):
        assert set(named(scene.caption(habit=0.0, seed=i))) == scene.names
        said = named(scene.caption(habit=1.0, seed=i))
        assert set(said) == scene.names | scene.tempting
        assert len(said) == len(set(said))
        for a, b in HABITS.items():
            if a in said and b in said:
                assert said.index(b) == said.index(a) + 1
        assert set(scene.caption(seed=i).split()) <= set(WORDS)


def test_pictures_show_their_things_where_they_are():
    for scene in scenes(20, seed=2):
        assert scene.pixels.shape == (3, GRID * CELL, GRID * CELL)
        assert torch.equal(scene.pixels, scene.pixels)
        empty = set(range(GRID * GRID)) - {cell for *_, cell, _ in scene.things}
        cells = scene.pixels.unfold(1, CELL, CELL).unfold(2, CELL, CELL).flatten(1, 2).transpose(0, 1).flatten(1)
        loud = cells.square().mean(1)
        assert float(loud[[c for *_, c, clear in scene.things if clear > 0.7]].mean().nan_to_num(9)) > float(
            loud[sorted(empty)].mean()
        )
        assert float(loud[sorted(empty)].mean().sqrt()) == pytest.approx(NOISE, rel=0.2)


def test_the_habit_s_partner_is_mostly_there():
    made = scenes(1500, seed=3)
    with_first = [s for s in made for a in HABITS if a in s.names]
    missing = sum(b in s.tempting for s in made for b in HABITS.values())
    assert 1 - missing / len(with_first) == pytest.approx(TOGETHER, abs=0.1)
    assert all(s.tempting for s in scenes(10, tempting=True, seed=4))
    assert not any(s.tempting for s in scenes(10, tempting=False, seed=4))
    assert scenes(3, seed=5) == scenes(3, seed=5)
    assert len({len({*THINGS.values()}), len(THINGS)}) == 1
    with pytest.raises(ins.InputError, match=r"scenes\(0\): at least one"):
        scenes(0)


def test_prompts_hold_a_token_for_every_cell_or_no_picture():
    tokenizer = word_tokenizer(WORDS, split="spaces")
    made = scenes(2, seed=6)
    mark = tokenizer.convert_tokens_to_ids(IMAGE)
    seen, blind = asked(tokenizer, made), asked(tokenizer, made, image=False)
    assert ((seen["input_ids"] == mark).sum(1) == GRID * GRID).all()
    assert "pixel_values" not in blind
    assert seen["input_ids"][0][seen["input_ids"][0] != mark].tolist() == blind["input_ids"][0].tolist()
    told = asked(tokenizer, made, captions=[s.caption() for s in made])
    assert tokenizer.decode(told["input_ids"][0][told["attention_mask"][0].bool()]).endswith(made[0].caption())
