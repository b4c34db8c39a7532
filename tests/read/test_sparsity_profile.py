"""Neurons at work: known vectors, counts beside the obvious ones, any cuts, a store, a meter, the Gaussian control."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.edits.sparsify import topk_activation
from inscape.read.sparsity.activity import Activity, hoyer, participation
from inscape.read.sparsity.profile import active_map, profile, sparsity_meter, store_profile
from inscape.train import fit, next_token
from tests.common.small import gpt2, gpt2_module
from tests.common.zoo import build, inputs_for

PADDED = [[3, 4, 5, 6, 7, 8], [9, 8, 7]]


@given(n=st.integers(2, 64), size=st.floats(0.1, 100))
def test_hoyer_is_one_for_a_single_neuron_and_zero_for_equal_ones(n: int, size: float) -> None:
    single = torch.zeros(n, dtype=torch.float64)
    single[n // 2] = -size
    assert float(hoyer(single)) == pytest.approx(1.0)
    assert float(hoyer(torch.full((n,), size, dtype=torch.float64))) == pytest.approx(0.0, abs=1e-9)
    assert float(hoyer(torch.zeros(n, dtype=torch.float64))) == 0.0


@given(n=st.integers(1, 64), k=st.integers(1, 64), size=st.floats(1e-18, 1e18))
def test_the_effective_number_of_k_equal_neurons_is_k(n: int, k: int, size: float) -> None:
    x = torch.zeros(n)
    x[: min(n, k)] = size
    assert float(participation(x)) == pytest.approx(min(n, k), rel=1e-5)
    assert float(participation(torch.zeros(n))) == 0.0


@given(seed=st.integers(0, 2**31), cut=st.integers(0, 20), relative=st.booleans())
def test_counts_are_the_obvious_ones_in_any_cuts_and_from_a_file(seed: int, cut: int, relative: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 7, generator=g).relu()
    whole = Activity(0.4, relative).update(x)
    left, right = Activity(0.4, relative).update(x[:cut]), Activity(0.4, relative).update(x[cut:])
    joined = right.merge(left) if len(x[cut:]) else left
    bar = 0.4 * x.square().mean(1, keepdim=True).sqrt() if relative else 0.4
    for made in (whole, joined, Activity.from_state(*whole.state())):
        assert made.n == 20
        assert made.kind == whole.kind
        assert torch.equal(made.active_, (x > bar).sum(0))
        assert torch.equal(made.nonzero_, (x > 0).sum(0))
        assert torch.equal(made.active_rows_, torch.bincount((x > bar).sum(1), minlength=8))
        assert made.hoyer_ == pytest.approx(float(hoyer(x).mean()), abs=1e-6)
        assert made.participation_ == pytest.approx(float(participation(x).mean()), abs=1e-5)


def test_padding_does_not_count_and_zeros_do() -> None:
    model = ins.open(build("opt"))
    inputs = inputs_for("opt")
    made = profile(model, [inputs])
    trace = ins.run(model, inputs, read="layers.*.mlp.act")
    mask = trace.mask if trace.mask is not None else torch.ones(trace[made.sites[0]].shape[:2], dtype=torch.bool)
    for layer, name in enumerate(made.sites):
        rows = trace[name][mask.bool()]
        assert float(made.nonzero[layer]) == pytest.approx(float((rows != 0).float().mean()), abs=1e-6)
        torch.testing.assert_close(made.rates(name, exact=True), (rows != 0).double().mean(0))
    assert 0.2 < float(made.nonzero.mean()) < 0.8  # OPT's neurons are rectified
    for side in ("left", "right"):
        model.module.config.pad_token_id = 0
        padded = profile(gpt2(), [ins.engine.inputs.prepare(gpt2(), PADDED, side=side)])
        alone = profile(gpt2(), PADDED)
        assert padded.n_tokens == alone.n_tokens == 9
        torch.testing.assert_close(padded.active, alone.active, atol=1e-6, rtol=0)


def test_quantiles_over_tokens_and_units_are_those_of_the_values() -> None:
    rows = torch.randint(3, 60, (4, 20), generator=torch.Generator().manual_seed(0))
    made = profile(gpt2(), [rows], eps=0.5)
    names, shares = active_map(gpt2(), rows, eps=0.5)
    assert names == made.sites
    q = [0.0, 0.1, 0.5, 0.9, 1.0]
    slow = shares.flatten(1).double().quantile(torch.tensor(q).double(), dim=1, interpolation="lower").T
    torch.testing.assert_close(made.per_token(q), slow, atol=1e-6, rtol=0)
    torch.testing.assert_close(made.per_token([0.5]).mean(), made.active.mean(), atol=0.05, rtol=0)
    units = made.per_unit(q)
    assert bool((units.diff(dim=1) >= 0).all())
    assert float(units[0, 0]) == float(made.rates(made.sites[0]).min())


def test_dead_and_always_active_units_are_found() -> None:
    model = ins.open(build("opt"))
    name = "layers.0.mlp.act"
    edits = [ins.replace(name, 0.0, units=[2, 3]), ins.replace(name, 50.0, units=[5])]
    made = profile(model, [inputs_for("opt")], name, edits=edits)
    rates = made.rates(name)
    assert rates[[2, 3]].tolist() == [0, 0]
    assert float(rates[5]) == 1
    assert float(made.dead[0]) >= 2 / len(rates)
    assert float(made.always[0]) >= 1 / len(rates)


def test_a_top_k_net_has_k_nonzeros_a_token() -> None:
    rows = torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(0))
    made = profile(gpt2(), [rows], edits=[topk_activation("layers.*.mlp.act", 6)])
    torch.testing.assert_close(made.nonzero, torch.full((3,), 6 / 128, dtype=torch.float64))
    assert float(made.effective.max()) <= 6


def test_a_store_has_the_profile_of_the_model(tmp_path: Path) -> None:
    model = gpt2()
    rows = torch.randint(3, 60, (6, 12), generator=torch.Generator().manual_seed(0)).tolist()
    store = ins.record(model, rows, sites=["layers.*.mlp.act"], to=tmp_path / "acts")
    made, wanted = store_profile(store), profile(model, rows)
    assert made.sites == wanted.sites
    assert made.n_tokens == wanted.n_tokens == 72
    torch.testing.assert_close(made.active, wanted.active, atol=1e-3, rtol=0)
    torch.testing.assert_close(made.effective, wanted.effective, rtol=1e-3, atol=0)
    other = ins.record(model, rows, sites=["layers.0.mlp_out"], to=tmp_path / "other")
    with pytest.raises(ins.InputError, match="no column of neurons"):
        store_profile(other)


def test_a_meter_follows_training_and_leaves_it_alone() -> None:
    import copy

    rows = torch.randint(3, 60, (4, 12), generator=torch.Generator().manual_seed(0))
    nets = [copy.deepcopy(gpt2_module()) for _ in range(2)]
    meter = sparsity_meter(ins.open(nets[0]), [rows[:2]])
    history = fit(nets[0], [rows], next_token, steps=4, meters={"neurons": meter}, measure=[0, 2])
    fit(nets[1], [rows], next_token, steps=4)
    assert [step for step, _ in history.measured["neurons.active"]] == [0, 2, 4]
    assert "neurons.nonzero.layers.1" in history.measured
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_the_gaussian_control_is_what_the_formulas_say() -> None:
    rows = torch.randint(3, 60, (8, 40), generator=torch.Generator().manual_seed(0))
    made = profile(gpt2(), [rows], eps=0.3)
    assert made.control["active"].tolist() == pytest.approx([1 - math.erf(0.3 / math.sqrt(2))] * 3, abs=0.01)
    assert 0.15 < float(made.control["hoyer"].mean()) < 0.3
    assert made.control["effective"].tolist() == pytest.approx([128 / 3] * 3, rel=0.08)
    assert profile(gpt2(), [rows], control=None).control == {}
    with pytest.raises(ins.InputError, match="'gaussian' or None"):
        profile(gpt2(), [rows], control="shuffle")


def test_what_has_no_neurons_is_refused() -> None:
    with pytest.raises(ins.ModelError, match=r"mlp\.act"):
        profile(ins.open(build("resnet")), [inputs_for("resnet")])
    with pytest.raises(ins.InputError, match="at least 0"):
        Activity(-0.1)
    with pytest.raises(ins.InputError, match=r"has no .layers\.9\.mlp\.act"):
        profile(gpt2(), [[1, 2, 3]]).rates("layers.9.mlp.act")
