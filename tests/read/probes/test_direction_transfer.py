"""A shared direction is found, one that was turned is not, and noise is called shared as rarely as p says."""

import pytest
import torch

import inscape as ins
from inscape.read.probes.direction_transfer import direction_transfer, same_direction
from tests.common.small import gpt2


def planted(seed, n=120, d=16, size=3.0, turn=False):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2 == 0
    along = torch.zeros(d)
    along[0] = size
    x = torch.randn(n, d, generator=generator) + y[:, None] * along
    other = torch.randn(n, d, generator=generator) + y[:, None] * (along.roll(5) if turn else along)
    return x, other + 4.0, y


def test_a_shared_direction_reads_both_and_its_threshold_only_one():
    x, other, y = planted(0)
    found = direction_transfer(x, other, y, n=200)
    assert found.cosine > 0.9
    assert found.p < 0.01
    assert abs(found.lost) < 0.05
    assert found.own.value > 0.85
    assert found.as_is.value < 0.6  # the second model's states lie 4 units away
    assert found.random < found.moved.low
    assert "cosine 0.9" in str(found)


def test_a_turned_direction_is_not_shared():
    x, other, y = planted(1, turn=True)
    found = direction_transfer(x, other, y, n=200)
    assert found.own.value > 0.85
    assert found.moved.value < 0.7
    assert abs(found.cosine) < 0.5


def test_states_without_any_direction_are_seldom_called_shared():
    hits = 0
    for seed in range(200):
        x, other, y = planted(seed, n=40, size=0.0)
        hits += direction_transfer(x, other, y, folds=2, n=39, seed=seed).p <= 0.05
    assert hits <= 21


def test_whole_groups_are_held_out():
    x, other, y = planted(2, n=80)
    names = ["cities"] * 40 + ["things"] * 40
    found = direction_transfer(x, other, y, names, n=20)
    assert list(found.by_group) == ["cities", "things"]
    held = torch.tensor([n == "things" for n in names])
    w = x[~held][y[~held]].mean(0) - x[~held][~y[~held]].mean(0)
    along, train = other[held] @ w, other[~held] @ w
    middle = (train[y[~held]].mean() + train[~y[~held]].mean()) / 2
    assert found.by_group["things"][1] == pytest.approx(float(((along > middle) == y[held]).double().mean()))


def test_items_that_do_not_fit_are_refused():
    x, other, y = planted(3)
    with pytest.raises(ins.ShapeError, match="give the same items at sites of the same width"):
        direction_transfer(x, other[:10], y)
    with pytest.raises(ins.InputError, match="without a all labels are alike"):
        direction_transfer(x, other, torch.arange(120) < 60, ["a"] * 60 + ["b"] * 60)
    with pytest.raises(ins.InputError, match="one group cannot be held out from itself"):
        direction_transfer(x, other, y, ["a"] * 120)
    with pytest.raises(ins.InputError, match="folds=1 of 120 items"):
        direction_transfer(x, other, y, folds=1)


def test_states_are_read_at_the_positions_asked_for_on_either_side():
    model = gpt2()
    inputs = [[i % 50 + 2 for i in range(k, k + 3 + k % 4)] for k in range(24)]
    at = torch.tensor([k % 3 for k in range(24)])
    y = torch.arange(24) % 2 == 0
    found = same_direction(inputs, y, "layers.1.resid_post", at=at, batch=5, n=20)(model, model)
    rows = torch.stack([
        ins.run(model, [ids], read="layers.1.resid_post")["layers.1.resid_post"][0, p]
        for ids, p in zip(inputs, at, strict=True)
    ])  # fmt: skip
    again = direction_transfer(rows, rows, y, n=20)
    assert found["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert float(found["own accuracy"]) == pytest.approx(again.own.value)
