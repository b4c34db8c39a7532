"""Tuning some layers: what changes, what does not, undoing it, other layers beside it, and every message."""

import copy

import pytest
import torch
from torch import nn

import inscape as ins
from inscape.core.errors import InputError, ModelError, NotFiniteError, SiteError
from inscape.train import cosine, fit, next_token, no_better
from inscape.tune.layers import blocks_named, other_sets, tune_layers
from inscape.tune.parameters import Difference, LowRank, Weight, written_as
from tests.common.small import gpt2_module


def state(module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before, module) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def first_floats(value):
    if isinstance(value, torch.Tensor):
        return value if value.is_floating_point() else None
    parts = value.values() if hasattr(value, "values") else value if isinstance(value, (tuple, list)) else ()
    return next((found for part in parts if (found := first_floats(part)) is not None), None)


def smaller(module, batch):
    """A loss that any model has: the mean square of its first output."""
    out = module(**batch) if hasattr(batch, "keys") else module(*batch) if isinstance(batch, tuple) else module(batch)
    return first_floats(out).float().square().mean()


def tokens(step: int, n: int = 4) -> torch.Tensor:
    return torch.randint(4, 64, (n, 8), generator=torch.Generator().manual_seed(step))


def smaller_of_ids(module, ids):
    return smaller(module, {"input_ids": ids})


@pytest.fixture
def model():
    module = gpt2_module()
    kept = state(module)
    yield ins.open(module)
    module.load_state_dict(kept)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_only_the_named_layer_changes_and_undoing_is_bit_equal(model, method):
    module = model.module
    before, flags = state(module), [p.requires_grad for p in module.parameters()]
    places = {n: (id(p), p.data_ptr()) for n, p in module.named_parameters()}
    modes = [m.training for m in module.modules()]
    tuned = tune_layers(model, "layers.1", tokens, method=method, steps=4, lr=0.01)
    found = changed(before, module)
    assert found
    assert all(name.startswith("transformer.h.1.") for name in found)
    if method == "full":
        assert found == {name for name in before if name.startswith("transformer.h.1.")}
    assert [p.requires_grad for p in module.parameters()] == flags
    assert {n: (id(p), p.data_ptr()) for n, p in module.named_parameters()} == places
    assert [m.training for m in module.modules()] == modes
    assert all(p.grad is None for p in module.parameters())
    assert not any("parametrizations" in name for name, _ in module.named_modules())
    after = state(module)
    assert tuned.history.loss[-1] < tuned.history.loss[0]
    tuned.undo()
    assert changed(before, module) == set()
    tuned.undo()  # once more changes nothing
    tuned.apply()
    assert changed(after, module) == set()
    with tuned:
        pass
    assert changed(before, module) == set()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_family_can_be_tuned_and_is_bit_equal_after_undoing(tiny, batch, method):
    model = ins.open(tiny)
    if not model.blocks:
        pytest.skip("no blocks")
    before = state(tiny)
    name = model.blocks[-1].name
    with tune_layers(model, name, [batch], method=method, loss=smaller, steps=2, lr=0.01) as tuned:
        found = changed(before, tiny)
        inside = {id(t) for t in model.blocks[-1].module.state_dict(keep_vars=True).values()}
        named = tiny.state_dict(keep_vars=True)
        assert found
        assert all(id(named[n]) in inside for n in found)
        assert tuned.layers == (name,)
    assert changed(before, tiny) == set()


def test_what_runs_after_is_exactly_what_was_trained():
    module = nn.Linear(6, 5)
    weight = Weight("w", module, "weight")
    x = torch.randn(3, 6)
    for part in (LowRank(module.weight, 2, 4.0, False, torch.Generator().manual_seed(0)), Difference(module.weight)):
        with torch.no_grad():
            for p in part.parameters():
                p.add_(torch.randn_like(p))
        with torch.no_grad(), written_as([weight], {"w": part}):
            during, summed = module(x), module.weight.clone()
        plain = nn.Linear(6, 5)
        plain.load_state_dict({"weight": summed, "bias": module.bias})
        assert torch.equal(plain(x), during)
        assert not torch.equal(module(x), during)


