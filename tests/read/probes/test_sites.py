"""Probes of many sites at once: the same numbers as one at a time, honest splits, nulls, transfer."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import inscape as ins
from inscape.core.trace import Trace
from inscape.read.probes import (
    LDA,
    LogisticProbe,
    MeanDifference,
    MLPProbe,
    RidgeProbe,
    folds_of,
    probe_sites,
    transfer,
)
from inscape.read.probes.scoring import scored
from tests.common.readouts import stored

SITES = tuple(f"layers.{i}.resid_post" for i in range(4))


def layers(n: int = 300, d: int = 10, classes: int = 2, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Four layers in which the label shows more and more, in the first not at all."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=g)
    means = torch.randn(classes, d, generator=g)
    return {s: i * 0.3 * means[y] + torch.randn(n, d, generator=g) for i, s in enumerate(SITES)}, y


@pytest.mark.parametrize("classes", [2, 3])
def test_a_batch_of_sites_and_folds_is_as_one_at_a_time(classes: int) -> None:
    rows, y = layers(classes=classes)
    probe = LogisticProbe(tol=1e-9)
    found = probe_sites(rows, y, probe=probe, folds=3, seed=2)
    fold = folds_of(y, 3, seed=2)
    for i, (site, x) in enumerate(rows.items()):
        right = 0.0
        for k in range(3):
            one = LogisticProbe(tol=1e-9).fit(x[fold != k], y[fold != k])
            right += float((torch.from_numpy(one.predict(x[fold == k])) == y[fold == k]).sum())
        assert float(found.value[i]) == pytest.approx(right / len(y), abs=1e-9)
        whole = LogisticProbe(tol=1e-9).fit(x, y)
        torch.testing.assert_close(found.probes[site].weight_, whole.weight_, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(found.probes[site].bias_, whole.bias_, atol=1e-6, rtol=1e-6)
    assert found.gradient is not None
    assert float(found.gradient.max()) <= 1e-9


@dataclass
class Commonest:
    """Says the commoner class of the rows it was fitted on, whatever it reads."""

    target = "own"

    def fit(self, x: torch.Tensor, y: torch.Tensor) -> "Commonest":
        self.says_ = float(y.double().mean()) - 0.5
        return self

    def transform(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 1), self.says_)


@pytest.mark.parametrize("each", [1, 3])
def test_shuffled_labels_are_spread_over_folds_as_the_labels_are(each: int) -> None:
    y = (torch.arange(90) // each) % 2
    groups = None if each == 1 else torch.arange(90) // each
    found = probe_sites({"a": torch.zeros(90, 2)}, y, probe=Commonest(), groups=groups, folds=7, shuffles=10, seed=3)
    assert found.null is not None
    assert found.null.flatten().tolist() == pytest.approx([float(found.value[0])] * 10)


def test_one_group_a_fold_still_has_a_null() -> None:
    y = torch.arange(12) // 3 % 2
    x = y[:, None] + 0.01 * torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    found = probe_sites({"a": x}, y, probe=MeanDifference(), groups=torch.arange(12) // 3, folds=4, shuffles=10)
    assert found.null is not None
    assert float(found.null.min()) < float(found.value[0]) == 1.0


def test_the_curve_rises_its_null_does_not_and_the_best_site_gives_a_direction() -> None:
    rows, y = layers()
    found = probe_sites(rows, y, metrics=("accuracy", "f1", "auc"), shuffles=19)
    assert found.best == SITES[3]
    assert float(found.value[3]) > 0.85
    assert abs(float(found.value[0]) - 0.5) < 0.12
    assert float((found.control - 0.5).abs().max()) < 0.1
    assert float(found.p[3]) == pytest.approx(0.05)
    assert float(found.p[0]) > 0.05
    for name in ("accuracy", "f1", "auc"):
        of = found.scores[name]
        assert bool((of.low <= of.value).all() and (of.value <= of.high).all())
    d = found.direction(found.best)
    assert (d.site, d.vector.shape) == (SITES[3], (10,))
    assert "shuffled" in str(found)
    with pytest.raises(ins.SiteError, match="no probe was fitted at 'embed'"):
        found.direction("embed")
    with pytest.raises(ins.InputError, match="control=None"):
        _ = probe_sites(rows, y, control=None).control
    with pytest.raises(ins.InputError, match="give types="):
        _ = found.selectivity


@pytest.mark.parametrize("probe", [MeanDifference(), LDA(), MLPProbe(steps=60), RidgeProbe()], ids=repr)
def test_any_probe_goes_over_sites(probe: object) -> None:
    rows, y = layers()
    target = y.double() + 0.1 * torch.randn(300, generator=torch.Generator().manual_seed(1))
    found = probe_sites(rows, target if isinstance(probe, RidgeProbe) else y, probe=probe, folds=3)
    assert float(found.value[3]) > (0.5 if isinstance(probe, RidgeProbe) else 0.85)
    assert float(found.control[3]) < (0.1 if isinstance(probe, RidgeProbe) else 0.65)
    assert found.probes[SITES[3]].score(rows[SITES[3]], target if isinstance(probe, RidgeProbe) else y) > 0.5


def test_rows_of_one_group_are_never_on_both_sides() -> None:
    g = torch.Generator().manual_seed(0)
    group = torch.arange(60).repeat_interleave(5)
    y = (torch.arange(60) % 2)[group]
    x = torch.randn(60, 64, generator=g)[group] + 0.01 * torch.randn(300, 64, generator=g)  # a group knows its label
    leaky = probe_sites({"a": x}, y, control=None)
    honest = probe_sites({"a": x}, y, groups=group)
    assert float(leaky.value) > 0.75
    assert float(honest.value) < 0.68
    assert honest.scores["accuracy"].n_items == 60
    sure = probe_sites({"a": torch.eye(2)[y] + 0.1 * x[:, :2]}, y, groups=group, control=None).scores["accuracy"]
    assert (float(sure.value), float(sure.high)) == (1.0, 1.0)
    assert float(sure.low) == pytest.approx(60 / (60 + 1.96**2), abs=1e-3)  # Wilson of 60 groups, not of no width
    fold = folds_of(y, 5, groups=group)
    assert all(len(set(fold[group == k].tolist())) == 1 for k in range(60))
    with pytest.raises(ins.InputError, match=r"group 0 and 0 others are on both sides"):
        probe_sites({"a": x}, y, test=[0], groups=group)


def test_folds_have_their_share_of_every_class() -> None:
    y = np.array(["a"] * 70 + ["b"] * 30)
    fold = folds_of(y, 5)
    assert all(int((fold[:70] == k).sum()) == 14 and int((fold[70:] == k).sum()) == 6 for k in range(5))
    groups = np.arange(100) // 4
    fold = folds_of(y, 5, groups=groups)
    assert max(abs(int((fold[70:] == k).sum()) - 6) for k in range(5)) <= 4
    with pytest.raises(ins.InputError, match="class 'b' is in one group alone"):
        folds_of(np.array(["a", "a", "a", "b"]), 2)
    with pytest.raises(ins.InputError, match="2 groups cannot make 5 folds"):
        folds_of(y, 5, groups=np.arange(100) // 50)
    with pytest.raises(ins.InputError, match="1 folds hold nothing out"):
        folds_of(y, 1)


def test_a_store_a_trace_and_tensors_give_the_same_curve(tmp_path: object) -> None:
    from pathlib import Path

    assert isinstance(tmp_path, Path)
    rows, y = layers(240)
    column, _ = stored(tmp_path / "s", rows[SITES[2]], None)
    a, b = probe_sites({SITES[2]: rows[SITES[2]]}, y), probe_sites({SITES[2]: column}, y)
    assert torch.equal(a.value, b.value)
    mask = torch.ones(60, 4, dtype=torch.bool)
    trace = Trace({s: x.reshape(60, 4, 10) for s, x in rows.items()}, mask=mask)
    prompt = torch.arange(60).repeat_interleave(4)
    label = torch.arange(60) % 2
    c = probe_sites(trace, label, sites="layers.[23].*", control=None)
    d = probe_sites({s: rows[s] for s in SITES[2:]}, label[prompt], groups=prompt, control=None)
    assert torch.equal(c.value, d.value)
    with pytest.raises(ins.SiteError, match=r"no site to probe like 'embed'; the rows are of layers\.0"):
        probe_sites(rows, y, sites="embed")
    with pytest.raises(ins.ShapeError, match="all sites need the same rows"):
        probe_sites({"a": rows[SITES[0]], "b": rows[SITES[0]][:9]}, y)


def test_sites_of_unlike_width_are_probed_together_and_in_the_order_given() -> None:
    rows, y = layers()
    mixed = {"b": rows[SITES[3]][:, :4], "a": rows[SITES[3]], "c": rows[SITES[0]][:, :4]}
    found = probe_sites(mixed, y, control=None)
    assert found.sites == ("b", "a", "c")
    assert [found.probes[s].weight_.shape[1] for s in found.sites] == [4, 10, 4]
    alone = [float(probe_sites({s: x}, y, control=None).value) for s, x in mixed.items()]
    assert found.value.tolist() == pytest.approx(alone, abs=1e-9)


def test_one_split_trains_on_the_rest_alone() -> None:
    rows, y = layers()
    held = torch.arange(200, 300)
    found = probe_sites(rows, y, test=held, probe=LogisticProbe())
    assert found.n_held_out == 100
    one = LogisticProbe().fit(rows[SITES[2]][:200], y[:200])
    torch.testing.assert_close(found.probes[SITES[2]].weight_, one.weight_, atol=1e-6, rtol=1e-6)
    assert float(found.value[2]) == one.score(rows[SITES[2]][200:], y[200:])


def test_types_make_a_control_task() -> None:
    g = torch.Generator().manual_seed(0)
    words = torch.randn(8, 16, generator=g)  # few words in many units: a plane learns any label of them
    which = torch.randint(0, 8, (400,), generator=g)
    x = words[which] + 0.01 * torch.randn(400, 16, generator=g)
    found = probe_sites({"a": x}, which % 2, types=which)
    assert float(found.value) == 1.0
    assert float(found.selectivity) < 0.05


@pytest.mark.parametrize("metric", ["accuracy", "f1", "auc"])
def test_metrics_are_scikit_learns(metric: str) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (200,), generator=g)
    z = (torch.randn(200, 1, generator=g).double() + y[:, None]).round(decimals=1)  # with ties
    read = (z[:, 0] > 0).long()
    truth = {"accuracy": metrics.accuracy_score(y, read), "f1": metrics.f1_score(y, read)}
    truth["auc"] = metrics.roc_auc_score(y, z[:, 0])
    found = scored(metric, z[None], y)
    assert float(found.value) == pytest.approx(truth[metric], abs=1e-12)
    assert 0.02 < float(found.high - found.low) < 0.3
    if metric == "f1":
        many, said = torch.randint(0, 3, (200,), generator=g), torch.randn(200, 3, generator=g).double()
        macro = metrics.f1_score(many, said.argmax(1), average="macro")
        assert float(scored("f1", said[None], many).value) == pytest.approx(macro, abs=1e-12)
    if metric == "auc":
        with pytest.raises(ins.InputError, match="no score of more than two classes"):
            scored("auc", torch.zeros(1, 200, 3).double(), y)


def test_r2_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    g = torch.Generator().manual_seed(0)
    y = 1e4 + torch.randn(100, 2, generator=g).double()
    z = y + 0.5 * torch.randn(100, 2, generator=g).double()
    found = scored("r2", z[None], y)
    assert float(found.value) == pytest.approx(metrics.r2_score(y, z), abs=1e-9)
    assert float(found.low) < float(found.value) < float(found.high)


def test_probes_hold_between_data_sets_that_share_a_direction_and_between_models_through_a_map() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    shift = lambda unit: 3.0 * y[:, None] * torch.eye(8)[unit]  # noqa: E731
    data = {"cats": shift(0), "dogs": shift(0), "dates": shift(1)}
    rows = {name: x + torch.randn(400, 8, generator=g) for name, x in data.items()}
    probes = {name: LogisticProbe().fit(x[:200], y[:200]) for name, x in rows.items()}
    found = transfer(probes, {name: x[200:] for name, x in rows.items()}, y[200:])
    assert bool((found.value[:2, :2] > 0.88).all())
    assert float(found.value[2, 2]) > 0.88
    assert float(found.value[:2, 2].max()) < 0.65
    assert found.null is not None
    assert float((found.null - 0.5).abs().max()) < 0.12
    assert "cats" in str(found)
    turn = torch.randn(8, 5, generator=g)
    other = rows["cats"] @ turn  # another model, of five units
    back = RidgeProbe().fit(other[:200], rows["cats"][:200])
    through = transfer(probes, {"other": other[200:]}, y[200:], through={"other": back}, control=None)
    assert float(through.value[0, 0]) > 0.7
    assert through.null is None
    with pytest.raises(ins.ShapeError, match=r"does not read the rows of 'other' \(5 units\)"):
        transfer(probes, {"other": other[200:]}, y[200:])
    with pytest.raises(ins.InputError, match="labels has nothing for 'b'; there are a"):
        transfer(probes, {"b": rows["cats"]}, {"a": y})


def test_splits_and_settings_that_cannot_be_are_refused() -> None:
    rows, y = layers(60)
    for match, named in (
        ("none of probe_sites", {"control": "noise"}),
        ("scored by accuracy, f1, auc", {"metrics": ("r2",)}),
        ("scored by r2", {"metrics": ("accuracy",), "probe": RidgeProbe()}),
        ("there must be some on both sides", {"test": torch.zeros(60, dtype=torch.bool)}),
        ("is a mask over rows, or row numbers below 60", {"test": [60]}),
    ):
        with pytest.raises(ins.InputError, match=match):
            probe_sites(rows, y, **named)  # type: ignore[arg-type]
    with pytest.raises(ins.InputError, match="not every class among its training rows"):
        probe_sites(rows, y, test=(y == 1))
    with pytest.raises(ins.ShapeError, match="a mask of"):
        probe_sites(rows, y, test=torch.zeros(9, dtype=torch.bool))
    with pytest.raises(ins.NotConvergedError, match=r"layers.*: a probe ended at a gradient"):
        probe_sites(rows, y, probe=LogisticProbe(tol=1e-12, max_rounds=2))
