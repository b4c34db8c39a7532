"""Principal components: exact where the covariance is kept, within the stated error where it is sketched."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inscape.core.errors import FileError, InputError, ShapeError
from inscape.store.statistics import PCA, Covariance, components_of
from inscape.store.statistics.pca import signed
from tests.store.statistics.made import normal
from tests.store.statistics.test_moments import tree


def rows(n=400, d=30, seed=0, mean=2.0):
    """Rows whose variance falls quickly from one direction to the next."""
    scale = 4 * 0.7 ** torch.arange(d, dtype=torch.float64)
    return (normal(n, d, seed=seed) * scale) @ torch.linalg.qr(normal(d, d, seed=seed + 1)).Q + mean


def test_the_exact_components_are_those_of_the_singular_values():
    x = rows()
    found = PCA(5).update(x[:100]).update(x[100:]).components_
    _, s, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    torch.testing.assert_close(found.variance, s[:5] ** 2 / 399)
    torch.testing.assert_close(found.components, signed(v[:5]))
    torch.testing.assert_close(found.ratio, s[:5] ** 2 / (s**2).sum())
    assert found.error == 0


def test_scikit_learn_agrees_with_signs_and_all():
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = rows()
    theirs = decomposition.PCA(5, svd_solver="full").fit(x.numpy())
    for ours in (PCA(5), PCA(5, length=29, exact_below=0)):
        found = ours.update(x).components_
        tolerance = max(1e-9, 2 * found.error / float(found.variance[4]))
        torch.testing.assert_close(found.variance, torch.tensor(theirs.explained_variance_), rtol=tolerance, atol=1e-9)
        torch.testing.assert_close(found.components, torch.tensor(theirs.components_), rtol=0, atol=1e-3)
        torch.testing.assert_close(found.mean, torch.tensor(theirs.mean_))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), parts=st.integers(1, 7), length=st.integers(4, 12), flat=st.booleans())
def test_the_sketch_is_within_its_error_for_any_cuts_and_order_of_merging(seed, parts, length, flat):
    x = normal(150, 20, seed=seed) + 50 if flat else rows(150, 20, seed, 50)
    found = tree([PCA(3, length, exact_below=0).update(p) for p in x.chunk(parts)], seed)
    c = found.components_
    exact = torch.linalg.eigvalsh(torch.cov(x.T)).flip(0)
    assert c.total_variance == pytest.approx(float(exact.sum()), rel=1e-9)
    slack = 1e-9 * float(exact[0])
    assert bool((c.variance <= exact[:3] + slack).all())
    assert bool((exact[:3] - c.variance <= c.error + slack).all())
    for j in range(length):
        assert c.error <= float(exact[j:].sum()) / (length - j) + slack  # Ghashami et al. 2016, theorem 1.1
    assert found._sketch is not None
    lost = torch.linalg.eigvalsh(149 * torch.cov(x.T) - found._sketch.T @ found._sketch)
    assert -150 * slack <= float(lost.min())
    assert float(lost.max()) <= 149 * c.error + 150 * slack
    torch.testing.assert_close(found.mean_, x.mean(0))


def test_rows_of_low_rank_are_found_exactly_by_the_sketch():
    x = normal(500, 4) @ normal(4, 300, seed=1) + 9
    found = PCA(4, length=8, exact_below=0)
    for part in x.split(33):
        found.update(part)
    c = found.components_
    exact = components_of(Covariance().update(x), 4)
    assert c.error < 1e-9
    torch.testing.assert_close(c.variance, exact.variance)
    torch.testing.assert_close(c.components, exact.components, rtol=0, atol=1e-7)


def test_the_entry_of_largest_magnitude_is_positive():
    found = signed(torch.tensor([[0.6, -0.8], [-0.5, 0.5], [1.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[-0.6, 0.8], [0.5, -0.5], [1.0, 0.0]]))


def test_a_constant_site_has_components_of_no_variance():
    for exact_below in (0, 100):
        c = PCA(1, exact_below=exact_below).update(torch.ones(4, 3)).components_
        assert c.variance.tolist() == [0.0]
        assert c.ratio.tolist() == [0.0]


@pytest.mark.parametrize("exact_below", [0, 100])
def test_a_state_goes_on_where_it_was(exact_below):
    x = rows(100, 12)
    found = PCA(2, exact_below=exact_below).update(x[:60])
    again = PCA.from_state(*found.state())
    assert again.kind == found.kind
    torch.testing.assert_close(again.update(x[60:]).components_.variance, found.update(x[60:]).components_.variance)
    assert again.n == 100


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="length more than k"):
        PCA(4, length=4)
    with pytest.raises(InputError, match="principal components takes at least 2 rows"):
        _ = PCA().components_
    for exact_below in (0, 100):
        found = PCA(16, exact_below=exact_below).update(normal(9, 20))
        with pytest.raises(InputError, match=r"16 principal components were asked for; the .* seen have 8"):
            _ = found.components_
        with pytest.raises(ShapeError, match="of 20 units cannot be merged with one of 3"):
            found.merge(PCA(16, exact_below=exact_below).update(normal(9, 3)))
        with pytest.raises(ShapeError, match="PCA has seen rows of 20 units; these have 3"):
            found.update(normal(9, 3))
    tensors, about = PCA(2, exact_below=0).update(normal(9, 4)).state()
    with pytest.raises(FileError, match="unlike width"):
        PCA.from_state(tensors | {"sketch": tensors["sketch"][:, :2]}, about)
    with pytest.raises(FileError, match="no state of PCA"):
        PCA.from_state({"mean": tensors["mean"]}, about)
    with pytest.raises(FileError, match="8 components from 8 rows"):
        PCA.from_state(tensors, about | {"k": 8})
