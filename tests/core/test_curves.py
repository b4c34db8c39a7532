"""Curves: planted parameters come back, intervals cover them as often as they say, scipy agrees."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.curves import LAWS, fit, lambert_w, student_t
from inscape.core.predict_params import predict_params

TRUE = {
    "power": (0.4, 2.0, 0.6),
    "logspace_power": (0.5, 0.3, 0.45, 0.07),
    "sigmoid": (0.1, 0.8, 40.0, 6.0),
    "explog": (3.0, 0.4, 0.05, 1.2, 2.0),
}


def planted(law: str, noise: float, seed: int, n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    t = torch.logspace(0, 2, n, dtype=torch.float64)
    y = LAWS[law].fn(t, *torch.tensor(TRUE[law], dtype=torch.float64))
    return t, y + noise * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("law", list(TRUE))
def test_a_curve_without_noise_gives_its_parameters_back(law: str) -> None:
    t, y = planted(law, 0.0, 0)
    made = fit(t, y, law)
    assert made.r2 == pytest.approx(1.0, abs=1e-8)
    torch.testing.assert_close(made.predict(t), y, atol=1e-5, rtol=1e-5)
    assert [float(p) for p in made.params.values()] == pytest.approx(TRUE[law], rel=1e-2)


@pytest.mark.parametrize("law", list(TRUE))
def test_scipy_finds_nothing_better(law: str) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    for seed in range(3):
        t, y = planted(law, 0.02, seed)
        made = fit(t, y, law, seed=seed)

        def off(p: np.ndarray, t: torch.Tensor = t, y: torch.Tensor = y) -> np.ndarray:
            return (LAWS[law].fn(t, *torch.from_numpy(p)) - y).numpy()

        start = [float(p) for p in made.params.values()]
        theirs = min(
            2 * optimize.least_squares(off, s, method="trf", max_nfev=2000).cost for s in (start, list(TRUE[law]))
        )
        valley = 5e-3 if law == "explog" else 1e-4  # A, lam and gamma trade off: scipy walks on along the valley
        assert made.rmse**2 * made.n <= theirs * (1 + valley)


@pytest.mark.slow
def test_intervals_cover_the_planted_power_law_as_often_as_they_say() -> None:
    held = dict.fromkeys(LAWS["power"].names, 0)
    for seed in range(200):
        t, y = planted("power", 0.02, seed)
        made = fit(t, y, "power", restarts=4, seed=seed)
        for name, true in zip(held, TRUE["power"], strict=True):
            held[name] += made.params[name].low <= true <= made.params[name].high
    for name, count in held.items():  # 95 % of 200 is 190, with a standard error of 3.1
        assert 178 <= count <= 199, (name, count)


@pytest.mark.slow
def test_resamples_cover_it_too() -> None:
    held = 0
    for seed in range(60):
        t, y = planted("power", 0.02, seed, n=40)
        made = fit(t, y, "power", restarts=4, interval="bootstrap", n=200, seed=seed)
        held += made.params["alpha"].low <= TRUE["power"][2] <= made.params["alpha"].high
    assert held >= 50  # 57 expected at 95 %; percentiles of resampled residuals are a little short
    low, high = made.band(t)
    assert bool((low <= high).all())
    assert float(((low <= made.predict(t)) & (made.predict(t) <= high)).double().mean()) > 0.95


@pytest.mark.slow
def test_the_fit_of_an_explog_under_one_percent_noise_is_never_worse_than_the_truth() -> None:
    """Its peak comes back within 5 % and its level within 2 % in 34 of 40 draws: the others lie in the law's flat
    valley, where the noise itself is fitted better by another peak. Nine in ten, as was hoped for, is not reached."""
    near = 0
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        u = torch.rand(5, generator=g, dtype=torch.float64).tolist()
        true = torch.tensor([2 + 4 * u[0], 0.15 + 0.5 * u[1], 0.05 + 0.1 * u[2], 0.5 + u[3], 2 + 3 * u[4]]).double()
        t = torch.linspace(0, 150, 80, dtype=torch.float64)
        clean = LAWS["explog"].fn(t, *true)
        y = clean + 0.01 * clean.abs().mean() * torch.randn(80, generator=g, dtype=torch.float64)
        made = fit(t, y, "explog", seed=seed)
        assert float((made.predict(t) - y).square().sum()) <= float((clean - y).square().sum()), seed
        peak = (math.exp(lambert_w(1 / float(true[1]))) - float(true[3])) / float(true[2])
        level = abs(float(made.params["K"]) - float(true[4])) / float(true[4])
        near += abs(made.peak()[0] - peak) <= 0.05 * peak and level <= 0.02
    assert near >= 32, near


def test_the_peak_is_where_the_curve_is_highest() -> None:
    t, y = planted("explog", 0.01, 3)
    made = fit(t, y, "explog")
    at, height = made.peak()
    grid = torch.linspace(0, 3 * at, 3001, dtype=torch.float64)
    values = made.predict(grid)
    assert float(values.max()) == pytest.approx(height, rel=1e-5)
    assert float(grid[values.argmax()]) == pytest.approx(at, rel=2e-3)
    with pytest.raises(ins.InputError, match="rises or falls all the way"):
        fit(t, y, "power").peak()


def test_a_curve_in_another_order_of_time_is_not_explained() -> None:
    t, y = planted("explog", 0.02, 0)
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    assert fit(t, y, "explog").r2 > 0.98
    assert fit(t, shuffled, "explog").r2 < 0.5


def test_the_right_law_has_the_smaller_aic() -> None:
    t, y = planted("sigmoid", 0.02, 1)
    assert fit(t, y, "sigmoid").aic < fit(t, y, "power").aic - 10


def test_bounds_hold_and_a_parameter_at_its_bound_has_no_width() -> None:
    t, y = planted("power", 0.01, 0)
    made = fit(t, y, "power", bounds={"alpha": (1.0, 2.0)})
    assert float(made.params["alpha"]) == pytest.approx(1.0)
    assert math.isnan(made.params["alpha"].low)


def test_a_law_of_ones_own_is_fitted() -> None:
    t = torch.linspace(0, 5, 50, dtype=torch.float64)
    y = 2.0 * (1.5 * t).sin() + 0.3
    box = {"a": (0.5, 4.0), "w": (0.5, 3.0), "c": (-1.0, 1.0)}
    made = fit(t, y, lambda t, a, w, c: a * (w * t).sin() + c, names=("a", "w", "c"), starts=box)
    assert [float(p) for p in made.params.values()] == pytest.approx([2.0, 1.5, 0.3], rel=1e-5)
    assert 0 < made.agreed <= 1


def test_the_same_seed_gives_the_same_numbers() -> None:
    t, y = planted("logspace_power", 0.01, 5)
    a, b = (fit(t, y, "logspace_power", interval="bootstrap", n=50, seed=3) for _ in range(2))
    assert a.params == b.params


@given(x=st.floats(0, 1e8))
def test_lambert_w_solves_its_equation(x: float) -> None:
    w = lambert_w(x)
    assert w * math.exp(w) == pytest.approx(x, rel=1e-10, abs=1e-12)


def test_students_quantiles_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for df in (1, 2, 3, 5, 10, 57, 1000):
        for p in (0.025, 0.5, 0.8, 0.975, 0.995):
            assert student_t(p, df) == pytest.approx(float(stats.t.ppf(p, df)), rel=1e-4, abs=1e-6)


def test_what_cannot_be_fitted_is_refused() -> None:
    t, y = planted("power", 0.0, 0)
    with pytest.raises(ins.InputError, match="none of power, logspace_power"):
        fit(t, y, "cubic")
    with pytest.raises(ins.InputError, match="3 parameters and there are 3 points"):
        fit(t[:3], y[:3], "power")
    with pytest.raises(ins.InputError, match="60 times and 59 values"):
        fit(t, y[:-1], "power")
    with pytest.raises(ins.NotFiniteError, match="y holds NaN or infinity at 2"):
        fit([1, 2, 3, 4, 5], [1, 2, math.nan, 4, 5], "power")
    with pytest.raises(ins.InputError, match="bounds= of beta"):
        fit(t, y, "power", bounds={"beta": (0, 1)})
    with pytest.raises(ins.InputError, match=r"f\(t, \*params\), with names="):
        fit(t, y, lambda t, a: a * t)
    with pytest.raises(ins.InputError, match="'jacobian' or 'bootstrap'"):
        fit(t, y, "power", interval="exact")
    with pytest.raises(ins.InputError, match="without resamples"):
        fit(t, y, "power").band(t)


def table(useful: bool, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = []
    for model in range(10):
        width = rng.normal()
        for layer in range(4):
            k = (3 * width if useful else rng.normal()) + 0.5 * layer + 0.1 * rng.normal()
            rows.append({"model": f"m{model}", "width": width, "depth": layer, "noise": rng.normal(), "K": k})
    return rows


def test_parameters_that_follow_from_the_features_are_told_of_models_not_seen() -> None:
    found = predict_params(table(True), ["width", "depth", "noise"], ["K"], "model")["K"]
    assert found.skill > 0.9
    assert found.rank is not None
    assert found.rank.value > 0.9
    assert max(found.importance, key=lambda k: found.importance[k]) == "width"
    assert abs(found.importance["noise"]) < 0.05


def test_parameters_of_noise_are_not_told_and_rows_of_one_model_do_not_leak() -> None:
    rng = np.random.default_rng(0)
    skills = []
    for seed in range(20):
        rows = table(False, seed)
        level = {row["model"]: rng.normal() for row in rows}  # a level of each model that no feature tells
        rows = [row | {"K": level[row["model"]]} for row in rows]
        skills.append(predict_params(rows, ["width", "depth", "noise"], ["K"], "model")["K"].skill)
    assert np.mean(skills) < 0.05


def test_another_regressor_is_used_and_too_few_groups_are_refused() -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    made = predict_params(
        table(True), ["width", "depth"], ["K"], "model",
        regressor=lambda: ensemble.ExtraTreesRegressor(n_estimators=30, random_state=0),
    )  # fmt: skip
    assert made["K"].skill > 0.4
    with pytest.raises(ins.InputError, match="takes three or more"):
        predict_params(table(True)[:8], ["width"], ["K"], "model")
    with pytest.raises(ins.InputError, match="has no 'height'"):
        predict_params(table(True), ["height"], ["K"], "model")
