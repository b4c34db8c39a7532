"""Depths from curves, on curves whose depth is known."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.read.depth.settling import depth_score, effective_depth


def test_a_curve_settles_where_it_stays() -> None:
    assert effective_depth([3.0, 0.1, 2.0, 0.4, 0.2], 0.5) == 3
    assert effective_depth([0.1, 0.2], 0.5) == 0
    assert effective_depth([0.1, 0.9], 0.5) is None
    assert effective_depth([0.0, 1.0, 0.5], 0.5, "above") == 1
    with pytest.raises(ins.InputError, match="'below' or 'above'"):
        effective_depth([0.0], 0.5, "left")
    with pytest.raises(ins.InputError, match="NaN"):
        effective_depth([float("nan")], 0.5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0, 1))
def test_a_looser_threshold_never_settles_later(curve: list[float], threshold: float) -> None:
    strict, loose = effective_depth(curve, threshold), effective_depth(curve, threshold + 0.1)
    assert loose is not None if strict is not None else True
    if strict is not None and loose is not None:
        assert loose <= strict


def test_a_score_is_the_layer_where_the_effect_lies() -> None:
    effects = torch.zeros(6, 5)
    effects[:, 3] = 2.0
    made = depth_score(effects, n=50)
    assert (made.value, made.low, made.high) == (3.0, 3.0, 3.0)
    spread = torch.rand(40, 5, generator=torch.Generator().manual_seed(0))
    made = depth_score(spread, n=200)
    weight = spread.double().mean(0)
    assert made.value == pytest.approx(float((weight * torch.arange(5)).sum() / weight.sum()))
    assert made.low < made.value < made.high
    with pytest.raises(ins.InputError, match="negative"):
        depth_score(-effects)
    with pytest.raises(ins.ShapeError, match="two layers"):
        depth_score(torch.ones(4, 1))
