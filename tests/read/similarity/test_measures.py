"""RSA, Procrustes, CCA and mutual neighbours: other libraries' numbers, known answers, and finding nothing in noise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import inscape as ins
from inscape.read.similarity import (
    CCA,
    RSA,
    MutualKNN,
    Procrustes,
    cka_matrix,
    dissimilarities,
    similarity,
    similarity_matrix,
)
from tests.read.similarity.test_cka import normal

X = [
    [0.13, -0.13, 0.64, 0.1], [-0.54, 0.36, 1.3, 0.95], [-0.7, -1.27, -0.62, 0.04],
    [-2.33, -0.22, -1.25, -0.73], [-0.54, -0.32, 0.41, 1.04], [-0.13, 1.37, -0.67, 0.35],
]  # fmt: skip
Y = [
    [1.03, -0.04, -0.1], [-1.46, -0.1, 1.52], [-1.71, -1.48, -0.78],
    [-1.79, -0.01, -0.89], [-1.19, -0.45, 1.19], [1.36, 0.11, 0.84],
]  # fmt: skip
FOLDED = [
    [0.7, 0.98, 0.48], [0.03, 0.87, 1.63], [1.58, 0.73, 1.23], [-1.46, 0.16, 0.53], [2.14, 1.44, 0.58],
    [-1.42, 1.48, 2.3], [2.3, 1.01, 1.27], [-1.87, -0.34, 1.12], [1.37, 1.78, 0.36], [-0.63, 1.27, 1.41],
    [1.16, 1.63, 0.65], [-0.56, -0.38, 1.5],
]  # fmt: skip
ALL = (RSA(), RSA("euclidean", "pearson"), RSA("cosine", "kendall"), Procrustes(), Procrustes("distance"),
       CCA("cca"), CCA("svcca", 0.9), CCA("pwcca"), MutualKNN(3), MutualKNN(3, "euclidean"))  # fmt: skip


@pytest.mark.parametrize(
    ("distance", "compared", "known"),
    [
        ("euclidean", "cosine", 0.8304269164975588),
        ("euclidean", "spearman", 0.275),
        ("euclidean", "pearson", 0.3113971345129892),
        ("euclidean", "kendall", 0.21904761904761905),
        ("correlation", "cosine", 0.7280688241251675),
        ("correlation", "spearman", 0.21785714285714283),
        ("correlation", "pearson", 0.08955298098843972),
        ("correlation", "kendall", 0.12380952380952381),
    ],
)
def test_rsa_gives_the_numbers_of_rsatoolbox(distance: str, compared: str, known: float) -> None:
    # rsatoolbox 0.3.2: compare(calc_rdm(x, method=distance), calc_rdm(y, ...), method=compared); "corr", "tau-a"
    measure = RSA(distance, compared)  # type: ignore[arg-type]
    assert float(similarity(torch.tensor(X), torch.tensor(Y), measure)) == pytest.approx(known, abs=1e-6)


def test_dissimilarities_are_those_of_rsatoolbox() -> None:
    # rsatoolbox 0.3.2: calc_rdm(..., method="euclidean" | "correlation" | "crossnobis", cv_descriptor=fold)
    first = [0.46177500000000005, 0.8949249999999999, 2.5801749999999997, 0.35537500000000005]
    assert dissimilarities(torch.tensor(X), "euclidean")[0, 1:5].tolist() == pytest.approx(first, abs=1e-6)
    first = [0.4553542112280491, 0.7071994456099848, 1.3517286843296434, 0.6742492883529543]
    assert dissimilarities(torch.tensor(X), "correlation")[0, 1:5].tolist() == pytest.approx(first, abs=1e-6)
    found = dissimilarities(torch.tensor(FOLDED), "crossnobis", conditions=4 * [0] and [*range(4)] * 3,
                            folds=np.repeat([0, 1, 2], 4))  # fmt: skip
    known = [1.763111111111111, 0.11855555555555541, 3.149433333333333, 1.8382555555555555, 0.7882444444444446]
    i, j = torch.triu_indices(4, 4, 1)
    assert found[i, j].tolist() == pytest.approx([*known, 3.2321333333333335], abs=1e-6)


def test_crossnobis_of_noise_alone_is_zero_on_average_where_euclidean_is_not() -> None:
    noise = normal(400, 50)
    conditions, folds = [i % 20 for i in range(400)], [i // 100 for i in range(400)]
    honest = dissimilarities(noise, "crossnobis", conditions=conditions, folds=folds)
    plain = dissimilarities(noise, "euclidean", conditions=conditions)
    i, j = torch.triu_indices(20, 20, 1)
    assert abs(float(honest[i, j].mean())) < 0.01
    assert float(plain[i, j].mean()) == pytest.approx(2 / 20, rel=0.1)


def test_rank_correlations_are_those_of_scipy() -> None:
    from scipy.stats import spearmanr

    x, y = normal(12, 4).round(decimals=0), normal(12, 4, seed=1).round(decimals=0)  # with ties
    i, j = torch.triu_indices(12, 12, 1)
    known = spearmanr(dissimilarities(x, "euclidean")[i, j], dissimilarities(y, "euclidean")[i, j]).statistic
    assert float(similarity(x, y, RSA("euclidean"))) == pytest.approx(known)


def test_procrustes_is_that_of_scipy_and_its_distance_follows_from_it() -> None:
    from scipy.spatial import procrustes

    x, y = normal(30, 4), normal(30, 4, seed=1) + normal(30, 4)
    r2 = 1 - procrustes(x.numpy(), y.numpy())[2]
    assert float(similarity(x, y, Procrustes())) == pytest.approx(r2)
    assert float(similarity(x, y, Procrustes("distance"))) == pytest.approx(2 - 2 * r2**0.5)


def test_cca_is_that_of_scikit_learn_and_pwcca_the_definition() -> None:
    from sklearn.cross_decomposition import CCA as Known

    x, y = normal(60, 4), normal(60, 3, seed=1)
    y = y + x[:, :3]
    u, v = Known(3, max_iter=10_000, tol=1e-12).fit(x.numpy(), y.numpy()).transform(x.numpy(), y.numpy())
    r = np.array([np.corrcoef(u[:, i], v[:, i])[0, 1] for i in range(3)])
    assert float(similarity(x, y, CCA("cca"))) == pytest.approx((r**2).mean(), abs=1e-6)
    # Morcos et al., eq. 4: weights are sums over units of |<canonical variable, unit>|
    h = u / np.linalg.norm(u, axis=0)
    weight = np.abs(h.T @ (x - x.mean(0)).numpy()).sum(1)
    assert float(similarity(x, y, CCA("pwcca"))) == pytest.approx((weight * r).sum() / weight.sum(), abs=1e-5)


def test_svcca_drops_the_directions_that_explain_little() -> None:
    x = normal(100, 6)
    x[:, 5] *= 1e-3
    y = torch.cat([x[:, :5], normal(100, 1, seed=3)], 1)
    assert float(similarity(x, y[:, :5], CCA("svcca", 0.999))) == pytest.approx(1)
    assert float(similarity(x, y, CCA("cca"))) < 1


def test_the_shuffled_value_of_cca_and_neighbours_is_known() -> None:
    x, y = normal(80, 10), normal(80, 4, seed=1)
    found = similarity(x, y, CCA("cca"), n=500)
    assert found.expected == pytest.approx(10 / 79, abs=0.01)
    found = similarity(x, y, MutualKNN(5), n=500)
    assert found.expected == pytest.approx(5 / 79, abs=0.005)


def test_mutual_neighbours_are_counted_as_in_the_obvious_loop() -> None:
    x, y = normal(40, 5), normal(40, 3, seed=1) + normal(40, 5)[:, :3]
    unit = [v / v.norm(dim=1, keepdim=True) for v in (x, y)]
    sets = [[set((-(row @ v.T)).argsort()[1:5].tolist()) for row in v] for v in unit]
    slow = np.mean([len(a & b) / 4 for a, b in zip(*sets, strict=True)])
    assert float(similarity(x, y, MutualKNN(4))) == pytest.approx(slow)


@pytest.mark.parametrize("measure", ALL, ids=lambda m: m.name)
def test_what_is_shared_is_found_and_noise_is_not(measure: object) -> None:
    shared = normal(50, 3)
    found = similarity(shared @ normal(3, 8, seed=1) + 0.1 * normal(50, 8, seed=2), shared, measure, n=99)  # type: ignore[arg-type]
    assert found.p == pytest.approx(0.01)
    p = [
        similarity(normal(24, 5, seed=s), normal(24, 4, seed=900 + s), measure, n=39, seed=s).p  # type: ignore[arg-type]
        for s in range(200)
    ]
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.10


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100))
def test_what_each_measure_does_not_see(seed: int, scale: float) -> None:
    x, y = normal(30, 4, seed=seed), normal(30, 4, seed=seed + 1)
    turn = torch.linalg.qr(normal(4, 4, seed=seed + 2))[0]
    stretch = torch.diag(torch.tensor([1.0, 4.0, 0.5, 1.0], dtype=torch.float64))

    def of(measure: object, v: torch.Tensor) -> float:
        return float(similarity(v, y, measure, control=None))  # type: ignore[arg-type]

    for measure in (RSA("euclidean"), Procrustes(), CCA("cca"), MutualKNN(3, "euclidean")):
        assert of(measure, scale * x @ turn + 9) == pytest.approx(of(measure, x), abs=1e-6)
    assert of(RSA("cosine"), scale * x @ turn) == pytest.approx(of(RSA("cosine"), x), abs=1e-6)
    assert of(CCA("cca"), x @ stretch) == pytest.approx(of(CCA("cca"), x), abs=1e-6)
    assert abs(of(Procrustes(), x @ stretch) - of(Procrustes(), x)) > 1e-6


def test_all_pairs_are_the_pairs_and_cka_is_the_default() -> None:
    sites = {"a": normal(40, 4), "b": normal(40, 3, seed=1), "c": normal(40, 5, seed=2)}
    found = similarity_matrix(sites, measure=CCA("pwcca"), n=20)
    assert found.values.diagonal().tolist() == pytest.approx([1.0] * 3)
    assert float(found["b", "a"]) == pytest.approx(float(similarity(sites["b"], sites["a"], CCA("pwcca"))))
    assert float(found["b", "a"]) != pytest.approx(float(found["a", "b"]))
    torch.testing.assert_close(similarity_matrix(sites).values, cka_matrix(sites).values)
    one, two = similarity_matrix(sites, measure=RSA()), similarity_matrix(sites, sites, measure=RSA())
    torch.testing.assert_close(one.values, two.values)
    assert one.p is not None
    assert two.p is not None
    torch.testing.assert_close(one.p.triu(), two.p.triu())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: dissimilarities(x, "manhattan"), "there are euclidean"),
        (lambda x: dissimilarities(x, "crossnobis"), "takes folds="),
        (lambda x: dissimilarities(x, "crossnobis", folds=[0, 1] * 10), "conditions= as well"),
        (lambda x: dissimilarities(x, "crossnobis", folds=[0] * 20, conditions=range(20)), "two folds"),
        (lambda x: dissimilarities(x, "crossnobis", folds=[0, 1] * 10, conditions=range(20)), "every fold needs"),
        (lambda x: dissimilarities(x, "crossnobis", folds=[0], conditions=range(20)), "one label a row"),
        (lambda x: dissimilarities(torch.ones(4, 3), "correlation"), "is constant"),
        (lambda x: similarity(x[:3], x[:3], RSA()), "at least 4"),
        (lambda x: similarity(torch.eye(9).double(), torch.eye(9).double(), RSA("euclidean")), "equally far"),
        (lambda x: similarity(normal(90, 2), normal(90, 2), RSA(compared="kendall")), "60 at most"),
        (lambda x: similarity(x, x, RSA(compared="mutual")), "there are spearman"),
        (lambda x: similarity(x, x, Procrustes("angle")), "'r2' and 'distance'"),
        (lambda x: similarity(torch.ones(9, 2), x[:9], Procrustes()), "same for every item"),
        (lambda x: similarity(normal(9, 20), normal(9, 20), CCA("cca")), "take more items"),
        (lambda x: similarity(x, x, CCA("kcca")), "there are cca, svcca, pwcca"),
        (lambda x: similarity(x, x, MutualKNN(19)), "below the items"),
        (lambda x: similarity(x, x, RSA(), budget_bytes=8), "picked"),
        (lambda x: similarity_matrix({"x": x}, measure="rsa"), "Procrustes"),
    ],
)
def test_impossible_settings_say_what_to_do(call: object, says: str) -> None:
    with pytest.raises(ins.core.errors.InscapeError, match=says):
        call(normal(20, 4))  # type: ignore[operator]
