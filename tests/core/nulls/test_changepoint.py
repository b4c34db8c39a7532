"""A planted break is found where it is; straight curves are said to break as rarely as p promises."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.nulls import changepoint


def bent(x, k, low=0.1, high=1.5):
    return low * x + (high - low) * np.maximum(x - k, 0)


def test_two_lines_without_noise_break_exactly_where_they_meet():
    x = np.arange(12.0)
    found = changepoint(bent(x, 5.0) + 1e-9 * np.sin(x), x)
    assert found.at.value == 5.0
    assert found.explained == pytest.approx(1.0)
    assert (found.before, found.after) == (pytest.approx(0.1), pytest.approx(1.5))
    assert found.p == pytest.approx(1 / 1001)
    np.testing.assert_allclose(found.fitted.numpy(), bent(x, 5.0), atol=1e-7)


def test_a_step_breaks_at_its_first_high_point():
    y = torch.tensor([0.0, 0.1, -0.1, 0.0, 1.0, 1.1, 0.9, 1.0])
    found = changepoint(y, [1, 2, 4, 8, 16, 32, 64, 128], shape="step")
    assert found.at.value == 16
    assert (found.before, found.after) == (pytest.approx(0.0), pytest.approx(1.0))


@given(seed=st.integers(0, 10**6), k=st.integers(3, 8), shape=st.sampled_from(["line", "step"]))
def test_the_break_is_that_of_a_slow_search(seed, k, shape):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.random(12)) * 10
    y = (bent(x, x[k]) if shape == "line" else (x >= x[k]) * 2.0) + rng.normal(size=12) * 0.3
    found = changepoint(y, x, shape=shape, n=2)
    best = (np.inf, 0.0)
    base = [np.ones(12), x] if shape == "line" else [np.ones(12)]
    fine = np.concatenate([np.linspace(a, b, 4, endpoint=False) for a, b in itertools.pairwise(x)])
    for place in fine[(fine >= x[1]) & (fine <= x[-2])] if shape == "line" else x[2:-1]:
        columns = np.stack([*base, np.maximum(x - place, 0) if shape == "line" else (x >= place) * 1.0], 1)
        error = float(((y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]) ** 2).sum())
        best = min(best, (error, place))
    whole = np.stack(base, 1)
    flat = float(((y - whole @ np.linalg.lstsq(whole, y, rcond=None)[0]) ** 2).sum())
    assert found.at.value == pytest.approx(best[1])
    assert found.explained == pytest.approx(1 - best[0] / flat)


@given(scale=st.floats(0.1, 50), shift=st.floats(-100, 100))
def test_units_of_the_curve_do_not_matter(scale, shift):
    rng = np.random.default_rng(0)
    y = bent(np.arange(10.0), 4.0) + rng.normal(size=10) * 0.2
    one, two = changepoint(y, n=50), changepoint(y * scale + shift, n=50)
    assert two.at.value == one.at.value
    assert two.p == one.p
    assert two.explained == pytest.approx(one.explained)


@pytest.mark.parametrize("items", [1, 12])
def test_straight_noisy_curves_are_called_broken_as_often_as_p_says(items):
    x, hits = np.arange(14.0), 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(items, 14))
        if items > 1:  # points of one item depend on one another, as running means do
            noise = noise + np.roll(noise, 1, 1) + np.roll(noise, 2, 1)
        curve = 0.3 * x + noise
        hits += changepoint(curve if items > 1 else curve[0], x, n=99, seed=seed).p <= 0.05
    assert hits <= 21  # 10 expected; 21 is beyond 3 standard deviations


def test_the_interval_of_items_holds_the_planted_break_and_narrows_with_them():
    x = np.arange(16.0)
    held, widths = 0, {}
    for items in (8, 64):
        spread = []
        for seed in range(40):
            rng = np.random.default_rng(seed)
            found = changepoint(bent(x, 7.0) + rng.normal(size=(items, 16)) * 2, x, n=200, seed=seed)
            held += items == 8 and found.at.low <= 7.0 <= found.at.high
            spread.append(found.at.high - found.at.low)
        widths[items] = np.median(spread)
    assert held >= 33
    assert widths[64] < 0.6 * widths[8]
    assert found.at.n_items == 64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([1.0, 2.0, 4.0, 1.0],), "4 points cannot be cut into two segments of 2 or more"),
        (([1.0, 2.0, 4.0, 1.0, 0.0], [0, 1, 1, 2, 3]), "x does not rise"),
        ((list(range(8)),), "the curve is one line exactly"),
        (([1.0] * 7 + [float("nan")],), "NaN"),
    ],
)
def test_curves_that_cannot_be_cut_are_refused(given, message):
    with pytest.raises(ins.InputError, match=message):
        changepoint(*given)


def test_words_that_are_no_shape_are_refused():
    with pytest.raises(ins.InputError, match="a curve can break as line or step"):
        changepoint(np.arange(8.0) ** 2, shape="kink")
    with pytest.raises(ins.ShapeError, match=r"\[item, point\]"):
        changepoint(np.zeros((2, 2, 8)))
