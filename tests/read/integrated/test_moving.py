"""The earth mover's distance over states, against a linear program and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from inscape.read.integrated.causal import states_of
from inscape.read.integrated.moving import corners, earth_mover


@pytest.mark.parametrize(("n", "number"), [(1, 2), (2, 6), (3, 38), (4, 990)])
def test_the_corners_are_as_many_as_there_are_walks_on_a_cube(n, number):
    assert corners(n).shape == (number, 2**n)  # OEIS A137887 counts homomorphisms of the cube into the integers


@given(seed=st.integers(0, 2**31), n=st.integers(1, 4), sharp=st.floats(0.05, 5))
@settings(max_examples=25, deadline=None)
def test_it_is_what_a_linear_program_finds(seed, n, sharp):
    size, bits = 2**n, states_of(n)
    p, q = np.random.default_rng(seed).dirichlet(np.full(size, sharp), 2)
    cost = np.abs(bits[:, None] - bits[None]).sum(2)
    constraints = np.vstack([np.kron(np.eye(size), np.ones(size)), np.kron(np.ones(size), np.eye(size))])
    found = linprog(cost.ravel(), A_eq=constraints, b_eq=np.r_[p, q], method="highs")
    assert float(earth_mover(p, q)) == pytest.approx(found.fun, abs=1e-6)  # the program stops at 1e-7


@given(seed=st.integers(0, 2**31), n=st.integers(1, 5))
@settings(max_examples=10, deadline=None)
def test_between_products_it_is_the_sum_over_nodes(seed, n):
    on = np.random.default_rng(seed).random((2, n))
    p, q = (np.where(states_of(n) == 1, row, 1 - row).prod(1) for row in on)
    assert float(earth_mover(p, q)) == pytest.approx(np.abs(on[0] - on[1]).sum(), abs=1e-9)


def test_many_at_once_are_as_one_by_one():
    p, q = np.random.default_rng(0).dirichlet(np.ones(8), (2, 5))
    np.testing.assert_allclose(earth_mover(p, q), [float(earth_mover(a, b)) for a, b in zip(p, q, strict=True)])
