"""First-order effects: exact on a linear net, equal to the obvious loop elsewhere."""

import pytest
import torch

import inscape as ins
from inscape.circuits.attribution.first_order import first_order, gradient_times_activation
from inscape.circuits.attribution.objective import Objective
from inscape.core.metrics import accuracy, kl, log_prob, logit_diff, loss, rank
from inscape.engine.inputs import prepare
from tests.circuits.attribution.nets import Side, chain, first_class, rows
from tests.common.small import gpt2
from tests.common.zoo import build, inputs_for

IDS = [[1, 5, 9, 13, 17, 21], [2, 6, 10]]
DIFF = logit_diff(3, 7)


def test_on_a_linear_net_the_effect_of_every_edit_is_exact() -> None:
    model, x = chain(), rows(4, 0)[:, None]  # one position a row
    other = ins.run(model, rows(4, 1)[:, None], read="@first")
    for edit in (
        ins.ablate("@first"),
        ins.ablate("@first", units=[2, 5]),
        ins.patch("@first", other),
        ins.scale("@first", 1.5, units=torch.tensor([[0], [1], [2], [3]])),
    ):
        told = first_order(model, x, first_class, edit)
        done = first_class(ins.run(model, x, edits=[edit]).output[:, -1]) - told.metric
        torch.testing.assert_close(told.total(), done.float(), atol=1e-6, rtol=1e-5)


def test_nothing_below_the_first_site_is_part_of_a_graph_and_parameters_are_left_as_they_were() -> None:
    model = gpt2()
    objective = Objective.of(model, prepare(model, IDS), DIFF)
    value = objective.forward(["layers.1.mlp_out"]).values["layers.1.mlp_out"]
    assert value.is_leaf
    assert value.requires_grad
    assert all(p.requires_grad for p in model.module.parameters())


def test_gradient_times_activation_is_minus_the_effect_of_ablation() -> None:
    model, sites = gpt2(), "layers.*.mlp_out"
    found = gradient_times_activation(model, IDS, DIFF, sites)
    ablated = first_order(model, IDS, DIFF, ins.ablate(sites))
    trace = ins.run(model, IDS, read=sites, output="last")
    torch.testing.assert_close(found.metric, trace.output.logits[:, 0, 3] - trace.output.logits[:, 0, 7])
    for site, entries in found.entries.items():
        torch.testing.assert_close(entries, -ablated.entries[site])
        torch.testing.assert_close(found.steps[site], trace[site] * trace.mask[..., None])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_gives_the_numbers_of_each_row_alone(side: str) -> None:
    model = gpt2()
    padded = [[0] * 3 + IDS[1]] if side == "left" else [IDS[1] + [0] * 3]
    batch = {"input_ids": torch.tensor([IDS[0], *padded])}
    batch["attention_mask"] = torch.ones(2, 6, dtype=torch.long)
    batch["attention_mask"][1, slice(0, 3) if side == "left" else slice(3, 6)] = 0
    edits = [ins.ablate("layers.*.attn.z", heads=[1]), ins.ablate("layers.1.resid_post", at=1)]
    both = first_order(model, batch, DIFF, edits)
    for i, row in enumerate(IDS):
        alone = first_order(model, [row], DIFF, edits)
        assert float(alone.metric) == pytest.approx(float(both.metric[i]), abs=1e-4)
        for site, entries in alone.entries.items():
            real = batch["attention_mask"][i].bool()
            torch.testing.assert_close(both.entries[site][i][real], entries[0], atol=1e-4, rtol=1e-3)
            assert float(both.entries[site][i][~real].abs().sum()) == 0.0


def test_a_small_step_of_each_edit_alone_changes_as_much_as_was_told() -> None:
    model = gpt2()
    other = ins.run(model, [[4, 4, 8, 8, 12, 12], [3, 3, 3]], read="*")
    for site in (
        "layers.0.attn.q",
        "layers.1.attn.pattern",
        "layers.1.attn.head_out",
        "layers.2.mlp.pre",
        "embed",
        "final_norm",
    ):
        told = first_order(model, IDS, DIFF, ins.patch(site, other)).total()
        small = 1e-2

        def moved(x: torch.Tensor, site: str = site, small: float = small) -> torch.Tensor:
            return x + small * (other[site].to(x) - x)

        up = ins.run(model, IDS, edits=[ins.edit(site, moved)], output="last").output.logits[:, 0]
        flat = ins.run(model, IDS, output="last").output.logits[:, 0]
        done = ((up - flat)[:, 3] - (up - flat)[:, 7]) / small
        torch.testing.assert_close(told, done, atol=0.05 * float(told.abs().max()) + 1e-3, rtol=0.05)


