"""Experts masked, forced, boosted and scaled, on every family that routes: against the rule written by hand."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import inscape as ins
from inscape.core.edits.experts import is_always, is_never
from inscape.core.errors import EditError, ModelError, NotFiredError, ShapeError, SiteError
from inscape.engine.routing import rerouted
from tests.common.zoo import build, inputs_for

MOE = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "deepseek_v3_direct_q", "gpt_oss",
       "jamba", "qwen3_next")  # fmt: skip
READ = ("logits", "weights", "experts")


def opened(name: str) -> tuple[ins.Model, str]:
    """The model, and its last layer with experts."""
    model = ins.open(build(name))
    return model, [b.name for b in model.blocks if f"{b.name}.router.logits" in model.sites][-1]


def routed(model: ins.Model, layer: str, inputs: object, edits: Sequence[ins.Edit] = ()) -> dict[str, Tensor]:
    trace = ins.run(model, inputs, read=[f"{layer}.router.{n}" for n in READ], edits=edits)
    return {n: trace[f"{layer}.router.{n}"] for n in READ}


def by_hand(name: str, module: nn.Module, logits: Tensor) -> dict[int, float]:
    """The rule of a family for the scores of one token, told again: expert -> weight."""
    config = module.config
    k = config.num_experts_per_tok
    p = logits.float()
    if name == "gpt_oss":
        top = p.topk(k)
        return dict(zip(top.indices.tolist(), top.values.softmax(-1).tolist(), strict=True))
    if name.startswith("deepseek_v3"):
        score = p.sigmoid()
        groups = score.reshape(config.n_group, -1)  # the zoo's corrections are 0
        kept = groups.topk(2, -1).values.sum(-1).topk(config.topk_group).indices
        allowed = torch.full_like(groups, -1).index_fill(0, kept, 0).flatten()
        top = (score + allowed).topk(k).indices
        weight = score[top]
        if config.norm_topk_prob:
            weight = weight / weight.sum()
        return dict(zip(top.tolist(), (weight * config.routed_scaling_factor).tolist(), strict=True))
    top = p.softmax(-1).topk(k)
    renormalised = name == "mixtral" or getattr(config, "norm_topk_prob", False)
    weight = top.values / top.values.sum() if renormalised and name != "deepseek_v2" else top.values
    if name == "deepseek_v2":
        weight = weight * config.routed_scaling_factor
    return dict(zip(top.indices.tolist(), weight.tolist(), strict=True))


def told(found: dict[str, Tensor], row: int, pos: int) -> dict[int, float]:
    return dict(zip(found["experts"][row, pos].tolist(), found["weights"][row, pos].tolist(), strict=True))


@pytest.mark.parametrize("name", MOE)
def test_logits_put_back_as_they_are_change_nothing_bit_for_bit(name):
    model, layer = opened(name)
    inputs = inputs_for(name)
    read = [f"{layer}.router.{n}" for n in READ]
    plain = ins.run(model, inputs, read=read, output=True)
    same = ins.run(model, inputs, read=read, edits=[ins.edit(read[0], torch.clone)], output=True)
    for site in read:
        assert torch.equal(plain[site], same[site])
    assert torch.equal(plain.output.logits, same.output.logits)


@pytest.mark.parametrize("name", MOE)
def test_edited_scores_are_chosen_from_and_weighed_by_the_rule_of_the_family(name):
    model, layer = opened(name)
    inputs, boost = inputs_for(name), 0.7
    plain = routed(model, layer, inputs)
    edited = routed(model, layer, inputs, [ins.boost_experts(layer, [0, 2], boost)])
    for row, pos in ((0, 0), (0, 3), (1, 6)):
        scores = plain["logits"][row, pos].clone()
        scores[[0, 2]] += boost
        expected = by_hand(name, model.module, scores)
        found = told(edited, row, pos)
        assert found.keys() == expected.keys()
        for e, w in expected.items():
            assert found[e] == pytest.approx(w, rel=1e-4)


@pytest.mark.parametrize("name", MOE)
def test_masked_experts_are_not_chosen_and_forced_ones_are(name):
    model, layer = opened(name)
    inputs = inputs_for(name)
    plain = routed(model, layer, inputs)
    often = int(plain["experts"].flatten().mode().values)
    masked = routed(model, layer, inputs, [ins.mask_experts(layer, often)])
    used = masked["weights"] * (masked["experts"] == often)
    assert not bool(used.any())
    assert bool(is_never(masked["logits"][..., often]).all())
    scores = plain["logits"][0, 2].clone()
    scores[often] = -1e9
    kept = {e: w for e, w in told(masked, 0, 2).items() if e != often}
    for e, w in by_hand(name, model.module, scores).items():
        if e in kept:
            assert kept[e] == pytest.approx(w, rel=1e-4)
    rarely = min(range(plain["logits"].shape[-1]), key=lambda e: int((plain["experts"] == e).sum()))
    forced = routed(model, layer, inputs, [ins.force_experts(layer, rarely)])
    here = forced["experts"] == rarely
    assert bool(here.any(-1).all())
    weight = (forced["weights"] * here).sum(-1)
    best = forced["weights"].masked_fill(here, -1).amax(-1)
    assert bool((weight >= best * (1 - 1e-5)).all())
    assert bool(is_always(forced["logits"][..., rarely]).all())


@pytest.mark.parametrize("name", MOE)
def test_scaled_experts_keep_their_places_and_change_their_weights(name):
    model, layer = opened(name)
    inputs = inputs_for(name)
    plain = routed(model, layer, inputs)
    often = int(plain["experts"].flatten().mode().values)
    here = plain["experts"] == often
    half = routed(model, layer, inputs, [ins.scale_experts(layer, often, 0.5)])
    assert torch.equal(half["experts"], plain["experts"])
    torch.testing.assert_close(half["weights"], plain["weights"] * torch.where(here, 0.5, 1.0))
    dropped = routed(model, layer, inputs, [ins.scale_experts(layer, often, 0, renormalise=True)])
    assert not bool((dropped["weights"] * here).any())
    torch.testing.assert_close(dropped["weights"].sum(-1), plain["weights"].sum(-1), rtol=1e-5, atol=1e-6)


def test_a_correction_of_the_choice_does_not_bring_a_masked_expert_back():
    module = copy.deepcopy(build("deepseek_v3"))
    model, layer = ins.open(module), "layers.2"
    bias = module.model.layers[2].mlp.gate.e_score_correction_bias
    bias[3] = 5.0  # chosen by everyone, whatever its score
    inputs = inputs_for("deepseek_v3")
    assert bool((routed(model, layer, inputs)["experts"] == 3).any(-1).all())
    assert not bool((routed(model, layer, inputs, [ins.mask_experts(layer, 3)])["experts"] == 3).any())
    bias[3], bias[5] = 0.0, -5.0
    assert not bool((routed(model, layer, inputs)["experts"] == 5).any())
    assert bool((routed(model, layer, inputs, [ins.force_experts(layer, 5)])["experts"] == 5).any(-1).all())
    assert bias[5] == -5.0


@pytest.mark.parametrize("name", ["mixtral", "olmoe", "deepseek_v3", "gpt_oss"])
@pytest.mark.parametrize("kind", ["mask", "force", "boost", "scale"])
def test_generation_with_a_cache_a_batch_and_padding_is_the_loop_without(name, kind):
    model, layer = opened(name)
    made = {
        "mask": lambda: ins.mask_experts(layer, [0, 1], at="newest"),
        "force": lambda: ins.force_experts(layer, 1),
        "boost": lambda: ins.boost_experts(layer, 1, ins.schedule([3.0, 1.0, -2.0])),
        "scale": lambda: ins.scale_experts(layer, [0, 2], torch.tensor([0.1, 2.0])),
    }
    edits, rows = [made[kind]()], [[5, 9, 13, 17], [6, 10]]
    read, n = [f"{layer}.router.weights", f"{layer}.resid_post"], 4
    cached = ins.generate(model, rows, edits=edits, read=read, max_new_tokens=n)
    without = ins.generate(model, rows, edits=edits, read=read, max_new_tokens=n, use_cache=False)
    assert cached.tokens.tolist() == without.tokens.tolist()
    real = cached.trace.mask
    torch.testing.assert_close(cached.trace[read[1]][real], without.trace[read[1]][real], rtol=1e-4, atol=5e-5)
    if kind != "scale":  # strengths a row are those of the batch
        for i, row in enumerate(rows):
            alone = ins.generate(model, [row], edits=edits, max_new_tokens=n)
            assert alone.tokens[0].tolist() == cached.tokens[i].tolist()


def test_rows_and_positions_choose_where_experts_are_masked():
    model, layer = opened("mixtral")
    inputs = inputs_for("mixtral")
    plain = routed(model, layer, inputs)
    edited = routed(model, layer, inputs, [ins.mask_experts(layer, [0, 1], at=[2, 3], rows=1)])
    same = torch.ones(2, 7, dtype=torch.bool)
    same[1, 2:4] = False
    assert torch.equal(edited["experts"][same], plain["experts"][same])
    assert bool((edited["experts"][1, 2:4] >= 2).all())


def test_the_gradient_of_a_boost_is_its_finite_difference():
    model, layer = opened("olmoe")
    inputs = inputs_for("olmoe")
    amount = torch.zeros((), requires_grad=True)

    def loss(value: Tensor) -> Tensor:
        edits = [ins.boost_experts(layer, 1, value)]
        return ins.run(model, inputs, edits=edits, grad=True).output.logits.float().square().mean()

    (grad,) = torch.autograd.grad(loss(amount), amount)
    steps = [float(loss(torch.tensor(v)).detach()) for v in (1e-2, -1e-2)]
    assert float(grad) == pytest.approx((steps[0] - steps[1]) / 2e-2, rel=0.05)


@pytest.mark.parametrize("name", MOE)
def test_scores_that_are_read_with_a_graph_lie_on_the_way_to_the_output(name):
    model, layer = opened(name)
    site = f"{layer}.router.logits"

    def metric(out: object) -> Tensor:
        return out.logits.float().square().sum()  # type: ignore[attr-defined]

    trace = ins.run(model, inputs_for(name), read=site, metric=metric, grad=True)
    assert bool((trace.grads[site] != 0).any())
    assert torch.equal(trace[site], ins.run(model, inputs_for(name), read=site)[site])


def test_the_edits_are_read_back_from_their_file(tmp_path):
    model, layer = opened("mixtral")
    edits = [
        ins.mask_experts(layer, 0, at=-1),
        ins.boost_experts(layer, [1, 2], ins.schedule([2.0, 1.0])),
        ins.scale_experts(layer, 3, 0.5, renormalise=True, rows=0),
        ins.force_experts("layers.0", 1),
    ]
    ins.save_edits(tmp_path / "edits.safetensors", edits)
    again = ins.load_edits(tmp_path / "edits.safetensors")
    inputs = inputs_for("mixtral")
    one, two = (ins.run(model, inputs, edits=e, output=True).output.logits for e in (edits, again))
    assert torch.equal(one, two)
    assert [e.label for e in again] == [e.label for e in edits]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_takes_them(dtype):
    model = ins.open(copy.deepcopy(build("mixtral")).to(dtype))
    edits = [ins.mask_experts("layers.1", 0), ins.force_experts("layers.1", 2), ins.boost_experts("layers.0", 1, 0.5)]
    found = routed(model, "layers.1", inputs_for("mixtral"), edits)
    assert not bool((found["experts"] == 0).any())
    assert bool((found["experts"] == 2).any(-1).all())
    assert bool(torch.isfinite(found["weights"]).all())


def test_a_model_is_as_it_was_and_edits_add_up_in_order():
    model, layer = opened("mixtral")
    inputs = inputs_for("mixtral")
    before = ins.run(model, inputs).output.logits
    edits = [ins.boost_experts(layer, 0, 2.0), ins.boost_experts(layer, 0, -2.0)]
    torch.testing.assert_close(ins.run(model, inputs, edits=edits).output.logits, before)
    assert torch.equal(ins.run(model, inputs).output.logits, before)


def test_too_many_masked_or_forced_is_an_error():
    model, layer = opened("mixtral")
    inputs = inputs_for("mixtral")
    with pytest.raises(EditError, match=r"3 of 4 experts are masked, and every token needs 2\.\n  leave at least 2"):
        ins.run(model, inputs, edits=[ins.mask_experts(layer, [0, 1, 2])])
    with pytest.raises(EditError, match="3 experts are forced on one token, which passes 2"):
        ins.run(model, inputs, edits=[ins.force_experts(layer, [0, 1, 2])])


def test_experts_that_are_not_there_and_models_without_any_are_errors():
    model, layer = opened("mixtral")
    inputs = inputs_for("mixtral")
    with pytest.raises(ShapeError, match="there is no expert 4: the layer has 4, counted from 0"):
        ins.run(model, inputs, edits=[ins.mask_experts(layer, 4)])
    with pytest.raises(EditError, match="give at least one index of an expert, counted from 0"):
        ins.mask_experts(layer, [])
    with pytest.raises(EditError, match=r"force_experts\(experts=-1\)"):
        ins.force_experts(layer, -1)
    with pytest.raises(SiteError, match=r"router\.logits"):
        ins.run(ins.open(build("llama")), inputs_for("llama"), edits=[ins.mask_experts("layers.0", 1)])
    with pytest.raises(NotFiredError, match="never happened"):
        ins.run(model, inputs, edits=[ins.mask_experts(layer, 1, at="generated")])


def test_masking_and_forcing_one_expert_contradict_one_another():
    model, layer = opened("mixtral")
    edits = [ins.mask_experts(layer, [0, 1]), ins.force_experts(layer, 1)]
    with pytest.raises(EditError, match=r"contradict one another at .*expert 1 is masked and forced"):
        ins.run(model, inputs_for("mixtral"), edits=edits)
    elsewhere = [ins.mask_experts(layer, [0, 1], at=0), ins.force_experts(layer, 1, at=1)]
    ins.run(model, inputs_for("mixtral"), edits=elsewhere)


def test_a_router_without_one_linear_map_says_what_to_edit_instead():
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits = nn.functional.linear(nn.functional.linear(x, torch.eye(4)), torch.eye(4))
            top = logits.topk(2)
            return logits, top.values, top.indices

    x = torch.randn(3, 4)
    two = Two()
    with pytest.raises(ModelError, match=r"Two makes its scores with 2 linear maps[\s\S]*edit router.experts"):
        rerouted(two, (x,), two(x), x, "layers.0.router.logits")