def test_a_product_of_rank_one_finds_a_change_of_rank_one():
    torch.manual_seed(0)
    module, x = nn.Linear(6, 5, bias=False).double(), torch.randn(200, 6).double()
    u, v = torch.randn(5, 1).double(), torch.randn(1, 6).double()
    target = x @ (module.weight.detach() + u @ v).T
    part = LowRank(module.weight, 1, 1.0, False, torch.Generator().manual_seed(0))
    module.requires_grad_(False)
    with written_as([Weight("w", module, "weight")], {"w": part}):
        fit(module, [0], lambda m, _: (m(x) - target).square().mean(), steps=800, lr=0.03, clip=None, schedule=cosine)
    torch.testing.assert_close((part.b @ part.a).detach(), u @ v, atol=1e-4, rtol=0)


def test_factors_give_the_change_and_stacks_and_convolutions_have_theirs():
    generator = torch.Generator().manual_seed(0)
    experts, conv = torch.randn(4, 6, 5), torch.randn(3, 2, 3, 3)
    assert LowRank(experts, 2, 1.0, False, generator).a.shape == (4, 2, 5)
    assert LowRank(experts, 2, 1.0, False, generator).b.shape == (4, 6, 2)
    part = LowRank(conv, 8, 1.0, True, generator)
    assert (part.a.shape, part.b.shape) == ((3, 18), (3, 3))
    assert part(conv).shape == conv.shape
    assert torch.equal(part(conv), conv)  # B is zero at first


