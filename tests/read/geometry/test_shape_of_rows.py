"""Spectra, dimensions, cosines, angles, distances and classes: known answers, other libraries, and nothing in noise."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import inscape as ins
from inscape.core import readout
from inscape.read.geometry.angles import subspace_angles
from inscape.read.geometry.anisotropy import anisotropy
from inscape.read.geometry.dimension import two_nn
from inscape.read.geometry.separation import class_separation
from inscape.read.geometry.spectrum import spectrum
from inscape.read.geometry.wasserstein import wasserstein


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# spectra


def test_the_spectrum_of_normal_rows_is_that_of_their_covariance() -> None:
    variance = torch.arange(1, 9, dtype=torch.float64).pow(-1.0)
    x = normal(20_000, 8) * variance.sqrt() @ torch.linalg.qr(normal(8, 8, seed=1))[0] + 50
    found = spectrum(x)
    torch.testing.assert_close(found.values, variance, rtol=0.05, atol=0)
    known = float(variance.sum() ** 2 / variance.square().sum())
    assert found.participation_ratio == pytest.approx(known, rel=0.02)
    assert found.debiased_ratio == pytest.approx(known, rel=0.02)
    assert found.stable_rank == pytest.approx(float(variance.sum()), rel=0.03)
    p = variance / variance.sum()
    assert found.entropy_rank == pytest.approx(math.exp(-float((p * p.log()).sum())), rel=0.02)
    assert found.rankme > found.entropy_rank
    assert found.total == pytest.approx(float(variance.sum()), rel=0.03)
    slope, fits = found.alpha(1, 8)
    assert slope == pytest.approx(1.0, abs=0.05)
    assert fits > 0.99


def test_equal_directions_are_all_counted_and_one_direction_is_one() -> None:
    even = spectrum(torch.cat([torch.eye(6), -torch.eye(6)]).double())
    for number in (even.participation_ratio, even.entropy_rank, even.rankme, even.stable_rank):
        assert number == pytest.approx(6)
    line = spectrum(normal(30, 1) @ normal(1, 7, seed=1))
    assert line.participation_ratio == pytest.approx(1)
    assert line.stable_rank == pytest.approx(1)


def test_few_rows_do_not_lower_the_debiased_ratio() -> None:
    found = [spectrum(normal(30, 20, seed=s), control=None) for s in range(200)]
    plain, honest = [f.participation_ratio for f in found], [f.debiased_ratio for f in found]
    assert np.mean(plain) < 13
    assert np.median(honest) == pytest.approx(20, rel=0.08)


def test_shuffled_units_keep_their_variance_and_lose_their_correlation() -> None:
    x = normal(3000, 2) @ normal(2, 10, seed=1)
    found = spectrum(x)
    assert found.shuffled is not None
    assert found.shuffled.total == pytest.approx(found.total)
    assert found.participation_ratio < 2.1
    assert found.shuffled.participation_ratio > 4
    alone = spectrum(normal(3000, 10))
    assert alone.shuffled is not None
    assert alone.participation_ratio == pytest.approx(alone.shuffled.participation_ratio, rel=0.02)


def test_stretches_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(200, 5) * torch.tensor([1.0, 9, 1, 1, 1]) + 1000
    whole, mean = spectrum(x, control=None), anisotropy(x)
    monkeypatch.setattr(readout, "BATCH_BYTES", 8 * 5 * 30)
    cut = spectrum(x, control=None)
    torch.testing.assert_close(cut.values, whole.values)
    assert cut.debiased_ratio == pytest.approx(whole.debiased_ratio, rel=1e-9)
    assert float(anisotropy(x)) == pytest.approx(float(mean), rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 1e3))
def test_turning_scaling_and_moving_leave_spectra_and_dimensions(seed: int, scale: float) -> None:
    x, turn = normal(60, 4, seed=seed), torch.linalg.qr(normal(4, 4, seed=seed + 1))[0]
    x = x * torch.tensor([3.0, 1, 1, 0.5])
    y = scale * x @ turn + 5
    one, two = spectrum(x, control=None), spectrum(y, control=None)
    assert two.participation_ratio == pytest.approx(one.participation_ratio, rel=1e-6)
    assert two.debiased_ratio == pytest.approx(one.debiased_ratio, rel=1e-6)
    assert float(two_nn(y, control=None)) == pytest.approx(float(two_nn(x, control=None)), rel=1e-5)
    stretched = x * torch.tensor([10.0, 1, 1, 1])
    assert spectrum(stretched, control=None).participation_ratio < one.participation_ratio


# intrinsic dimension


@pytest.mark.parametrize("d", [1, 2, 4])
def test_a_cube_has_its_dimension_however_it_lies(d: int) -> None:
    x = uniform(3000, d, seed=d) @ normal(d, 20, seed=9)
    found = two_nn(x, control=None)
    assert float(found) == pytest.approx(d, rel=0.08)
    assert found.fit == pytest.approx(d, rel=0.10)
    assert found.fit_error < 0.05


def test_a_sheet_that_bends_has_fewer_dimensions_than_a_cloud_of_its_covariance() -> None:
    t = uniform(1500, 2) * torch.tensor([3 * math.pi, 4.0])
    roll = torch.stack([t[:, 0] * t[:, 0].cos(), t[:, 1], t[:, 0] * t[:, 0].sin()], 1)
    found = two_nn(roll)
    assert float(found) == pytest.approx(2, rel=0.12)
    assert found.gaussian is not None
    assert found.gaussian > 2.6


def test_intervals_of_a_dimension_hold_it_and_a_line_of_normal_rows_is_no_surprise() -> None:
    held = 0
    for seed in range(100):
        found = two_nn(uniform(300, 2, seed=seed), control=None)
        held += found.interval.low <= 2 <= found.interval.high
    assert held >= 80  # ratios of near rows are not independent, and edges count
    cloud = two_nn(normal(800, 3))
    assert cloud.gaussian == pytest.approx(float(cloud), rel=0.12)


def test_copies_are_counted_and_left_out() -> None:
    x = uniform(500, 2)
    found = two_nn(torch.cat([x, x[:50]]), control=None)
    assert found.duplicates == 100
    assert float(found) == pytest.approx(2, rel=0.2)
    wide = two_nn(normal(60, 100))
    assert wide.gaussian is not None


# cosines


def test_the_mean_cosine_is_that_of_all_pairs_and_centring_removes_a_common_part() -> None:
    x = normal(40, 5) + torch.tensor([3.0, 0, 0, 0, 0])
    slow = [float(torch.cosine_similarity(x[i], x[j], dim=0)) for i in range(40) for j in range(40) if i != j]
    found = anisotropy(x)
    assert float(found) == pytest.approx(np.mean(slow))
    assert float(found) > 0.5
    assert abs(found.centred) < 0.05
    assert int(found.units[0]) == 0
    assert float(found.share[0]) > 0.5
    assert float(anisotropy(x, drop=1)) < 0.1


def test_directions_drawn_evenly_lie_within_chance() -> None:
    inside = [abs(float(a)) <= a.chance for a in (anisotropy(normal(30, 8, seed=s)) for s in range(200))]
    assert 0.90 <= np.mean(inside) <= 0.99


# subspaces


def test_angles_are_those_of_scipy_and_overlap_their_mean_squared_cosine() -> None:
    from scipy.linalg import subspace_angles as known

    a, b = normal(3, 12), normal(4, 12, seed=1)
    b[0] = a[0] + 1e-6 * b[0]
    found = subspace_angles(a, b)
    np.testing.assert_allclose(found.angles, np.sort(known(a.T.numpy(), b.T.numpy())), atol=1e-9)
    assert float(found) == pytest.approx(float(found.angles.cos().square().mean()))
    assert found.null is not None
    assert float(found.null.mean()) == pytest.approx(found.expected, rel=0.05)
    assert found.expected == pytest.approx(4 / 12)


def test_random_subspaces_overlap_as_often_as_the_level_says_and_shared_ones_always() -> None:
    p = [subspace_angles(normal(2, 15, seed=s), normal(3, 15, seed=500 + s), n=99).p for s in range(200)]
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.10
    a = normal(3, 40)
    turned = normal(3, 3, seed=4) @ a
    assert float(subspace_angles(a, turned)) == pytest.approx(1)
    assert subspace_angles(a, turned).p == pytest.approx(1 / 1001)


# distances of units


def test_distances_are_those_of_scipy_and_of_shifted_normals() -> None:
    from scipy.stats import wasserstein_distance

    x, y = normal(90, 4), normal(70, 4, seed=1) * 2 + 1
    found = wasserstein(x, y)
    known = [wasserstein_distance(x[:, i].numpy(), y[:, i].numpy()) for i in range(4)]
    np.testing.assert_allclose(found.value, known, atol=1e-12)
    big = wasserstein(normal(20_000, 2), normal(20_000, 2, seed=1) + torch.tensor([0.0, 3.0]), control=None)
    assert float(big.value[1]) == pytest.approx(3, abs=0.05)
    assert float(big.value[0]) < 0.05


def test_long_sets_are_compared_by_sketches_in_one_read() -> None:
    x, y = normal(30_000, 3), normal(30_000, 3, seed=1) * torch.tensor([1.0, 2, 1]) + torch.tensor([0.0, 0, 1])
    exact = wasserstein(x, y, control=None)
    sketched = wasserstein(x, y, budget_bytes=1 << 16)
    assert not sketched.is_exact
    assert sketched.p is None
    torch.testing.assert_close(sketched.value, exact.value, rtol=0.03, atol=0.03)
    torch.testing.assert_close(sketched.scaled, exact.scaled, rtol=0.03, atol=0.03)


def test_a_unit_that_differs_is_found_and_the_others_are_not() -> None:
    x, y = normal(60, 10), normal(60, 10, seed=1)
    y[:, 4] *= 3  # the same mean: only the width differs
    found = wasserstein(x, y, n=199)
    assert found.p_family is not None
    assert (found.p_family < 0.05).nonzero().flatten().tolist() == [4]
    p = torch.stack([wasserstein(normal(20, 3, seed=s), normal(25, 3, seed=300 + s), n=39).p for s in range(200)])
    assert 0.02 <= float((p <= 0.05).double().mean()) <= 0.09


def test_whole_items_change_sets() -> None:
    item = [i // 10 for i in range(60)]
    offset = normal(12, 2).repeat_interleave(10, 0)
    found = [
        wasserstein(0.1 * normal(60, 2) + normal(6, 2, seed=s).repeat_interleave(10, 0),
                    0.1 * normal(60, 2, seed=s) + normal(6, 2, seed=s + 900).repeat_interleave(10, 0),
                    by=(item, item), n=39).p for s in range(60)
    ]  # fmt: skip
    assert float((torch.stack(found) <= 0.05).double().mean()) < 0.15
    naive = wasserstein(offset[:60], offset[60:], n=39)
    assert float(naive.p.min()) == pytest.approx(1 / 40)  # ten rows an item look like evidence when dealt one by one


# classes


def test_separation_is_that_of_scikit_learn_and_expected_under_shuffling() -> None:
    from sklearn.metrics import silhouette_score

    labels = [i % 4 for i in range(80)]
    x = normal(80, 6) + 1.5 * normal(4, 6, seed=1)[torch.tensor(labels)]
    found = class_separation(x, labels)
    assert found.silhouette == pytest.approx(silhouette_score(x.numpy(), labels), abs=1e-9)
    assert found.p == pytest.approx(1 / 201)
    assert found.null is not None
    assert float(found.null.mean()) == pytest.approx(found.expected, abs=0.01)
    assert found.expected == pytest.approx(3 / 79)
    alone = class_separation(torch.cat([x, normal(1, 6, seed=9)]), [*labels, 9], control=None)
    known = silhouette_score(torch.cat([x, normal(1, 6, seed=9)]).numpy(), [*labels, 9])
    assert alone.silhouette == pytest.approx(known)


def test_fisher_is_one_and_p_uniform_where_labels_mean_nothing() -> None:
    found = [class_separation(normal(40, 5, seed=s), [i % 2 for i in range(40)], silhouette=False, n=39)
             for s in range(200)]  # fmt: skip
    assert np.mean([f.fisher for f in found]) == pytest.approx(1, abs=0.1)
    assert 0.01 <= np.mean([f.p <= 0.05 for f in found]) <= 0.10


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: spectrum(x[:3]), "four are needed"),
        (lambda x: spectrum(torch.ones(9, 2)), "vary in no direction"),
        (lambda x: spectrum(x).alpha(4, 6), "too few for a power law"),
        (lambda x: two_nn(x[:9]), "ten are needed"),
        (lambda x: two_nn(torch.ones(20, 2)), "have no copy"),
        (lambda x: two_nn(x, discard=1.0), "from 0 up to 1"),
        (lambda x: two_nn(x, control="shuffle"), "'gaussian' or None"),
        (lambda x: anisotropy(x, drop=4), "one at least"),
        (lambda x: anisotropy(torch.zeros(5, 2)), "a cosine takes two"),
        (lambda x: subspace_angles(x[:2], x[:2, :3]), "one has 4 units"),
        (lambda x: subspace_angles(x[:5], x[:2]), "linearly dependent"),
        (lambda x: subspace_angles(torch.ones(2, 4), x[:2]), "fewer dimensions"),
        (lambda x: wasserstein(x, x[:, :3]), "the same units"),
        (lambda x: wasserstein(x, x[:1]), "two rows each"),
        (lambda x: class_separation(x, range(20)), "nothing lies inside"),
        (lambda x: class_separation(torch.ones(20, 2), [0, 1] * 10), "nothing to separate"),
    ],
)
def test_impossible_questions_say_what_to_do(call: object, says: str) -> None:
    with pytest.raises(ins.core.errors.InscapeError, match=says):
        call(normal(20, 4))  # type: ignore[operator]
