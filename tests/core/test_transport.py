"""Optimal transport on the line: known distances, samples of unlike size, gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.transport import matched, squared_transport


def drawn(n: int, d: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_shift_costs_its_square_and_an_order_nothing():
    x = drawn(7)
    shift = torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(squared_transport(x, x[torch.randperm(7)] + shift), shift.square())


def test_a_normal_made_wider_costs_the_square_of_the_difference_of_spreads():
    x = drawn(4000, 1)
    assert float(squared_transport(x, 3 * x)) == pytest.approx(4 * float(x.square().mean()))


@given(n=st.integers(1, 9), m=st.integers(1, 9), seed=st.integers(0, 1000))
def test_samples_of_unlike_size_are_as_if_each_value_stood_as_often_as_it_takes(n, m, seed):
    x, y = drawn(n, 2, seed), drawn(m, 2, seed + 1)
    common = math.lcm(n, m)
    often = squared_transport(x.repeat_interleave(common // n, 0), y.repeat_interleave(common // m, 0))
    torch.testing.assert_close(squared_transport(x, y), often)
    torch.testing.assert_close(squared_transport(x, y), squared_transport(y, x))
    assert float(matched(x, y)[2].sum()) == pytest.approx(1)


def test_gradients_go_through_the_sort():
    x, y = drawn(5).requires_grad_(), drawn(8, seed=1)
    assert torch.autograd.gradcheck(lambda x: squared_transport(x, y).sum(), (x,))


def test_samples_that_cannot_be_moved_are_refused():
    with pytest.raises(ins.ShapeError, match=r"\[n, d\] and \[m, d\]; got \(2, 3\) and \(2, 4\)"):
        squared_transport(drawn(2, 3), drawn(2, 4))
    with pytest.raises(ins.InputError, match="nothing to move"):
        squared_transport(drawn(2), drawn(0))
