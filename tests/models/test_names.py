"""Other tools' names: what they mean here, and where they mean nothing here."""

import copy

import pytest
import torch

import inscape as ins
from inscape.models.names import aliases, canonical
from tests.common.small import gpt2, gpt2_module
from tests.common.zoo import build

SAME = {
    "blocks.1.hook_resid_pre": "layers.1.resid_pre",
    "blocks.*.hook_resid_post": "layers.*.resid_post",
    "blocks.1.attn.hook_rot_q": "layers.1.attn.q",
    "blocks.1.attn.hook_q": "layers.1.attn.q",
    "blocks.1.attn.hook_z": "layers.1.attn.z",
    "blocks.1.mlp.hook_post": "layers.1.mlp.act",
    "hook_embed": "embed",
    "transformer.h.1": "layers.1.resid_post",
    "h.1": "layers.1.resid_post",
    "h.1.mlp": "layers.1.mlp_out",
    "layers.1": "layers.1.resid_post",
    "hidden_states[0]": "layers.0.resid_pre",
    "hidden_states[1]": "layers.0.resid_post",
    "hidden_states[-1]": "final_norm",
    "hidden_states[-2]": "layers.1.resid_post",
    "vllm:0": "layers.0.resid_pre",
    "vllm:3": "layers.2.resid_post",
    "direction.2": "layers.2.resid_post",
    "2-res": "layers.2.resid_post",
    "2-gemmascope-res-16k": "layers.2.resid_post",
    "2-res-jb": "layers.2.resid_pre",
    "2-res_mid_32k-oai": "layers.2.resid_mid",
    "2-att-kk": "layers.2.attn.z",
    "2-att_32k-oai": "layers.2.attn_out",
    "layers.1.mlp.act": "layers.1.mlp.act",
}
REFUSED = {
    "blocks.1.hook_mlp_in": "before the norm",
    "blocks.1.hook_attn_in": "before the norm",
    "blocks.1.ln1.hook_normalized": "without the norm's gain",
    "ln_final.hook_normalized": "without the norm's gain",
    "unembed.hook_out": "before the soft cap",
    "direction.0": "begin at direction.1",
    "vllm:4": "this model has 3 layers",
    "hidden_states[-5]": "this model has 3 layers",
    "2-transcoder-hp": "its page names the hook",
}


@pytest.mark.parametrize("theirs", SAME)
def test_a_name_of_another_tool_is_understood(theirs: str) -> None:
    assert canonical(theirs, gpt2()) == SAME[theirs]


@pytest.mark.parametrize("theirs", REFUSED)
def test_a_name_that_is_only_easily_mistaken_is_refused(theirs: str) -> None:
    with pytest.raises(ins.SiteError, match=REFUSED[theirs]):
        canonical(theirs, gpt2())


def test_queries_before_rotary_are_refused_where_there_is_rotary() -> None:
    with pytest.raises(ins.SiteError, match="before the rotary embedding"):
        ins.run(ins.open(build("llama")), torch.tensor([[1, 2]]), read="blocks.0.attn.hook_q")
    assert canonical("2-res-jb", ins.open(build("gemma2"))) == "layers.2.resid_post"


def test_hidden_states_are_those_of_transformers() -> None:
    model, ids = ins.open(copy.deepcopy(gpt2_module())), torch.tensor([[1, 2, 3]])  # transformers leaves hooks in it
    theirs = model.module(ids, output_hidden_states=True).hidden_states
    for i in range(len(theirs)):
        (ours,) = ins.run(model, ids, read=f"hidden_states[{i}]").values()
        torch.testing.assert_close(ours, theirs[i], rtol=0, atol=0)


def test_module_paths_are_outputs_of_modules() -> None:
    model, ids = ins.open(build("gemma2")), torch.tensor([[1, 2, 3]])
    trace = ins.run(model, ids, read=["layers.0.mlp_out", "@model.layers.0.mlp"])
    assert not torch.allclose(*trace.values())  # a post-norm lies between them
    with pytest.raises(ins.SiteError, match="@"):
        ins.run(model, ids, read="model.layers.0.mlp")


@pytest.mark.parametrize("name", ["layers.1.resid_pre", "layers.1.resid_post", "layers.1.attn.z", "layers.1.mlp_out"])
def test_what_is_written_is_read_as_the_same_site(name: str) -> None:
    model = gpt2()
    for theirs in aliases(name).values():
        value = ins.run(model, torch.tensor([[1, 2]]), read=canonical(theirs, model))
        own = ins.run(model, torch.tensor([[1, 2]]), read=name)[name]
        torch.testing.assert_close(next(iter(value.values())), own, rtol=0, atol=0)
