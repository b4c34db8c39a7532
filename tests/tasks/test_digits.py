"""The digits: parts that do not meet, in the scale that is promised."""

import pytest
import torch

import inscape as ins
from inscape.tasks import digits


def test_the_parts_do_not_meet_and_are_the_same_in_every_call() -> None:
    train, test, every = (digits(s) for s in ("train", "test", "all"))
    assert (len(train), len(test), len(every)) == (1437, 360, 1797)
    seen = {x.numpy().tobytes() for x in train.pixels}
    assert sum(x.numpy().tobytes() in seen for x in test.pixels) == 0
    assert torch.equal(digits("test").pixels, test.pixels)
    assert float(every.pixels.min()) == -1.0
    assert float(every.pixels.max()) == 1.0
    assert test.labels.bincount().min() > 20
    assert 0.1 <= test.chance < 0.2


def test_some_of_them_are_drawn_by_seed() -> None:
    a, b, c = digits("test", 50, seed=0), digits("test", 50, seed=0), digits("test", 50, seed=1)
    assert torch.equal(a.pixels, b.pixels)
    assert not torch.equal(a.pixels, c.pixels)
    sevens = a.subset(a.labels == 7)
    assert set(sevens.labels.tolist()) == {7}
    assert sevens.chance == 1.0


def test_images_that_are_not_there_are_refused() -> None:
    with pytest.raises(ins.InputError, match="train, test, all"):
        digits("valid")
    with pytest.raises(ins.InputError, match="has 360 images"):
        digits("test", 500)
    with pytest.raises(ins.InputError, match="no image is left"):
        digits("test").subset(slice(0, 0))
