"""Depth profiles: planted depth is found, chance is chance, groups stay whole, and the controls stand beside."""

import numpy as np
import pytest
import torch

import inscape as ins
from inscape.read.depth.compare import compare_profiles
from inscape.read.depth.concept import DepthProfile, depth_profile, profile_of
from inscape.read.depth.held_out import held_out
from inscape.read.depth.summary import points_of
from inscape.read.probes.logistic import LogisticProbe
from inscape.read.probes.ridge import RidgeProbe
from inscape.read.probes.splits import folds_of
from tests.common.small import gpt2

N, SITES = 240, 6


def states(strength: list[float], seed: int = 0, classes: int = 2) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(N) % classes
    code = torch.nn.functional.one_hot(y, 16).double()
    made = {f"l{i}": torch.randn(N, 16, generator=draw).double() + s * code for i, s in enumerate(strength)}
    return made, y


def profile(strength: list[float], *, seed: int = 0, classes: int = 2, **more: object) -> DepthProfile:
    made, y = states(strength, seed, classes)
    nothing = torch.randn(N, 4, generator=torch.Generator().manual_seed(seed + 99))
    return profile_of(made, y, words=nothing, embedding=nothing, cv=3, **more)  # type: ignore[arg-type]


def test_the_points_of_a_curve_are_those_of_the_definition() -> None:
    made = points_of([0.5, 0.5, 0.6, 0.9, 0.92, 0.93])
    assert (made.jump, made.converge, made.peak, made.best) == (3 / 6, 4 / 6, 1.0, 0.93)
    flat = points_of([0.9, 0.91, 0.905])
    assert flat.jump is None
    assert flat.converge is None
    assert points_of([0.5, 0.52], jump=1.04, flat=0.04).jump == 1.0
    with pytest.raises(ins.InputError, match="NaN"):
        points_of([0.5, float("nan")])
    with pytest.raises(ins.InputError, match="1 layers"):
        points_of([0.5])


def test_a_planted_depth_is_found_and_chance_is_chance() -> None:
    made = profile([0.0, 0.0, 0.0, 5.0, 5.0, 5.0])
    assert made.points().converge == 4 / 6
    assert made.points().jump == 4 / 6
    assert made.acquired
    assert float(made.curve()[3:].min()) > 0.9
    assert float((made.shuffled["accuracy"] - 0.5).abs().max()) < 0.15
    nothing = profile([0.0] * SITES)
    assert not nothing.acquired
    assert made.rows()[3]["accuracy_low"] <= made.rows()[3]["accuracy"] <= made.rows()[3]["accuracy_high"]


def test_noise_is_seldom_acquired() -> None:
    found = sum(profile([0.0, 0.0], seed=s).acquired for s in range(20))
    assert found <= 2


def test_all_probes_at_once_are_the_probes_one_by_one() -> None:
    made, y = states([0.0, 1.0, 2.0])
    folds = folds_of(y, 3)
    classes = np.array([0, 1])
    fast, _ = held_out(made, [y, y.flip(0)], classes, folds, LogisticProbe(tol=1e-6))
    for i, x in enumerate(made.values()):
        for k in range(3):
            train, test = folds != k, folds == k
            alone = LogisticProbe(tol=1e-6).fit(x[train], y[train]).transform(x[test])
            torch.testing.assert_close(fast[i, test], alone, rtol=1e-3, atol=1e-3)
    (numbers,) = held_out(made, [y.double()], np.array([]), folds, RidgeProbe())
    alone = RidgeProbe().fit(made["l2"][folds != 1], y[folds != 1].double()).transform(made["l2"][folds == 1])
    torch.testing.assert_close(numbers[2, folds == 1, 0], alone.reshape(-1))


def test_several_classes_and_numbers_have_their_metrics() -> None:
    made = profile([0.0, 4.0], classes=3, metrics=("accuracy", "f1"))
    assert made.classes == (0, 1, 2)
    assert float(profile([0.0, 4.0], metrics=("auc",)).curve()[1]) > 0.95
    assert float(made.curve("f1")[1]) == pytest.approx(float(made.curve("accuracy")[1]), abs=0.02)
    x, _ = states([0.0, 0.0])
    target = (x["l1"] @ torch.arange(16).double()).float()
    numbers = profile_of(x, target, words=x["l0"], embedding=x["l0"], cv=3)
    assert float(numbers.curve()[0]) < 0.1
    assert float(numbers.curve()[1]) > 0.95
    assert numbers.selectivity is None
    assert numbers.classes == ()


