"""CETT and PPL-p%: the obvious loops, monotone curves, planted neurons, and what thresholds do in the model."""

from pathlib import Path

import pytest
import torch

import inscape as ins
from inscape.core.edits.sparsify import threshold_activation
from inscape.engine.token_losses import perplexity
from inscape.read.sparsity.cett import cett, cett_curves, cett_thresholds, down_projection
from inscape.read.sparsity.gates import gate_sites
from inscape.read.sparsity.ppl import _root, ppl_sparsity
from inscape.read.sparsity.profile import profile
from tests.common.small import gpt2
from tests.common.zoo import build, inputs_for

ROWS = torch.randint(3, 60, (4, 20), generator=torch.Generator().manual_seed(0)).tolist()
PADDED = [[3, 4, 5, 6, 7, 8], [9, 8, 7]]
SITE = "layers.1.mlp.act"


def by_hand(model: "ins.Model", rows: list, site: str, t: float) -> tuple[float, float]:
    """Error and share kept of one threshold, token by token and neuron by neuron."""
    weight = down_projection(model, site).double()
    errors, kept = [], []
    for row in rows:
        for x in ins.run(model, [row], read=site)[site][0].double():
            cut = torch.tensor([abs(float(a)) * float(weight[:, i].norm()) < t for i, a in enumerate(x)])
            errors.append(float((weight @ (x * cut)).norm() / (weight @ x).norm()))
            kept.append(1 - float(cut.double().mean()))
    return sum(errors) / len(errors), sum(kept) / len(kept)


def test_the_error_is_that_of_the_obvious_loop_and_padding_does_not_count() -> None:
    model = gpt2()
    found = cett(model, [PADDED], {SITE: [0.0, 0.5, 2.0]})
    assert found.n_tokens == 9
    for i, t in enumerate((0.0, 0.5, 2.0)):
        error, kept = by_hand(model, PADDED, SITE, t)
        assert float(found.error[0, i]) == pytest.approx(error, abs=1e-5)
        assert float(found.kept[0, i]) == pytest.approx(kept, abs=1e-6)


def test_curves_rise_from_nothing_to_everything_and_their_edits_lose_what_they_say() -> None:
    model = gpt2()
    made = cett_curves(model, [ROWS], points=20)
    assert made.sites == tuple(f"layers.{i}.mlp.act" for i in range(3))
    assert made.error[:, 0].tolist() == [0, 0, 0]
    torch.testing.assert_close(made.error[:, -1], torch.ones(3).double())
    assert bool((made.error.diff(dim=1) > -1e-3).all())
    assert bool((made.kept.diff(dim=1) <= 0).all())
    exact = cett(model, [ROWS], dict(zip(made.sites, made.thresholds_at(0.3)[:, None], strict=True)))
    assert exact.error[:, 0].tolist() == pytest.approx([0.3] * 3, abs=0.03)
    trace = profile(model, [ROWS], edits=made.edits(0.3)[:1], control=None)  # later layers read what earlier ones give
    assert float(trace.nonzero[0]) == pytest.approx(float(made.kept_at(0.3)[0]), abs=0.02)


def test_thresholds_are_the_largest_that_keep_the_error() -> None:
    model = gpt2()
    found = cett_thresholds(model, [ROWS], 0.2, SITE)
    t = float(found.thresholds[0, 0])
    assert float(found.error[0, 0]) <= 0.2 + 1e-9
    further = cett(model, [ROWS], {SITE: [t * 1.02]})
    assert float(further.error[0, 0]) > 0.2 - 2e-3
    assert float(cett_thresholds(model, [ROWS], 0.0, SITE).error[0, 0]) == 0


def test_neurons_that_write_nothing_are_cut_for_free() -> None:
    """A large activation before an empty column of W_d says nothing: magnitude alone would keep it."""
    import copy

    module = copy.deepcopy(gpt2().module)
    with torch.no_grad():
        module.transformer.h[1].mlp.c_proj.weight[:40] = 0  # Conv1D: [d_mlp, d_model]
    model = ins.open(module)
    made = cett_curves(model, [ROWS], SITE)
    assert float(made.kept_at(1e-6)[0]) <= 88 / 128 + 1e-6
    assert perplexity(model, [ROWS], edits=made.edits(1e-9)) == pytest.approx(perplexity(model, [ROWS]), rel=1e-3)


