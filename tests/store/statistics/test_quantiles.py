"""Quantiles: exact while they fit, within the stated error after that, for any order of merging."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inscape.core.errors import FileError, InputError, NotFiniteError, ShapeError
from inscape.store.statistics import Quantiles
from tests.store.statistics.made import normal
from tests.store.statistics.test_moments import tree

AT = torch.linspace(0, 1, 21, dtype=torch.float64)


def rank_errors(found, x):
    """How far the rank of each quantile found is from the one asked for, at its nearest, as a fraction of the rows."""
    values = found.quantile(AT)
    below = torch.stack([(x < v).double().mean(0) for v in values])
    upto = torch.stack([(x <= v).double().mean(0) for v in values])
    return torch.maximum(below - AT[:, None], AT[:, None] - upto).clamp(min=0)


def test_quantiles_are_exact_while_all_rows_are_held():
    x = normal(200, 3)
    found = Quantiles(256)
    for part in x.split(17):
        found.update(part)
    assert found.rank_error() == 0
    expected = np.quantile(x.numpy(), AT.numpy(), axis=0, method="inverted_cdf")
    np.testing.assert_array_equal(found.quantile(AT).numpy(), expected)
    torch.testing.assert_close(found.rank(x[50]), (x <= x[50]).double().mean(0))


@pytest.mark.parametrize("rows", ["normal", "sorted", "reversed", "equal", "spiky"])
@pytest.mark.parametrize("batch", [5, 1000])
def test_the_error_is_within_the_bound_whatever_the_rows(rows, batch):
    x = normal(20_000, 4, dtype=torch.float32)
    x = {
        "normal": x, "sorted": x.sort(0).values, "reversed": x.sort(0, descending=True).values,
        "equal": torch.ones_like(x), "spiky": x.relu() ** 8,
    }[rows]  # fmt: skip
    found = Quantiles(128)
    for part in x.split(batch):
        found.update(part)
    bound = found.rank_error(1 - 1e-6)  # of one query; 84 are asked here
    assert float(rank_errors(found, x).max()) <= bound
    assert float(rank_errors(found, x).mean()) < found.rank_error(0.99) / 3  # far within it on average
    assert found.rank_error(0.99) < bound < found.rank_error(1.0)
    assert torch.equal(found.min_, x.amin(0))
    assert torch.equal(found.max_, x.amax(0))


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 3000), parts=st.integers(1, 12))
def test_the_error_is_within_the_bound_for_any_cuts_and_order_of_merging(seed, n, parts):
    x = normal(n, 2, seed=seed)
    at = 0
    made = []
    for part in x.chunk(parts):
        made.append(Quantiles(32).update(part, at))
        at += len(part)
    found = tree(made, seed)
    assert found.n == n
    assert sum(level.shape[1] << h for h, level in enumerate(found._levels)) == n  # no row is lost or counted twice
    assert float(rank_errors(found, x).max()) <= found.rank_error(1 - 1e-6) + 1e-12


def test_the_error_stated_in_the_docstring_is_the_one_there_is():
    found, x = Quantiles(256), normal(10_000, 1, dtype=torch.float32)
    for i in range(100):
        found.update(x + i)
        if found.n == 10_000:
            assert found.rank_error(0.99) <= 0.003
    assert found.n == 10**6
    assert found.rank_error(0.99) == pytest.approx(0.008, abs=0.002)
    assert sum(level.shape[1] for level in found._levels) <= 3 * 256 + 8 * math.log2(found.n)


def test_coins_are_fair_and_differ_between_sketches():
    one, two = Quantiles(8), Quantiles(8)
    one._first, two._first = 0, 1 << 32
    a, b = [one._coin() for _ in range(2000)], [two._coin() for _ in range(2000)]
    assert 900 < sum(a) < 1100
    assert 900 < sum(x == y for x, y in zip(a, b, strict=True)) < 1100


def test_a_state_goes_on_with_the_very_same_coins():
    x = normal(5000, 2, dtype=torch.float32)
    straight = Quantiles(64).update(x[:2500]).update(x[2500:])
    stopped = Quantiles.from_state(*Quantiles(64).update(x[:2500]).state()).update(x[2500:])
    assert torch.equal(straight.quantile(AT), stopped.quantile(AT))
    assert straight.rank_error() == stopped.rank_error()


def test_rows_may_change_after_they_were_counted():
    x = normal(10, 1)
    found = Quantiles(64).update(x)
    expected = found.quantile(0.5)
    x.zero_()
    assert torch.equal(found.quantile(0.5), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_keep_their_values(dtype):
    x = normal(100, 3).to(dtype)
    assert torch.equal(Quantiles().update(x).quantile(0.5), x.float().sort(0).values[49])


def test_what_cannot_be_is_refused():
    found = Quantiles().update(normal(20, 2))
    with pytest.raises(InputError, match="k is at least 8"):
        Quantiles(2)
    with pytest.raises(InputError, match=r"a quantile lies between 0 and 1; got 1.5"):
        found.quantile(1.5)
    with pytest.raises(InputError, match=r"a quantile lies between 0 and 1; got nan"):
        found.quantile(float("nan"))
    with pytest.raises(InputError, match=r"confidence=0.0: it lies in"):
        found.rank_error(0.0)
    with pytest.raises(InputError, match="a quantile takes at least 1 row"):
        Quantiles().quantile(0.5)
    with pytest.raises(InputError, match="quantiles-256-0 cannot be merged with quantiles-64-0"):
        found.merge(Quantiles(64))
    with pytest.raises(ShapeError, match="of 2 units cannot be merged with one of 3"):
        found.merge(Quantiles().update(normal(2, 3)))
    with pytest.raises(NotFiniteError, match="unit 1 of row 0 of these 1 is nan"):
        found.update(torch.tensor([[0.0, float("nan")]]))
    tensors, about = found.state()
    with pytest.raises(FileError, match="do not stand for 21 rows"):
        Quantiles.from_state(tensors, about | {"n": 21})
    with pytest.raises(FileError, match="no state of quantiles"):
        Quantiles.from_state({"min": tensors["min"]}, about)
    with pytest.raises(FileError, match="99 levels"):
        Quantiles.from_state(tensors, about | {"levels": 99})
