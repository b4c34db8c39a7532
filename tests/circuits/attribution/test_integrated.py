"""Integrated gradients: exact where the path is a polynomial, complete elsewhere, refused where they are not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.circuits.attribution.first_order import first_order
from inscape.circuits.attribution.integrated import integrated_gradients, quadrature
from inscape.core.metrics import kl, log_prob, logit_diff
from tests.circuits.attribution.nets import chain, first_class, rows
from tests.common.small import gpt2
from tests.common.zoo import build, inputs_for

IDS = [[1, 5, 9, 13, 17, 21], [2, 6, 10]]
DIFF = logit_diff(3, 7)


@given(power=st.integers(1, 5), seed=st.integers(0, 1000))
def test_gauss_is_exact_on_a_polynomial_as_soon_as_its_degree_allows(power: int, seed: int) -> None:
    model, x = chain(power), rows(3, seed)
    enough = (power + 1) // 2  # n nodes are exact for degree 2 n - 1, and the gradient has degree power - 1
    found = integrated_gradients(model, x, first_class, "@first", steps=enough, tolerance=1e-4)
    hidden = model.module.first(x).detach()
    want = model.module.second.weight[0].detach() * hidden**power  # of sum_j w_j h_j^p, the share of j is w_j h_j^p
    torch.testing.assert_close(found.entries["@first"][:, 0], want.float(), rtol=1e-4, atol=1e-5)


def test_the_left_rule_falls_short_by_one_over_its_steps() -> None:
    model, x = chain(2), rows(3, 0)
    gaps = [
        integrated_gradients(model, x, first_class, "@first", steps=n, rule="left", tolerance=None).gap for n in (5, 10)
    ]
    assert gaps[0] == pytest.approx(1 / 5, rel=1e-3)  # the sum of 2 a over the nodes is 1 - 1 / n
    assert gaps[1] == pytest.approx(1 / 10, rel=1e-3)


@pytest.mark.parametrize("rule", ["gauss", "midpoint", "left"])
def test_weights_add_up_to_one(rule: str) -> None:
    nodes, weights = quadrature(rule, 7)
    assert sum(weights) == pytest.approx(1.0)
    assert min(nodes) >= 0.0
    assert max(nodes) <= 1.0


@pytest.mark.parametrize("others", ["recomputed", "clean"])
def test_shares_of_several_sites_together_add_up_to_the_effect_of_the_edits(others: str) -> None:
    model = gpt2()
    means = ins.run(model, IDS, read="layers.1.attn.z")
    edits = [
        ins.ablate("layers.0.mlp.act", units=torch.tensor([[1, 2, 3], [4, 5, 6]]), at=-1),
        ins.ablate("layers.1.attn.z", "mean", means, heads=[2]),
        ins.ablate("layers.2.mlp.act", units=[7, 8], at=[0, 1]),
    ]
    found = integrated_gradients(model, IDS, DIFF, edits, others=others, tolerance=1e-3, steps=24)
    clean, off = (ins.run(model, IDS, edits=e, output="last").output.logits[:, 0] for e in ((), edits))
    torch.testing.assert_close(found.metric, clean[:, 3] - clean[:, 7])
    if others == "recomputed":
        torch.testing.assert_close(found.baseline, off[:, 3] - off[:, 7], atol=1e-4, rtol=1e-4)
    assert found.error.abs().max() < 1e-3 * found.total().abs().max() + 1e-4
    touched = found.entries["layers.0.mlp.act"].nonzero()
    assert {tuple(t) for t in touched.tolist()} <= {(0, 5, 1), (0, 5, 2), (0, 5, 3), (1, 2, 4), (1, 2, 5), (1, 2, 6)}


def test_untouched_neurons_held_clean_carry_nothing_of_the_effect() -> None:
    model, row = gpt2(), [IDS[0]]
    edits = [ins.ablate("layers.0.mlp_out", at=-1), ins.ablate("layers.1.mlp.act", units=[0], at=-1)]
    held = integrated_gradients(model, row, DIFF, edits, others="clean", steps=24)
    acts = ins.run(model, row, read="layers.1.mlp.act")["layers.1.mlp.act"]
    kept = acts.clone()
    kept[:, -1, 0] = 0.0
    by_hand = ins.run(
        model, row, output="last", edits=[edits[0], ins.replace("layers.1.mlp.act", kept[:, -1], at=-1)]
    ).output.logits[:, 0]
    torch.testing.assert_close(held.baseline, by_hand[:, 3] - by_hand[:, 7], atol=1e-4, rtol=1e-4)


def test_one_step_at_the_clean_run_is_the_first_order_effect() -> None:
    model = gpt2()
    edit = ins.ablate("layers.1.resid_post", "mean")
    at_the_end = first_order(model, IDS, DIFF, edit)
    fine = integrated_gradients(model, IDS, DIFF, edit, steps=32)
    near = integrated_gradients(model, IDS, DIFF, ins.scale("layers.1.resid_post", 0.999), steps=2, tolerance=None)
    told = first_order(model, IDS, DIFF, ins.scale("layers.1.resid_post", 0.999))
    assert float((fine.total() + at_the_end.total()).abs().max()) > 1e-2  # the path bends, so they differ
    torch.testing.assert_close(near.total(), -told.total(), rtol=0.02, atol=1e-5)


def test_a_divergence_from_the_unedited_run_is_not_first_order() -> None:
    with pytest.raises(ins.InputError, match="compares with another run"):
        integrated_gradients(gpt2(), IDS, kl("base"), "layers.1.mlp_out")


@pytest.mark.parametrize("name", ["bert", "vit", "efficientnet_lite", "mamba2", "qwen3_moe"])
def test_models_of_every_kind_can_be_integrated(name: str) -> None:
    model = ins.open(build(name))
    site = next(s.name for s in model.sites if s.name.endswith(("mlp_out", "ssm_out", ".out")))
    found = integrated_gradients(model, inputs_for(name), lambda logits: logits[:, 0], site, tolerance=None)
    assert found.entries[site].shape[0] == 2
    assert bool(torch.isfinite(found.total()).all())
    torch.testing.assert_close(found.metric - found.baseline - found.error, found.total())


def test_batches_of_any_size_give_the_same_shares() -> None:
    model = gpt2()
    whole, small = (
        integrated_gradients(model, IDS, log_prob(3), "layers.1.mlp_out", batch_tokens=n, tolerance=None)
        for n in (10_000, 1)
    )
    torch.testing.assert_close(whole.entries, small.entries, rtol=1e-4, atol=1e-5)


def test_shares_that_do_not_add_up_are_refused_with_their_gap() -> None:
    model, x = chain(4), rows(3, 0)
    with pytest.raises(ins.NotConvergedError, match=r"2 steps of 'left' leave 75.0% of the difference"):
        integrated_gradients(model, x, first_class, "@first", steps=2, rule="left")
    assert integrated_gradients(model, x, first_class, "@first", steps=2, rule="left", tolerance=None).gap > 0.7


def test_bad_settings_say_what_there_is() -> None:
    model = gpt2()
    for said, more in {
        "gauss, midpoint, left": {"rule": "simpson"},
        "recomputed, clean": {"others": "frozen"},
        "at least one point": {"steps": 0},
    }.items():
        with pytest.raises(ins.InputError, match=said):
            integrated_gradients(model, IDS, DIFF, "layers.1.mlp_out", **more)
    with pytest.raises(ins.InputError, match="leave baseline= and at= out"):
        integrated_gradients(model, IDS, DIFF, [ins.ablate("layers.1.mlp_out")], at=0)
