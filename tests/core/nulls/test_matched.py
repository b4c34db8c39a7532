"""Random sets and directions are like the chosen ones in what they should be, and random in the rest."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls import layer_matched_orders, layer_matched_sets, random_directions


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=10), st.integers(0, 99))
def test_every_set_has_as_many_of_each_layer(chosen, seed):
    for found in layer_matched_sets(chosen, 6, n=5, seed=seed):
        assert Counter(layer for layer, _ in found) == Counter(layer for layer, _ in chosen)
        assert len(set(found)) == len(found)
        assert all(0 <= unit < 6 for _, unit in found)


def test_every_beginning_of_a_random_order_has_as_many_of_each_layer():
    order = [(2, 0), (0, 1), (2, 3), (1, 1), (2, 1), (0, 2)]
    orders = layer_matched_orders(order, 4, n=2400, seed=2)
    for found in orders[:20]:
        assert len(set(found)) == len(order)
        for k in range(1, 7):
            assert Counter(layer for layer, _ in found[:k]) == Counter(layer for layer, _ in order[:k])
    firsts = Counter(found[0] for found in orders)
    assert len(firsts) == 4
    assert stats.chisquare(list(firsts.values())).pvalue > 0.001
    with pytest.raises(InputError, match="is in the chosen set twice"):
        layer_matched_orders([(0, 1), (0, 1)], 4)


def test_every_set_is_as_likely_as_any_other():
    sets = layer_matched_sets([(0, 0), (0, 1), (2, 3)], [4, 4, 4], n=3600, seed=1)
    counts = Counter(sets)
    assert len(counts) == 6 * 4  # two of four heads, and one of four
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_excluded_units_are_in_no_set():
    chosen = [(0, 0), (1, 2)]
    sets = layer_matched_sets(chosen, {0: 3, 1: 3}, n=50, exclude=chosen)
    assert not any(set(found) & set(chosen) for found in sets)


def test_matched_units_are_as_large_as_the_chosen():
    size = [torch.arange(100.0), torch.arange(100.0).flip(0)]
    sets = layer_matched_sets(
        [(0, 90), (0, 91), (1, 5)], 100, size=size, nearest=10, exclude=[(0, 90), (0, 91), (1, 5)], n=200
    )
    for found in sets:
        assert len(set(found)) == 3
        assert Counter(layer for layer, _ in found) == {0: 2, 1: 1}
        assert all(abs(unit - (90.5 if layer == 0 else 5)) <= 6.5 for layer, unit in found)
    assert len(set(sets)) > 50


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"chosen": []}, "no unit in the chosen set"),
        ({"chosen": [(0, 1), (0, 1)]}, "in the chosen set twice"),
        ({"chosen": [(0, 9)]}, "has 3 units, and no unit 9"),
        ({"chosen": [(5, 0)], "units_by_layer": [3, 3]}, "2 layers, and no layer 5"),
        ({"chosen": [(5, 0)], "units_by_layer": {0: 3}}, "says nothing of layer 5"),
        ({"chosen": [(0, 0), (0, 1)], "exclude": [(0, 0), (0, 1)]}, "needs 2 units and has 1"),
        ({"chosen": [(0, 0)], "size": {1: [1.0]}}, "size says nothing of layer 0"),
        ({"chosen": [(0, 0), (0, 1)], "size": [[1.0, 1.0, 1.0]], "nearest": 1}, "no unit left that is near enough"),
    ],
)
def test_bad_sets_say_what_is_wrong(kwargs, says):
    with pytest.raises(InputError, match=says):
        layer_matched_sets(**{"units_by_layer": 3, **kwargs})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("within", ["sphere", "span", "covariance"])
def test_random_directions_are_as_long_as_the_direction(dtype, within):
    like = torch.arange(1.0, 13.0).reshape(3, 4).to(dtype)
    data = None if within == "sphere" else torch.randn(40, 3, 4)
    drawn = random_directions(like, 7, data=data, within=within)
    assert drawn.shape == (7, 3, 4)
    assert drawn.dtype == dtype
    lengths = drawn.double().flatten(1).norm(dim=1)
    torch.testing.assert_close(
        lengths, like.double().norm().expand(7), rtol=2e-2 if dtype == torch.bfloat16 else 1e-6, atol=0
    )
    assert torch.equal(drawn, random_directions(like, 7, data=data, within=within))
    assert not torch.equal(drawn, random_directions(like, 7, data=data, within=within, seed=1))


def test_directions_of_the_sphere_have_no_preference():
    drawn = random_directions(torch.ones(8), 4000).double()
    torch.testing.assert_close(drawn.T @ drawn / 4000, torch.eye(8).double(), rtol=0, atol=0.08)


def test_directions_of_the_span_stay_in_it_and_have_no_preference_there():
    basis = torch.linalg.qr(torch.randn(10, 3, dtype=torch.float64)).Q
    data = (torch.randn(60, 3, dtype=torch.float64) * torch.tensor([100.0, 1.0, 0.01])) @ basis.T + 5.0
    drawn = random_directions(torch.ones(10, dtype=torch.float64), 3000, data=data, within="span")
    torch.testing.assert_close(drawn @ basis @ basis.T, drawn)
    inside = drawn @ basis
    torch.testing.assert_close(inside.T @ inside / 3000, torch.eye(3).double() * 10 / 3, rtol=0, atol=0.3)


def test_directions_of_the_covariance_vary_as_the_data_do():
    data = torch.randn(400, 4, dtype=torch.float64) * torch.tensor([9.0, 1.0, 1.0, 1.0])
    drawn = random_directions(torch.ones(4, dtype=torch.float64), 2000, data=data)
    assert float((drawn[:, 0] ** 2).mean() / (drawn**2).sum(1).mean()) > 0.7


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: random_directions(torch.zeros(3)), InputError, "length 0.0"),
        (lambda: random_directions(torch.ones(3), within="span"), InputError, "needs data"),
        (lambda: random_directions(torch.ones(3), within="ball"), InputError, "none of 'sphere'"),
        (
            lambda: random_directions(torch.ones(3), data=torch.ones(5, 4)),
            ShapeError,
            r"shape \(5, 4\) for a direction",
        ),
        (lambda: random_directions(torch.ones(3), data=torch.ones(5, 3)), InputError, "do not vary"),
    ],
)
def test_bad_directions_say_what_is_wrong(call, error, says):
    with pytest.raises(error, match=says):
        call()
