"""Moments, covariance, cross-covariance: right on paper, the same for any cuts, and far from zero."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inscape.core.errors import FileError, InputError, NotFiniteError, ShapeError
from inscape.store.statistics import Covariance, Cross, Moments, linear_cka
from inscape.store.statistics.contract import numbered, taken
from inscape.store.statistics.moments import zeros
from tests.store.statistics.made import normal

cuts = st.lists(st.integers(0, 60), max_size=6)


def pieces(x, at):
    edges = [0, *sorted(min(c, len(x)) for c in at), len(x)]
    return [x[a:b] for a, b in pairwise(edges)]


def tree(parts, seed):
    """Merge in an order drawn from a seed, either side first."""
    random = np.random.default_rng(seed)
    parts = list(parts)
    while len(parts) > 1:
        a, b = parts.pop(random.integers(len(parts))), parts.pop(random.integers(len(parts)))
        parts.append(a.merge(b))
    return parts[0]


def test_two_rows_are_known_on_paper():
    found = Covariance().update(torch.tensor([[1.0, 4.0], [3.0, 0.0]]))
    assert found.mean_.tolist() == [2.0, 2.0]
    assert found.covariance_.tolist() == [[2.0, -4.0], [-4.0, 8.0]]
    assert found.variance_.tolist() == [2.0, 8.0]


@given(seed=st.integers(0, 2**31), d=st.integers(1, 6), at=cuts, scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_any_cuts_and_any_order_of_merging_give_the_same(seed, d, at, scale):
    x = scale * (normal(60, d, seed=seed) + 3)
    whole = Covariance().update(x)
    found = tree([Covariance().update(p) for p in pieces(x, at)], seed)
    small = tree([Moments().update(p) for p in pieces(x, at)], seed)
    assert found.n == small.n == 60
    torch.testing.assert_close(found.mean_, whole.mean_, rtol=1e-10, atol=1e-10 * scale)
    torch.testing.assert_close(found.covariance_, whole.covariance_, rtol=1e-10, atol=1e-10 * scale**2)
    torch.testing.assert_close(small.variance_, whole.variance_, rtol=1e-10, atol=1e-10 * scale**2)
    torch.testing.assert_close(small.mean_, whole.mean_, rtol=1e-10, atol=1e-10 * scale)


def test_numpy_agrees_where_blocks_of_units_meet():
    x = normal(50, 600)
    found = Covariance()
    for part in x.split(7):
        found.update(part)
    np.testing.assert_allclose(found.covariance_.numpy(), np.cov(x.numpy().T), atol=1e-12)
    assert torch.equal(found.covariance_, found.covariance_.T)
    torch.testing.assert_close(Moments().update(x).std_, x.std(0))


def test_a_mean_of_a_million_costs_the_covariance_no_digits():
    x = normal(5000, 4, seed=1)
    exact = torch.cov(x.T)
    found = Covariance()
    for part in (x + 1e6).split(64):
        found.update(part)
    torch.testing.assert_close(found.covariance_, exact, rtol=1e-8, atol=1e-8)
    naive = ((x + 1e6).T @ (x + 1e6) - 5000 * torch.outer((x + 1e6).mean(0), (x + 1e6).mean(0))) / 4999
    assert (naive - exact).abs().max() > 1e3 * (
        found.covariance_ - exact
    ).abs().max()  # the one-pass formula loses them


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_float_type_is_summed_in_float64(dtype):
    x = normal(300, 3).to(dtype)
    found = Covariance().update(x)
    assert found.covariance_.dtype == torch.float64
    torch.testing.assert_close(found.covariance_, torch.cov(x.double().T), rtol=1e-12, atol=1e-12)


def test_a_sum_beyond_the_type_itself_is_no_error():
    x = torch.full((100, 2), 3e38)
    assert Moments().update(x).mean_.tolist() == pytest.approx([3e38, 3e38])
    assert Moments().update(torch.full((4, 1), 1e308, dtype=torch.float64)).n == 4


def test_rows_are_not_changed_and_not_kept():
    x = normal(8, 3)
    before = x.clone()
    found = [kind().update(x) for kind in (Moments, Covariance)]
    assert torch.equal(x, before)
    x.zero_()
    for f in found:
        torch.testing.assert_close(f.mean_, before.mean(0))
    found[0].mean_.zero_()  # nor is what is given the state itself
    torch.testing.assert_close(found[0].mean_, before.mean(0))


def test_what_is_not_finite_is_refused_with_where_and_changes_nothing():
    found = Covariance().update(normal(4, 3))
    before = found.covariance_
    for bad in (float("nan"), float("inf")):
        x = normal(4, 3)
        x[2, 1] = bad
        with pytest.raises(NotFiniteError, match=f"unit 1 of row 2 of these 4 is {bad}"):
            found.update(x)
    assert found.n == 4
    assert torch.equal(found.covariance_, before)


def test_too_few_rows_are_said():
    with pytest.raises(InputError, match="a mean takes at least 1 row; 0 were seen"):
        _ = Moments().mean_
    with pytest.raises(InputError, match="a covariance takes at least 2 rows; 1 were seen"):
        _ = Covariance().update(normal(1, 2)).covariance_
    assert Moments().update(normal(0, 2)).n == 0
    assert Covariance().merge(Covariance()).n == 0


def test_what_does_not_fit_is_said():
    found = Moments().update(normal(3, 4))
    with pytest.raises(ShapeError, match="moments has seen rows of 4 units; these have 5"):
        found.update(normal(3, 5))
    with pytest.raises(ShapeError, match="moments of 4 units cannot be merged with one of 2"):
        found.merge(Moments().update(normal(3, 2)))
    with pytest.raises(InputError, match="moments cannot be merged with covariance"):
        found.merge(Covariance())  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"takes rows \[n, d\]; got the shape \(2, 3, 4\)"):
        taken(normal(2, 3, 4), None, "moments")
    with pytest.raises(InputError, match=r"takes rows of floats; got torch\.int64"):
        taken(torch.ones(2, 2, dtype=torch.int64), None, "moments")
    with pytest.raises(ShapeError, match="3 rows need 3 numbers"):
        numbered(torch.arange(2), 3, 0, torch.device("cpu"))


def test_a_matrix_that_cannot_fit_is_refused_before_it_is_made():
    with pytest.raises(InputError, match=r"65,536 by 65,536 units takes 34.4 GB.*\n.*use PCA"):
        zeros(65536, 65536, torch.device("cpu"))


@given(seed=st.integers(0, 2**31), at=cuts)
def test_cross_covariance_is_a_corner_of_the_covariance_of_both(seed, at):
    x, y = normal(60, 3, seed=seed) + 5, normal(60, 4, seed=seed + 1)
    whole = Covariance().update(torch.cat([x, y], 1)).covariance_
    parts = [Cross().update(a, b) for a, b in zip(pieces(x, at), pieces(y, at), strict=True)]
    torch.testing.assert_close(tree(parts, seed).covariance_, whole[:3, 3:], rtol=1e-10, atol=1e-10)


def filled(x, y):
    return Cross().update(x, y), Covariance().update(x), Covariance().update(y)


def test_cka_is_what_the_rows_give_and_does_not_see_a_rotation_or_a_scale():
    x, y = normal(40, 6), normal(40, 5, seed=1)
    a, b = x - x.mean(0), y - y.mean(0)
    plain = (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert linear_cka(*filled(x, y)) == pytest.approx(float(plain), rel=1e-12)
    rotation = torch.linalg.qr(normal(6, 6, seed=2)).Q
    assert linear_cka(*filled(x, 3 * x @ rotation + 7)) == pytest.approx(1.0)  # Kornblith et al. 2019, section 2


def test_cka_of_other_rows_is_refused():
    x, y = normal(40, 6), normal(40, 5, seed=1)
    cross, within_x, within_y = filled(x, y)
    with pytest.raises(InputError, match="one set of rows: 40 between the sites, 40 and 40 within"):
        linear_cka(cross, within_y, within_x)
    with pytest.raises(InputError, match="one set of rows"):
        linear_cka(cross, within_x, Covariance().update(y + 1))
    with pytest.raises(InputError, match="the same in every row"):
        linear_cka(*filled(x, torch.ones(40, 2, dtype=torch.float64)))
    with pytest.raises(ShapeError, match="same rows; got 40 and 3"):
        cross.update(x, y[:3])


@pytest.mark.parametrize("made", [Moments().update(normal(9, 3)), Covariance().update(normal(9, 3))])
def test_a_state_goes_on_where_it_was(made):
    again = type(made).from_state(*made.state())
    more = normal(5, 3, seed=4)
    assert again.update(more).n == 14
    torch.testing.assert_close(again.variance_, made.merge(made.fresh().update(more)).variance_)


def test_a_state_that_is_none_is_refused():
    tensors, about = Covariance().update(normal(9, 3)).state()
    with pytest.raises(FileError, match=r"no state of moments: it holds \['mean', 'scatter'\]"):
        Moments.from_state(tensors, about)
    with pytest.raises(FileError, match=r"scatter is torch\.float32"):
        Covariance.from_state(tensors | {"scatter": tensors["scatter"].float()}, about)
    with pytest.raises(FileError, match=r"\(2, 3\) for 3 units"):
        Covariance.from_state(tensors | {"scatter": tensors["scatter"][:2]}, about)
    with pytest.raises(FileError, match="n is -1, not a count"):
        Covariance.from_state(tensors, {"n": -1})
    with pytest.raises(FileError, match="unlike length"):
        Moments.from_state({"mean": tensors["mean"], "squares": tensors["mean"][:2]}, about)
    cross, _ = Cross().update(normal(4, 3), normal(4, 2)).state()
    with pytest.raises(FileError, match=r"\(3, 2\) for 2 by 2 units"):
        Cross.from_state(cross | {"mean_x": cross["mean_y"]}, {"n": 4})