@pytest.mark.parametrize("name", ["bert", "vit", "resnet", "t5", "mamba", "efficientnet_lite"])
def test_models_of_every_kind_can_be_attributed(name: str) -> None:
    model = ins.open(build(name))
    site = next(s.name for s in model.sites if s.name.endswith(("mlp_out", "ssm_out", ".out")))
    found = first_order(model, inputs_for(name), lambda logits: logits[:, 0], ins.ablate(site))
    assert found.entries[site].shape[0] == 2
    assert bool(torch.isfinite(found.total()).all())


def test_half_precision_agrees_with_single() -> None:
    import copy

    from tests.common.small import gpt2_module

    wide = first_order(gpt2(), IDS, DIFF, ins.ablate("layers.*.mlp_out"))
    half = first_order(ins.open(copy.deepcopy(gpt2_module()).bfloat16()), IDS, DIFF, ins.ablate("layers.*.mlp_out"))
    a, b = (torch.cat([x.flatten() for x in found.over("pos").values()]) for found in (wide, half))
    assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) > 0.99


def test_only_the_needed_rows_of_the_head_are_computed() -> None:
    model, seen = gpt2(), []
    handle = model.module.lm_head.register_forward_hook(lambda m, a, out: seen.append(out.shape))
    try:
        first_order(model, IDS, DIFF, ins.ablate("layers.1.mlp_out"))
        seen.clear()
        first_order(model, IDS, DIFF, ins.ablate("layers.1.mlp_out"))  # once a model, the head is tried
        assert seen == []
        first_order(model, IDS, log_prob(3), ins.ablate("layers.1.mlp_out"))
        assert seen == [(2, 1, 64)]
    finally:
        handle.remove()


def test_the_loss_of_the_prompt_is_a_metric_too() -> None:
    model = gpt2()
    found = first_order(model, IDS, loss(), ins.ablate("layers.1.mlp_out"))
    for i, row in enumerate(IDS):
        ids = torch.tensor([row])
        want = torch.nn.functional.cross_entropy(model.module(ids).logits[0, :-1], ids[0, 1:])
        assert float(found.metric[i]) == pytest.approx(float(want.detach()), rel=1e-4)


def test_what_cannot_be_attributed_says_why() -> None:
    model, edit = gpt2(), ins.ablate("layers.1.mlp_out")
    for metric, said in ((rank(3), "step function"), (accuracy(3), "step function"), (kl(), "compares with another")):
        with pytest.raises(ins.InputError, match=said):
            first_order(model, IDS, metric, edit)
    with pytest.raises(ins.InputError, match="no gradient"):
        first_order(model, IDS, lambda logits: logits[:, 0].detach(), edit)
    with pytest.raises(ins.InputError, match="one number a row"):
        first_order(model, IDS, lambda logits: logits.sum(), edit)
    with pytest.raises(ins.InputError, match="nothing to attribute"):
        first_order(model, IDS, DIFF, [])
    with pytest.raises(ins.NotFiredError, match="reaches nothing"):
        first_order(model, IDS, DIFF, ins.ablate("layers.1.mlp_out", at=40))
    with pytest.raises(ins.InputError, match="zero, mean, resample"):
        gradient_times_activation(model, IDS, DIFF, "layers.1.mlp_out", baseline="median")
    moe = ins.open(build("qwen3_moe"))
    with pytest.raises(ins.InputError, match="have no gradient"):
        first_order(moe, IDS, DIFF, ins.replace("layers.0.router.experts", 1))
    with pytest.raises(ins.InputError, match="no gradient reaches"):
        first_order(ins.open(Side()), torch.randn(2, 6), first_class, ins.ablate("@unused"))
    with pytest.raises(ins.ModelError, match="no logits"):
        first_order(ins.open(build("clip")), inputs_for("clip"), lambda x: x[:, 0], ins.ablate("text.layers.1.mlp_out"))