def test_what_is_known_of_a_group_does_not_count() -> None:
    draw = torch.Generator().manual_seed(0)
    group = torch.arange(N) // 8
    names = torch.randn(N // 8, 16, generator=draw)[group]  # the state says which group it is, and nothing else
    x = {"a": names, "b": names + 0.01 * torch.randn(N, 16, generator=draw)}
    y = (torch.randperm(N // 8, generator=draw) % 2)[group]
    kept = profile_of(x, y, words=names, embedding=names, groups=group, cv=3)
    torn = profile_of(x, y, words=names, embedding=names, cv=3)
    assert float(kept.curve().max()) < 0.75
    assert float(torn.curve().min()) > float(kept.curve().max())
    assert kept.selectivity is not None
    assert float(kept.selectivity.max()) < 0.2


def test_a_shift_is_found_with_its_interval() -> None:
    early, late = profile([0.0, 0.0, 5.0, 5.0, 5.0, 5.0]), profile([0.0, 0.0, 0.0, 0.0, 5.0, 5.0])
    made = compare_profiles({"plain": early, "noisy": late})["noisy"]
    assert made.converge is not None
    assert made.converge.value == pytest.approx(2 / 6)
    assert made.converge.excludes(0.0)
    assert made.best.high < 0
    same = compare_profiles({"plain": early, "again": early})["again"]
    assert same.converge is not None
    assert (same.converge.value, same.peak.low, same.peak.high) == (0.0, 0.0, 0.0)
    flat = compare_profiles({"plain": early, "flat": profile([9.0] * SITES)})["flat"]
    assert flat.converge is None
    with pytest.raises(ins.InputError, match="two profiles"):
        compare_profiles({"plain": early})
    with pytest.raises(ins.InputError, match="other items or sites"):
        compare_profiles({"plain": early, "short": profile([0.0, 1.0])})


def test_a_model_is_profiled_whatever_side_its_padding_is_on() -> None:
    model = gpt2()
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, 60, (int(4 + i % 3),), generator=draw).tolist() for i in range(60)]
    for i, t in enumerate(texts):
        t[-1] = 7 if i % 2 else 11  # the last token decides
    labels = ["odd" if i % 2 else "even" for i in range(60)]
    made = depth_profile(model, texts, labels, cv=3, template="ids")
    assert made.sites == tuple(f"layers.{i}.resid_post" for i in range(model.n_layers))
    assert float(made.curve()[0]) > 0.95
    assert made.about == "ids"
    mean = depth_profile(model, texts, labels, "layers.0.mlp_out", "mean", cv=3)
    first = depth_profile(model, texts, labels, "layers.0.mlp_out", 0, cv=3)
    assert mean.curve().shape == first.curve().shape == (1,)


def test_wrong_labels_and_metrics_are_refused() -> None:
    x, y = states([0.0, 0.0])
    beside = {"words": x["l0"], "embedding": x["l0"]}
    with pytest.raises(ins.InputError, match="all labels are alike"):
        profile_of(x, torch.zeros(N, dtype=torch.long), **beside)
    with pytest.raises(ins.InputError, match="accuracy, f1, auc"):
        profile_of(x, y, metrics=("r2",), **beside)
    with pytest.raises(ins.InputError, match="scored by r2"):
        profile_of(x, y.float() + 0.5, metrics=("auc",), **beside)
    with pytest.raises(ins.InputError, match="2 groups cannot make 5 folds"):
        profile_of(x, y, groups=y, cv=5, **beside)
    with pytest.raises(ins.InputError, match="in one group alone"):
        profile_of(x, y, groups=y, cv=2, **beside)
    bad = {**x, "l1": x["l1"].clone()}
    bad["l1"][3, 2] = float("nan")
    with pytest.raises(ins.NotFiniteError, match="l1: unit 2 of row 3"):
        profile_of(bad, y, **beside)
    with pytest.raises(ins.InputError, match="no texts"):
        depth_profile(gpt2(), [], [])


def test_another_probe_can_be_given() -> None:
    x, y = states([0.0, 3.0])
    made = profile_of(x, y.double(), words=x["l0"], embedding=x["l0"], cv=3, probe=RidgeProbe(penalty=10.0))
    assert float(made.curve()[1]) > 0.5
