"""CKA: definitions, known answers, both spaces, shuffled pairings counted out, intervals, and finding nothing."""

from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import inscape as ins
from inscape.core.trace import Trace
from inscape.read.similarity import feature_space
from inscape.read.similarity.cka import cka, cka_matrix
from inscape.read.similarity.columns import together
from inscape.read.similarity.resampled import weighted_hsic
from inscape.read.similarity.sample_space import centred, linear_sums
from inscape.store.schema import Column
from tests.store.made import store_with


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(n: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sites that share something, far from zero, one with a massive unit."""
    x = normal(n, 12, seed=seed)
    y = x[:, :5] @ normal(5, 9, seed=1) + normal(n, 9, seed=seed + 2) + 40
    x[:, 3] = 300 * x[:, 3] + 2000
    return x, y


def slow_cka(x: torch.Tensor, y: torch.Tensor, debiased: bool, kernels: tuple | None = None) -> float:
    """The definitions, n x n in float64: Kornblith et al. eq. 3 to 5, Song et al. eq. 5."""
    n = len(x)
    k, m = kernels or ((v - v.mean(0)) @ (v - v.mean(0)).T for v in (x, y))
    one = torch.ones(n, dtype=torch.float64)
    if not debiased:
        h = torch.eye(n, dtype=torch.float64) - 1 / n
        k, m = h @ k @ h, h @ m @ h
        return float((k * m).sum() / (k.norm() * m.norm()))

    def hsic(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a, b = a.clone().fill_diagonal_(0), b.clone().fill_diagonal_(0)
        both = (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
        return ((a @ b).trace() + both - 2 / (n - 2) * (one @ a @ b @ one)) / (n * (n - 3))

    return float(hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt())


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("space", ["sample", "feature"])
def test_both_spaces_give_the_definition(debiased: bool, space: str) -> None:
    x, y = pair()
    found = cka(x, y, debiased=debiased, space=space)  # type: ignore[arg-type]
    assert float(found) == pytest.approx(slow_cka(x, y, debiased), abs=1e-6)


def test_rbf_kernels_give_the_definition_with_the_median_distance() -> None:
    x, y = pair(150)
    kernels = []
    for v in (x, y):
        apart = torch.cdist(v, v)
        i, j = torch.triu_indices(150, 150, 1)
        kernels.append((-apart.square() / (2 * (0.5 * apart[i, j].median()) ** 2)).exp())
    for debiased in (False, True):
        known = slow_cka(x, y, debiased, tuple(kernels))
        assert float(cka(x, y, kernel="rbf", fraction=0.5, debiased=debiased)) == pytest.approx(known, abs=2e-6)


def test_cuts_of_the_stream_and_reads_in_several_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pair()
    sites = {"x": x, "y": y, "z": normal(200, 4, seed=9)}
    whole = cka_matrix(sites, space="feature")
    small = lambda columns, **settings: together(columns, **{**settings, "batch_bytes": 8 * 25 * 17})  # noqa: E731
    monkeypatch.setattr(feature_space, "together", small)
    monkeypatch.setattr(feature_space, "FLUSH", 50)
    for budget in (2 << 30, 12 * 150):  # the second holds one pair at a time
        cut = cka_matrix(sites, space="feature", budget_bytes=budget)
        torch.testing.assert_close(cut.values, whole.values, rtol=0, atol=1e-6)
        torch.testing.assert_close(cut.p, whole.p, rtol=1e-3, atol=1e-6)
    with pytest.raises(ins.InputError, match="above the budget"):
        cka_matrix(sites, space="feature", budget_bytes=12 * 100)


def test_the_cheaper_space_is_taken_and_rows_that_do_not_fit_are_streamed() -> None:
    few, many = normal(3, 50, 64), normal(3, 2000, 8)
    assert cka_matrix(few).space == "sample"
    assert cka_matrix(many).space == "feature"
    assert cka_matrix(few, budget_bytes=64 * 64 * 8).space == "feature"
    torch.testing.assert_close(cka_matrix(many).values, cka_matrix(many, space="sample").values, rtol=0, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e4))
def test_rotation_scale_and_translation_are_not_seen_and_a_stretch_is(seed: int, scale: float) -> None:
    x, y = normal(40, 6, seed=seed), normal(40, 6, seed=seed + 1) + normal(40, 6, seed=seed)
    turn = torch.linalg.qr(normal(6, 6, seed=seed + 2))[0]
    for kernel in ("linear", "rbf"):
        one = float(cka(x, y, kernel=kernel, control=None))  # type: ignore[arg-type]
        two = float(cka(scale * x @ turn + 3, y, kernel=kernel, control=None))  # type: ignore[arg-type]
        assert two == pytest.approx(one, abs=1e-5)
        assert float(cka(x, x @ turn, kernel=kernel)) == pytest.approx(1, abs=1e-5)  # type: ignore[arg-type]
    assert abs(float(cka(x * torch.tensor([9.0] + 5 * [1.0]), y)) - float(cka(x, y))) > 1e-3


def test_mean_and_deviation_of_shuffled_pairing_are_those_over_all_orders() -> None:
    x, y = (v[:6] for v in pair())
    for debiased in (False, True):
        every = np.array([slow_cka(x, y[list(o)], debiased) for o in permutations(range(6))])
        found = cka(x, y, debiased=debiased)
        assert found.expected == pytest.approx(every.mean(), abs=1e-6)
        assert found.deviation == pytest.approx(every.std(), abs=1e-6)
    assert found.deviation == pytest.approx((2 / (6 * 3)) ** 0.5)


def test_unrelated_sites_of_few_items_look_alike_to_the_plain_cka_alone() -> None:
    x, y = normal(50, 400), normal(50, 400, seed=1)
    plain, honest = cka(x, y, debiased=False), cka(x, y)
    assert float(plain) > 0.85
    assert plain.expected == pytest.approx(float(plain), abs=0.02)
    assert abs(float(honest)) < 0.1


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_unrelated_sites_are_called_alike_as_often_as_the_level_says(kernel: str) -> None:
    found = []
    for seed in range(200):
        x, y = normal(40, 5, seed=seed), normal(40, 8, seed=1000 + seed)
        x[:, 0] *= 6  # a spectrum with a leader: the null is skewed
        found.append(cka(x, y, kernel=kernel))  # type: ignore[arg-type]
    p = np.array([f.p for f in found])
    assert 0.015 <= (p <= 0.05).mean() <= 0.095
    assert (p <= 0.01).mean() <= 0.035
    assert abs(np.mean([float(f) for f in found])) < 0.02


def test_a_gamma_law_gives_the_p_of_a_thousand_shuffles() -> None:
    x = normal(60, 4)
    y = 0.25 * x + normal(60, 4, seed=2)
    found = cka(x, y)
    draw = torch.Generator().manual_seed(0)
    null = [float(cka(x, y[torch.randperm(60, generator=draw)], control=None)) for _ in range(400)]
    counted = float(np.mean(np.array(null) >= float(found)))
    assert found.p == pytest.approx(counted, abs=0.03)


def test_weights_of_one_give_hsic_and_whole_weights_give_that_of_the_kept_rows() -> None:
    x, y = pair(60)
    sites = [centred(x), centred(y)]
    plain = linear_sums(sites).hsic(True)
    torch.testing.assert_close(
        weighted_hsic(sites, torch.ones(60, 1), "linear", 1.0)[..., 0], plain, rtol=1e-5, atol=1e-6
    )
    kept = torch.zeros(60, 1)
    kept[:40] = 1
    part = linear_sums([s[:40] - s[:40].mean(0) for s in sites]).hsic(True)
    torch.testing.assert_close(weighted_hsic(sites, kept, "linear", 1.0)[..., 0], part, rtol=1e-5, atol=1e-7)


def test_intervals_hold_the_value_of_many_items_about_as_often_as_they_say() -> None:
    x, y = normal(60_000, 4), normal(60_000, 4, seed=1)
    y = y + x
    truth = float(cka(x, y))
    found = [cka(x[i : i + 60], y[i : i + 60], resamples=200, seed=i).interval for i in range(0, 6000, 60)]
    held = np.mean([f.low <= truth <= f.high for f in found if f is not None])
    assert 0.85 <= held <= 1.0
    one = cka(x[:60], y[:60], resamples=50, by=[i // 2 for i in range(60)]).interval
    assert one is not None
    assert one.low < one.value < one.high


def test_stores_traces_and_tensors_give_the_same(tmp_path: Path) -> None:
    x, y = (v.float() for v in pair(60))
    columns = (
        Column(name="a", dtype="float32", shape=(12,), site="layers.0.resid_post"),
        Column(name="b", dtype="float32", shape=(3, 3), site="layers.1.attn.z"),
    )
    store = store_with(tmp_path / "s", columns, {"a": [x], "b": [y.reshape(60, 3, 3)]})
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[0, :20] = False
    padded = [torch.full((2, 40, v.shape[1]), 1e9) for v in (x, y)]
    for p, v in zip(padded, (x, y), strict=True):
        p[mask] = v
    trace = Trace({"a": padded[0], "b": padded[1]}, mask=mask)
    known = cka_matrix({"a": x, "b": y})
    for space in ("sample", "feature"):
        for source in (store, trace):
            found = cka_matrix(source, space=space)  # type: ignore[arg-type]
            assert found.columns == ("a", "b")
            torch.testing.assert_close(found.values, known.values, rtol=0, atol=1e-6)
    assert cka_matrix(store, names="a*").rows == ("a",)
    both = cka_matrix(store, {"other": y, "more": x})
    assert both.values.shape == (2, 2)
    assert float(both["b", "other"]) == pytest.approx(1, abs=1e-6)
    assert float(both["a", "more"]) == pytest.approx(1, abs=1e-6)


def test_half_precision_rows_and_progress() -> None:
    x, y = (v.bfloat16() for v in pair(60))
    said: list[str] = []
    found = cka(x, y, progress=lambda message, fraction=None: said.append(message))
    assert float(found) == pytest.approx(slow_cka(x.double(), y.double(), True), abs=1e-6)
    assert said


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x, y: cka(x, y[:-1]), "'x' has 30 rows and 'y' 29"),
        (lambda x, y: cka(x[:3], y[:3]), "at least 4"),
        (lambda x, y: cka(x, torch.ones(30, 2)), "the same in every row"),
        (lambda x, y: cka(x, y, debiased=False, resamples=9), "adds the bias"),
        (lambda x, y: cka(x, y, kernel="rbf", space="feature"), "leave space= out"),
        (lambda x, y: cka(x, y, kernel="poly"), "'linear' and 'rbf'"),
        (lambda x, y: cka(x, y, kernel="rbf", budget_bytes=99), "picked"),
        (lambda x, y: cka(x, y.log()), "against y: unit"),
        (lambda x, y: cka_matrix({"x": x}, names="layers.*"), "there are x"),
        (lambda x, y: cka_matrix(SimpleNamespace()), "a tensor \\[layer, n, d\\]"),
        (lambda x, y: cka_matrix({}), "no site"),
        (lambda x, y: cka(x, y, control="random"), "'shuffle' or None"),
    ],
)
def test_impossible_comparisons_say_what_to_do(call: object, says: str) -> None:
    with pytest.raises(ins.core.errors.InscapeError, match=says):
        call(normal(30, 4), normal(30, 4, seed=1))  # type: ignore[operator]
