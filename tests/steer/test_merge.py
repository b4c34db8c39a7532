"""Edits in the weights: the merged model is the edited one, the way back is exact, and the rest says why not."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

import inscape as ins
from inscape.engine.probe import main_output
from inscape.steer.merge import merge_edits
from tests.common.small import direction, gpt2, gpt2_module
from tests.common.zoo import build, inputs_for

IDS = torch.tensor([[1, 5, 9, 13, 17, 21], [2, 6, 10, 14, 18, 22]])
MATRIX = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def check(model: "ins.Model", edits: "Sequence[ins.Edit]", inputs: Any = IDS) -> None:
    before = weights(model.module)
    want = main_output(ins.run(model, inputs, edits=list(edits), output=True).output)
    plain = main_output(ins.run(model, inputs, output=True).output)
    assert want is not None
    assert plain is not None
    merged = merge_edits(model, edits)
    got = main_output(ins.run(model, inputs, output=True).output)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert float((want - plain).abs().max()) > 1e-2  # an edit that does nothing would show nothing
    merged.undo()
    after = weights(model.module)
    assert all(torch.equal(after[name], value) for name, value in before.items())


MERGED = {
    "shift of the stream": (["layers.1.mlp.c_proj.bias"], lambda: ins.add(direction("layers.1.resid_post"), 2.0)),
    "of its middle": (["layers.1.attn.c_proj.bias"], lambda: ins.add(direction("layers.1.resid_mid"), 2.0)),
    "of its start": (["layers.0.mlp.c_proj.bias"], lambda: ins.add(direction("layers.1.resid_pre"), 2.0)),
    "of its end": (["layers.2.mlp.c_proj.bias"], lambda: ins.add(direction("layers.2.resid_post"), 2.0)),
    "projection": (None, lambda: ins.project_out(direction("layers.*.mlp_out"))),
    "a span of directions": (
        None,
        lambda: ins.project_out([direction("layers.1.mlp_out", i) for i in range(3)]),
    ),
    "in lengths": (["layers.1.mlp.c_proj.bias"], lambda: ins.add(direction("layers.1.mlp_out"), 3, unit="norm")),
    "what a norm gives, mixed": (
        ["layers.1.mlp.c_fc.weight", "layers.1.mlp.c_fc.bias"],
        lambda: ins.project_out(direction("layers.1.mlp.in")),
    ),
    "heads": (None, lambda: ins.scale("layers.1.attn.z", 0.0, heads=[1])),
    "a head's vector": (
        ["layers.1.attn.c_proj.bias"],
        lambda: ins.add(direction("layers.1.attn.z", width=8), heads=[1]),
    ),
    "neurons": (None, lambda: ins.scale("layers.1.mlp.act", 0.0, units=[3, 4, 70])),
    "a constant": (None, lambda: ins.replace("layers.1.mlp.pre", 0.3, units=list(range(40)))),
    "a norm": (None, lambda: ins.scale("layers.1.attn.in", torch.linspace(0, 2, 32))),
    "a norm's shift": (["layers.1.ln_2.bias"], lambda: ins.add(direction("layers.1.mlp.in"))),
    "a set projection": (None, lambda: ins.clamp(direction("layers.1.mlp_out"), 2.0, 2.0)),
    "an ablation": (None, lambda: ins.ablate("layers.1.mlp_out")),
    "a module left out": (None, lambda: ins.skip("layers.1.mlp")),
    "a function": (None, lambda: ins.edit("layers.1.mlp_out", lambda x: x @ MATRIX.to(x))),
}  # fmt: skip


@pytest.mark.parametrize("name", MERGED)
def test_the_merged_model_is_the_edited_one(name: str) -> None:
    names, edit = MERGED[name]
    check(gpt2(), [edit()])
    with merge_edits(gpt2(), edit()) as merged:
        assert merged.effect > 10 * merged.difference
        if names:  # a shift alone changes biases alone
            assert [w.replace("transformer.h.", "layers.") for w in merged.weights] == names


def test_it_generates_as_the_edited_one_does() -> None:
    model = gpt2()
    edits = [ins.add(direction("layers.1.resid_post"), 3.0), ins.project_out(direction("layers.*.attn_out", 1))]
    ids = {
        "input_ids": torch.tensor([[0, 0, 9, 13], [2, 6, 10, 14]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1] * 4]),
    }
    for options in ({"do_sample": False}, {"do_sample": False, "num_beams": 3}):
        want = ins.generate(model, ids, edits=edits, max_new_tokens=8, **options).tokens
        plain = ins.generate(model, ids, max_new_tokens=8, **options).tokens
        with merge_edits(model, edits):
            assert torch.equal(ins.generate(model, ids, max_new_tokens=8, **options).tokens, want)
        assert torch.equal(ins.generate(model, ids, max_new_tokens=8, **options).tokens, plain)
        assert not torch.equal(want, plain)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_several_edits_act_in_their_order(order: tuple[int, ...]) -> None:
    at_output = [
        ins.add(direction("layers.1.mlp_out"), 2.0),
        ins.scale("layers.1.mlp_out", 0.3),
        ins.project_out(direction("layers.1.mlp_out", 1)),
    ]
    at_input = [
        ins.add(direction("layers.1.mlp.act", width=128), 2.0),
        ins.scale("layers.1.mlp.act", 0.3),
        ins.project_out(direction("layers.1.mlp.act", 1, width=128)),
    ]
    stream = ins.add(direction("layers.1.resid_post", 2))
    check(gpt2(), [at_output[i] for i in order])
    check(gpt2(), [at_input[i] for i in order])
    check(gpt2(), [stream, *(at_input[i] for i in order), *(at_output[i] for i in order)])


def test_a_direction_is_taken_out_of_the_whole_stream() -> None:
    """Out of all that writes to it: no layer then holds anything along the direction."""
    model = ins.open(build("llama"))
    d = direction("embed")
    edits = [ins.project_out(ins.Direction(s, d.vector)) for s in ("embed", "layers.*.attn_out", "layers.*.mlp_out")]
    check(model, edits, inputs_for("llama"))
    with merge_edits(model, edits):
        trace = ins.run(model, inputs_for("llama"), read="layers.*.resid_post")
        assert all(float((x @ d.unit).abs().max()) < 1e-4 for x in trace.values())


def test_what_a_norm_cannot_take_up_its_readers_can() -> None:
    """A direction out of what attention reads, and a shift of it into the biases of q, k and v (Qwen2 has them)."""
    for name, edit in (
        ("llama", ins.project_out(direction("layers.1.attn.in"))),
        ("gemma3_text", ins.project_out(direction("layers.*.mlp.in"))),
        ("qwen2", ins.add(direction("layers.1.attn.in"), 2.0)),
    ):
        model = ins.open(build(name))
        check(model, [edit], inputs_for(name))
        with merge_edits(model, edit) as merged:
            assert not any("norm" in weight for weight in merged.weights)


def test_on_every_family_a_site_merges_exactly_or_not_at_all(tiny: nn.Module, batch: Any) -> None:
    model = ins.open(tiny)
    ins.run(model, batch, output=True)  # RWKV rescales its own weights in its first forward
    before = weights(tiny)
    sites = [s for s in model.sites.names if s.endswith(("mlp_out", "attn.in", "attn_out", "mlp.act")) and "s.1." in s]
    for site in [*sites, "final_norm"] if "final_norm" in model.sites else sites:
        edit = ins.scale(site, 0.5)
        want = ins.run(model, batch, edits=[edit], output=True).output
        try:
            held = merge_edits(model, edit, inputs=batch)
        except ins.EditError:
            continue
        with held:
            got = ins.run(model, batch, output=True).output
        torch.testing.assert_close(main_output(got), main_output(want), atol=1e-3, rtol=1e-3)
    after = weights(tiny)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("name", "least"), [("gpt2", 4), ("llama", 4), ("gemma3_text", 4), ("gpt_neox", 4), ("bert", 2)]
)
def test_the_common_families_merge(name: str, least: int) -> None:
    model = ins.open(build(name))
    sites = [s for s in ("mlp_out", "attn.in", "attn_out", "mlp.act") if f"layers.1.{s}" in model.sites]
    found = 0
    for short in sites:
        try:
            merge_edits(model, ins.scale(f"layers.1.{short}", 0.5)).undo()
            found += 1
        except ins.EditError:
            continue
    assert found >= least


VALUE = "no linear map and a shift: what it does depends on the value"
STREAM = r"a sum of what all layers below added(.|\n)*layers.\*.attn_out"
REFUSED = {
    "positions": ("acts at some tokens only, not at every token of every row", lambda: ins.add(direction(), at=-1)),
    "generated": ("acts at some tokens only", lambda: ins.add(direction(), at="generated")),
    "rows": ("acts at some rows only", lambda: ins.add(direction(), rows=[0])),
    "a number a row": ("is not one map for every token", lambda: ins.add(direction(), torch.tensor([1.0, 2.0]))),
    "a vector a row": ("is not one map", lambda: ins.add(ins.Direction("layers.1.resid_post", torch.randn(2, 32)))),
    "a schedule": (
        "the same at every token, row",
        lambda: ins.add(direction(), ins.schedule([2.0, 2.0, 1.0], then=2.0)),
    ),
    "its end": ("the same at every token, row", lambda: ins.add(direction(), ins.schedule([2.0] * 50))),
    "its prompt": (
        "the same at every token, row",
        lambda: ins.add(direction(), ins.schedule([2.0], then=2.0, prompt=1.0)),
    ),
    "a relative dose": (VALUE, lambda: ins.add(direction(), 0.5, unit="relative")),
    "length kept": (VALUE, lambda: ins.add(direction(), 0.5, keep_norm=True)),
    "bounds": (VALUE, lambda: ins.clamp(direction("layers.1.mlp_out"), 2.0, 3.0)),
    "far bounds": (VALUE, lambda: ins.clamp(direction("layers.1.mlp_out"), high=700.0)),
    "neurons off": (VALUE, lambda: ins.clamp("layers.1.mlp.act", high=0.0, units=[3])),
    "a curve": (VALUE, lambda: ins.edit("layers.1.mlp_out", torch.tanh)),
    "noise": ("does not do the same at every token", lambda: ins.edit("layers.1.mlp_out", torch.randn_like)),
    "the stream's projection": (STREAM, lambda: ins.project_out(direction())),
    "a mixing norm": ("ln_f scales every entry by itself", lambda: ins.project_out(direction("final_norm"))),
    "a shared weight": (r"wte\.weight is also the weight of lm_head", lambda: ins.project_out(direction("embed"))),
    "a pattern": ("batch head query key; it changes no single tokens", lambda: ins.scale("layers.1.attn.pattern", 0.5)),
    "fused queries": (r"no module of this model gives layers\.1\.attn\.q", lambda: ins.scale("layers.1.attn.q", 0.5)),
    "a module path": ("acts at no named site", lambda: ins.scale("@transformer.h.1.mlp", 0.5)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_weights_can_do_is_refused_with_the_reason(name: str) -> None:
    match, edit = REFUSED[name]
    before = weights(gpt2_module())
    with pytest.raises(ins.EditError, match=match):
        merge_edits(gpt2(), [ins.add(direction("layers.0.mlp_out")), edit()])
    assert all(torch.equal(p, before[name]) for name, p in gpt2_module().named_parameters())


def test_a_shift_needs_a_bias() -> None:
    gemma = ins.open(build("gemma3_text"))
    for site in ("layers.1.resid_post", "layers.1.attn_out", "layers.1.mlp.pre"):
        width = ins.run(gemma, inputs_for("gemma3_text"), read=site, output=False)[site].shape[-1]
        with pytest.raises(ins.EditError, match=r"has no bias that could hold the shift(.|\n)*control vector"):
            merge_edits(gemma, ins.add(direction(site, width=width)))


def test_weights_that_something_else_reads_too_are_put_back() -> None:
    """Falcon's old blocks have one norm for both branches; the site is what attention reads of it."""
    model = ins.open(build("falcon_old"))
    before = weights(model.module)
    with pytest.raises(ins.EditError, match=r"in the weights is not the edit(.|\n)*reads these weights' output too"):
        merge_edits(model, ins.scale("layers.1.attn.in", 0.3))
    assert all(torch.equal(p, before[name]) for name, p in model.module.named_parameters())


def test_a_change_in_between_is_not_lost() -> None:
    model = gpt2()
    merged = merge_edits(model, ins.add(direction("layers.1.mlp_out")))
    place = model.module.get_parameter(merged.weights[0])
    with torch.no_grad():
        place[0] += 1
    with pytest.raises(ins.ModelError, match="was changed since it was merged"):
        merged.undo()
    with torch.no_grad():
        place.copy_(merged.merged[merged.weights[0]])
    merged.undo()
    merged.undo()
    merged.apply()
    assert merged.is_applied
    merged.undo()


def test_low_precision_is_merged_to_its_rounding() -> None:
    module = copy.deepcopy(gpt2_module()).to(torch.bfloat16)
    model = ins.open(module)
    merged = merge_edits(model, ins.add(direction("layers.1.resid_post"), 4.0))
    assert merged.difference < 0.1 * merged.effect
    merged.undo()


def test_nothing_to_merge_is_said() -> None:
    with pytest.raises(ins.SiteError, match="no site matches"):
        merge_edits(gpt2(), ins.scale("layers.9.mlp_out", 0.5))
    with pytest.raises(ins.InputError, match="the list is empty"):
        merge_edits(gpt2(), [])
