"""Vectors on a graph: energies and layouts known on paper, other libraries' numbers, and nothing where nothing is."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import inscape as ins
from inscape.core.nulls import max_over_family
from inscape.read.geometry.graph import alignment, dirichlet_energy, spectral_embedding


def ring(n: int) -> torch.Tensor:
    graph = torch.zeros(n, n)
    at = torch.arange(n)
    graph[at, (at + 1) % n] = 1
    return graph + graph.T


def grid(side: int) -> torch.Tensor:
    at = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).reshape(-1, 2)
    return ((at[:, None] - at).abs().sum(-1) == 1).float()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_layouts_of_a_ring_are_its_cosines_and_have_their_eigenvalues_as_energy() -> None:
    found = spectral_embedding(ring(10), 4)
    known = [2 - 2 * math.cos(2 * math.pi * k / 10) for k in (1, 1, 2, 2)]
    torch.testing.assert_close(found.values, torch.tensor(known, dtype=torch.float64))
    energy = dirichlet_energy(found.vectors.T[..., None], ring(10), normalize=None, control=None)
    torch.testing.assert_close(energy.value, found.values)
    assert not found.is_cut
    assert spectral_embedding(ring(10), 3).is_cut
    at = 2 * math.pi * torch.arange(10, dtype=torch.float64) / 10
    circle = torch.stack([at.cos(), at.sin()], 1)
    assert float(alignment(circle, spectral_embedding(ring(10), 2))) == pytest.approx(1)


def test_no_centred_orthonormal_layout_has_less_energy_than_the_spectral_one() -> None:
    graph = grid(4)
    least = float(spectral_embedding(graph, 2).values.sum())
    for seed in range(20):
        x = normal(16, 2, seed=seed)
        x = torch.linalg.qr(x - x.mean(0))[0]
        assert float(dirichlet_energy(x, graph, normalize=None, control=None)) >= least - 1e-12


def test_the_expected_energy_is_the_mean_over_all_orders_and_twice_the_weight_when_normalised() -> None:
    x, graph = normal(5, 3), ring(5)
    graph[0, 2] = graph[2, 0] = 0.5
    for how in ("variance", None):
        found = dirichlet_energy(x, graph, normalize=how)
        every = [
            float(dirichlet_energy(x[list(o)], graph, normalize=how, control=None)) for o in permutations(range(5))
        ]
        assert float(found.expected) == pytest.approx(np.mean(every))
    assert float(dirichlet_energy(x, graph).expected) == pytest.approx(2 * 5.5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 1e4))
def test_moving_turning_and_scaling_all_vectors_leaves_the_normalised_energy(seed: int, scale: float) -> None:
    x, turn = normal(9, 4, seed=seed), torch.linalg.qr(normal(4, 4, seed=seed + 1))[0]
    one = dirichlet_energy(x, grid(3), control=None)
    two = dirichlet_energy(scale * (x @ turn) + 7, grid(3), control=None)
    torch.testing.assert_close(one.value, two.value)
    raw = dirichlet_energy(scale * x, grid(3), normalize=None, control=None)
    plain = dirichlet_energy(x, grid(3), normalize=None, control=None)
    torch.testing.assert_close(raw.value, scale**2 * plain.value)


def test_the_energy_is_the_obvious_double_loop_and_ordered_pairs_count_twice() -> None:
    x, graph = normal(6, 3), (normal(6, 6, seed=1) ** 2)
    graph = graph + graph.T
    slow = sum(float(graph[i, j] * (x[i] - x[j]).square().sum()) for i in range(6) for j in range(i))
    assert float(dirichlet_energy(x, graph, normalize=None)) == pytest.approx(slow)
    ordered = dirichlet_energy(x, graph, normalize=None, pairs="ordered")
    assert float(ordered) == pytest.approx(2 * slow)
    assert float(ordered.ratio) == pytest.approx(float(dirichlet_energy(x, graph).ratio))
    assert float(ordered.weight) == pytest.approx(float(graph.triu(1).sum()))


def test_layers_and_lengths_are_measured_as_each_alone_and_absent_nodes_leave_with_their_edges() -> None:
    x, graph = normal(3, 2, 9, 4), grid(3)
    mask = torch.ones(3, 2, 9, dtype=torch.bool)
    mask[1, 0, 4] = False
    found = dirichlet_energy(x, graph, mask=mask, n=99)
    assert found.null is not None
    assert found.null.shape == (99, 3, 2)
    alone = dirichlet_energy(x[2, 1], graph, n=99)
    assert float(found.value[2, 1]) == pytest.approx(float(alone.value))
    torch.testing.assert_close(found.null[:, 2, 1], alone.null)
    rest = [i for i in range(9) if i != 4]
    without = dirichlet_energy(x[1, 0, rest], graph[rest][:, rest], n=99)
    assert float(found.value[1, 0]) == pytest.approx(float(without.value))
    assert (int(found.n_nodes[1, 0]), float(found.weight[1, 0])) == (8, 8.0)
    assert max_over_family(-found.value, -found.null).p.shape == (3, 2)


def test_a_planted_grid_is_found_and_another_graph_of_the_same_nodes_is_not() -> None:
    graph = grid(4)
    layout = spectral_embedding(graph, 2)
    x = 3 * layout.vectors @ normal(2, 64) + 0.3 * normal(16, 64, seed=2)
    assert float(dirichlet_energy(x, graph).p) < 0.01
    assert float(dirichlet_energy(x, graph).ratio) < 0.5
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    assert float(dirichlet_energy(x, graph[order][:, order]).p) > 0.05
    for how in ("procrustes", "cca", "distance_corr"):
        found = alignment(x, layout, how=how, components=2)
        assert found.p is not None
        assert found.p < 0.01, how


def test_random_vectors_are_called_ordered_as_often_as_the_level_says() -> None:
    graph, layout = grid(3), spectral_embedding(grid(3), 2)
    p = torch.stack([dirichlet_energy(normal(9, 5, seed=s), graph, n=199, seed=s).p for s in range(200)])
    assert 0.01 <= float((p <= 0.05).double().mean()) <= 0.10
    assert 0.4 < float(p.mean()) < 0.6
    for how in ("procrustes", "cca", "distance_corr"):
        found = [alignment(normal(9, 3, seed=s), layout, how=how, n=199, seed=s).p for s in range(200)]
        assert 0.01 <= np.mean(np.array(found) <= 0.05) <= 0.10, how


def test_alignments_agree_with_scipy_scikit_learn_and_the_definition() -> None:
    from scipy.spatial import procrustes
    from sklearn.cross_decomposition import CCA

    x, t = normal(12, 3), normal(12, 2, seed=1)
    t = t + x[:, :2]
    padded = np.c_[t.numpy(), np.zeros(12)]
    disparity = procrustes(padded, x.numpy())[2]
    assert float(alignment(x, t)) == pytest.approx(1 - disparity)
    a, b = CCA(2, max_iter=5000, tol=1e-12).fit(x.numpy(), t.numpy()).transform(x.numpy(), t.numpy())
    known = np.mean([np.corrcoef(a[:, i], b[:, i])[0, 1] ** 2 for i in range(2)])
    assert float(alignment(x, t, how="cca")) == pytest.approx(known, abs=1e-6)
    assert float(alignment(x, t, how="distance_corr")) == pytest.approx(_slow_dcor(x, t))


def _slow_dcor(x: torch.Tensor, y: torch.Tensor) -> float:
    """Szekely & Rizzo 2013, eq. 3.1 to 3.4, entry by entry."""
    n, made = len(x), []
    for v in (x, y):
        d = [[float((v[i] - v[j]).norm()) for j in range(n)] for i in range(n)]
        row = [sum(d[i]) for i in range(n)]
        made.append(
            [
                [
                    0 if i == j else d[i][j] - row[i] / (n - 2) - row[j] / (n - 2) + sum(row) / ((n - 1) * (n - 2))
                    for j in range(n)
                ]
                for i in range(n)
            ]
        )
    a, b = (np.array(m) for m in made)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_what_each_alignment_does_not_see(seed: int) -> None:
    x, t = normal(10, 3, seed=seed), normal(10, 3, seed=seed + 1)
    turn = torch.linalg.qr(normal(3, 3, seed=seed + 2))[0]
    for how in ("procrustes", "cca", "distance_corr"):
        one = float(alignment(x, t, how=how, control=None))
        assert float(alignment(5 * x @ turn - 2, t, how=how, control=None)) == pytest.approx(one, abs=1e-9)
    stretch = torch.diag(torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64))
    one, two = (float(alignment(v, t, how="cca", control=None)) for v in (x, x @ stretch))
    assert one == pytest.approx(two, abs=1e-9)
    one, two = (float(alignment(v, t, control=None)) for v in (x, x @ stretch))
    assert abs(one - two) > 1e-6  # procrustes does see a stretch


def test_half_precision_and_float_give_the_same_and_a_seed_the_same_null() -> None:
    x = normal(9, 8).bfloat16()
    one, two = dirichlet_energy(x, grid(3)), dirichlet_energy(x.double(), grid(3).long())
    torch.testing.assert_close(one.null, two.null)
    assert alignment(x, normal(9, 2)).p == alignment(x.double(), normal(9, 2)).p


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: dirichlet_energy(normal(4, 2), ring(5)), "matrix 4 x 4"),
        (lambda: dirichlet_energy(normal(4, 2), ring(4).triu()), r"\(A \+ A.T\) / 2"),
        (lambda: dirichlet_energy(normal(4, 2), -ring(4)), "negative weight"),
        (lambda: dirichlet_energy(torch.ones(4, 2), ring(4)), "same vector"),
        (lambda: dirichlet_energy(normal(4, 2).log(), ring(4)), "mask="),
        (lambda: dirichlet_energy(normal(4, 2), torch.zeros(4, 4)), "no edge joins"),
        (lambda: spectral_embedding(torch.block_diag(ring(4), ring(4))), "2 pieces"),
        (lambda: spectral_embedding(ring(4), 4), "there are 3"),
        (lambda: alignment(normal(4, 2), normal(5, 2)), "same nodes"),
        (lambda: alignment(normal(4, 2), torch.ones(4, 2)), "the target has the same vector"),
        (lambda: alignment(normal(4, 9), normal(4, 2), how="cca"), "components="),
        (lambda: alignment(normal(4, 2), normal(4, 2), components=3), "vary in 2 dimensions"),
        (lambda: alignment(normal(3, 2), normal(3, 2), how="distance_corr"), "four nodes"),
    ],
)
def test_impossible_questions_say_what_to_do(call: object, says: str) -> None:
    with pytest.raises(ins.core.errors.InscapeError, match=says):
        call()  # type: ignore[operator]
