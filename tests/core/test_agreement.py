"""Adjusted mutual information: known values, scikit-learn's numbers, chance at zero."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score

import inscape as ins
from inscape.core.agreement import adjusted_mutual_information as ami


@given(seed=st.integers(0, 10**6), n=st.integers(2, 60), k=st.integers(1, 6), m=st.integers(1, 6))
def test_it_is_scikit_learn_s(seed, n, k, m):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, k, n), rng.integers(0, m, n)
    assert ami(a, b) == pytest.approx(adjusted_mutual_info_score(a, b), abs=1e-9)


def test_names_do_not_matter_and_chance_is_zero():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 5, 400)
    assert ami(a, [f"kind {(i * 2) % 5}" for i in a]) == pytest.approx(1.0)
    assert abs(np.mean([ami(a, rng.integers(0, 7, 400)) for _ in range(20)])) < 0.01


def test_groupings_of_other_items_are_refused():
    with pytest.raises(ins.ShapeError, match="3 and 2 labels"):
        ami([1, 2, 3], [1, 2])
    with pytest.raises(ins.InputError, match="there are no items"):
        ami([], [])