@pytest.mark.parametrize(("family", "rule"), [("llama", "cett"), ("llama", "fat"), ("llama", "topk"), ("opt", "cett")])
def test_the_perplexity_rises_by_p_percent(family: str, rule: str, tmp_path: Path) -> None:
    module = build(family)
    import copy

    module = copy.deepcopy(module)
    with torch.no_grad():  # random tiny nets barely use their neurons
        for name, w in module.named_parameters():
            if "mlp" in name or "fc" in name:
                w.mul_(12)
    model = ins.open(module)
    rows = torch.randint(3, 60, (6, 24), generator=torch.Generator().manual_seed(1)).tolist()
    less = ppl_sparsity(model, [rows], p=0.2, rule=rule, tolerance=5e-4, held_out=[rows[:2]])
    if not less.reached:
        assert less.ratio < 1.002 + 1e-9
        return
    assert less.ratio == pytest.approx(1.002, abs=1e-3)
    assert 0 <= less.activation <= 1
    assert less.held_out > 0
    ins.save_edits(tmp_path / "cuts", less.edits)
    again = perplexity(model, [rows], edits=ins.load_edits(tmp_path / "cuts"))
    assert again / less.dense == pytest.approx(less.ratio, abs=1e-4)
    out = ins.generate(model, rows[0][:4], edits=list(less.edits), max_new_tokens=3)
    assert out.tokens.shape == (1, 3)


def test_the_root_is_found_of_functions_that_explode_and_of_steps() -> None:
    u, _, found = _root(lambda u: 100 * u**9 - 0.01, 0.01, 1e-5, 60)
    assert found
    assert u == pytest.approx((0.01 / 100) ** (1 / 9), rel=1e-3)
    assert _root(lambda u: u * 0.001 - 0.01, 0.01, 1e-5, 40)[2] is False
    u, _, found = _root(lambda u: -0.01 if u < 0.3 else 5.0, 0.01, 1e-5, 20)
    assert not found


def test_a_gate_is_found_and_choosing_by_it_zeroes_the_product() -> None:
    model = ins.open(build("llama"))
    gates = gate_sites(model)
    site, gate = next(iter(gates.items()))
    trace = ins.run(model, inputs_for("llama"), read=[gate, site.replace(".act", ".pre")])
    pre = trace[site.replace(".act", ".pre")]
    torch.testing.assert_close(trace[gate], torch.nn.functional.silu(pre), atol=1e-5, rtol=1e-4)
    cut = ins.run(model, inputs_for("llama"), read=[gate, site], edits=[threshold_activation(gate, 0.01)])
    assert bool((cut[site][cut[gate] == 0] == 0).all())
    assert bool((cut[gate] == 0).any())
    plain = gate_sites(gpt2())
    same = ins.run(gpt2(), ROWS, read=[SITE, plain[SITE]])
    assert torch.equal(same[SITE], same[plain[SITE]])


def test_what_means_nothing_is_refused() -> None:
    model = gpt2()
    with pytest.raises(ins.InputError, match="p is above 0"):
        ppl_sparsity(model, [ROWS], p=0.0)
    with pytest.raises(ins.InputError, match="cett, fat, topk"):
        ppl_sparsity(model, [ROWS], rule="wanda")
    with pytest.raises(ins.InputError, match="rising order"):
        cett(model, [ROWS], {SITE: [1.0, 0.5]})
    with pytest.raises(ins.InputError, match="from 0 to below 1"):
        cett_thresholds(model, [ROWS], 1.0)
    with pytest.raises(ins.ModelError, match="not read by a plain matrix"):
        down_projection(model, "layers.0.mlp_out")
    with pytest.raises(ins.ModelError, match="activation modules, not one"):
        gate_sites(ins.open(build("bert")))