def test_the_factors_of_a_tuned_layer_are_its_change(model):
    tuned = tune_layers(model, [0], tokens, method="lora", rank=3, steps=3, lr=0.01, parts="attn.*")
    assert set(tuned.factors) == {"layers.0.attn.c_attn.weight", "layers.0.attn.c_proj.weight"}
    for name, (b, a) in tuned.factors.items():
        assert b.shape[1] == 3
        torch.testing.assert_close(tuned.tuned[name] - tuned.original[name], b @ a, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_weights_in_half_precision_take_small_steps(method):
    model = ins.open(copy.deepcopy(gpt2_module()).to(torch.bfloat16))
    before = state(model.module)
    small = 1e-5  # a weight of 0.15 in bfloat16 has steps of 1e-3
    tuned = tune_layers(model, 1, [tokens(0)], method=method, loss=smaller_of_ids, steps=60, lr=small)
    if method == "full":
        assert 0 < len(changed(before, model.module)) <= len(tuned.tuned)
        moved = (tuned.tuned["layers.1.mlp.c_fc.weight"] != before["transformer.h.1.mlp.c_fc.weight"]).float().mean()
        assert 0.05 < moved < 1  # only differences that add up over the steps pass the rounding
    assert model.dtype == torch.bfloat16
    assert all(name.startswith("transformer.h.1.") for name in changed(before, model.module))
    tuned.undo()
    assert changed(before, model.module) == set()


def test_names_patterns_and_numbers_mean_layers(model):
    def names(layers):
        return [block.name for block in blocks_named(model, layers)]

    assert names("layers.1") == names(1) == names([-2]) == ["layers.1"]
    assert names(["layers.2", 0]) == ["layers.0", "layers.2"]
    assert names("layers.*") == ["layers.0", "layers.1", "layers.2"]


def test_other_layers_are_tuned_the_same_way_and_undone(model):
    before, seen = state(model.module), []

    def score(m):
        seen.append(changed(before, m.module))
        return {"loss": -smaller_loss(m.module)}

    tuned = tune_layers(model, "layers.2", tokens, steps=6, lr=0.01, score=score, control="random", n_controls=5)
    layers = [{n.split(".")[2] for n in names} for names in seen]
    assert layers[0] == set()
    assert sorted(map(sorted, layers[1:3])) == [["0"], ["1"]]
    assert layers[3] == {"2"}
    assert {c.layers for c in tuned.controls} == {("layers.0",), ("layers.1",)}
    assert tuned.after["loss"] > tuned.before["loss"]
    better = sum(c.after["loss"] >= tuned.after["loss"] for c in tuned.controls)
    assert tuned.rank() == tuned.rank("loss") == (better + 1, 3)
    alone = tune_layers(model_again(before), "layers.2", tokens, steps=6, lr=0.01)
    assert all(torch.equal(alone.tuned[n], tuned.tuned[n]) for n in alone.tuned)


def smaller_loss(module) -> float:
    return next_token(module, tokens(99, 16)).item()


def model_again(kept):
    module = copy.deepcopy(gpt2_module())
    module.load_state_dict(kept)
    return ins.open(module)


def test_other_sets_are_different_ones_of_equal_size(model):
    pairs = other_sets(model, blocks_named(model, [0, 1]), 9, seed=0)
    assert sorted(tuple(b.name for b in p) for p in pairs) == [("layers.0", "layers.2"), ("layers.1", "layers.2")]


def test_an_error_while_tuning_leaves_the_model_as_it_was(model):
    before = state(model.module)

    def loss(module, batch):
        value = smaller(module, {"input_ids": batch})
        return value * (float("nan") if before["transformer.h.1.ln_1.weight"][0] != weight()[0] else 1)

    def weight():
        return model.module.transformer.h[1].ln_1.weight.detach()

    with pytest.raises(NotFiniteError, match="step 1"):
        tune_layers(model, 1, tokens, loss=loss, steps=4, lr=0.1)
    assert changed(before, model.module) == set()
    assert all(p.requires_grad for p in model.module.parameters())
    calls = []

    def score(m):
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("mine")
        return 0.0

    with pytest.raises(KeyError):
        tune_layers(model, 1, tokens, steps=1, score=score)
    assert changed(before, model.module) == set()


def test_a_change_on_top_is_not_lost_by_undoing_the_one_below(model):
    before = state(model.module)
    first = tune_layers(model, 1, tokens, steps=1)
    second = tune_layers(model, [1, 2], tokens, steps=1)
    with pytest.raises(ModelError, match=r"layers.1\.\S+ was changed since it was tuned[\s\S]*undo the later change"):
        first.undo()
    second.undo()
    first.undo()
    assert changed(before, model.module) == set()


def test_what_cannot_be_tuned_says_so(model):
    with pytest.raises(SiteError, match=r"no layer is called 'layers.9'[\s\S]*layers.0, layers.1, layers.2"):
        tune_layers(model, "layers.9", tokens)
    with pytest.raises(SiteError, match="no layer is called 3"):
        tune_layers(model, 3, tokens)
    with pytest.raises(InputError, match="no layers were named"):
        tune_layers(model, [], tokens)
    with pytest.raises(InputError, match="method='half': layers are tuned by 'full' or 'lora'"):
        tune_layers(model, 1, tokens, method="half")
    with pytest.raises(InputError, match="control='shuffle' is none of tune_layers"):
        tune_layers(model, 1, tokens, control="shuffle")
    with pytest.raises(InputError, match="a control needs score="):
        tune_layers(model, 1, tokens, control="random")
    with pytest.raises(InputError, match=r"no other 3 layers to compare with: the model has 3"):
        tune_layers(model, "layers.*", tokens, control="random", score=lambda m: 0.0)
    with pytest.raises(InputError, match="rank=0"):
        tune_layers(model, 1, tokens, method="lora", rank=0)
    with pytest.raises(
        ModelError, match=r"layers.1 has no weight that 'full' can train with parts='x'[\s\S]*inside are ln_1"
    ):
        tune_layers(model, 1, tokens, parts="x")
    with pytest.raises(ModelError, match=r"no weight that 'lora' can train with parts='ln_1\.\*'"):
        tune_layers(model, 1, tokens, method="lora", parts="ln_1.*")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_tuning_stops_early_by_what_the_opened_model_does_meanwhile(model, method):
    """The meter reads through `ins.run`, while the weights are still written as what they were plus something."""
    ids = tokens(99, 16)
    seen = []

    def held(_):
        logits = ins.run(model, ids, output=True).output.logits[:, :-1]
        seen.append(-nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item())
        return seen[-1]

    tuned = tune_layers(
        model, 1, [tokens(0)], method=method, steps=80, lr=0.02, meters={"held": held}, measure=4,
        stop=no_better("held", 2),
    )  # fmt: skip
    assert "stop() was true" in tuned.history.stopped
    assert tuned.history.steps < 80
    assert tuned.history.loss[-1] < tuned.history.loss[0]  # what was trained on got better, what was held did not
    assert seen[-1] == pytest.approx(
        -smaller_loss(model.module), abs=1e-4
    )  # and what is there now is what was measured
