"""Proofs of site names: all of a right table holds, and exactly what is wrong in a wrong one is withdrawn."""

from dataclasses import replace

import pytest
import torch
import transformers

import inscape as ins
from inscape.engine.verify import Verification, verify
from inscape.models.family import Family, Stack
from inscape.models.model import Model
from tests.common.small import gpt2_module, hooks_left
from tests.common.zoo_unknown import jittered

SITES = {
    "resid_pre": ":in", "attn.in": "self_attn:in", "attn.z": "self_attn.o_proj:in",
    "attn_out": "post_attention_layernorm",
    "resid_mid": "pre_feedforward_layernorm:in", "mlp.in": "mlp:in", "mlp.pre": "mlp.gate_proj",
    "mlp.act": "mlp.down_proj:in", "mlp_out": "post_feedforward_layernorm", "resid_post": "",
}  # fmt: skip
STACK = Stack("model.layers", SITES, attention="self_attn", embed="model.embed_tokens", final_norm="model.norm")
GEMMA = Family("gemma 2", ("gemma2",), (STACK,), logits_after=("softcap:final_logit_softcapping",))


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    """Post-norms, grouped heads, soft caps, sliding layers: whatever can be mistaken."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # tiny matrices: more threads only wait for each other
    return jittered(
        transformers.Gemma2ForCausalLM(
            transformers.Gemma2Config(
                num_hidden_layers=2,
                hidden_size=32,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                intermediate_size=48,
                vocab_size=64,
                query_pre_attn_scalar=8,
                sliding_window=4,
                pad_token_id=0,
            )
        )
    )


def kinds(found: Verification, status: str) -> set[str]:
    return {row.site.split(".", 2)[-1] for row in found.rows_of(status)}


def test_every_site_of_a_right_table_is_proven(module: torch.nn.Module) -> None:
    model = Model(module, family=GEMMA)
    found = verify(model)
    assert found.bit_equal
    assert found.proven == found.offered == len(model.sites)
    assert {site.status for site in model.sites} == {"proven"}
    assert "softmax(scores) v" in model.sites["layers.1.attn.pattern"].note
    assert hooks_left(module) == 0


@pytest.mark.parametrize(
    ("site", "tap", "expected"),
    [
        ("mlp.pre", "mlp.up_proj", {"mlp.pre"}),  # gate and up swapped
        ("attn_out", "self_attn", {"attn_out", "attn.head_out"}),  # before the post-norm
        ("mlp_out", "mlp", {"mlp_out"}),
        ("attn.z", "self_attn.q_proj:in", {"attn.z", "attn.head_out"}),  # the wrong projection
        ("mlp.act", "mlp.up_proj", {"mlp.act"}),
        ("attn.in", ":in", {"attn.in"}),  # before the norm
        ("mlp.in", "pre_feedforward_layernorm:in", {"mlp.in"}),
        ("resid_mid", "mlp:in", {"resid_mid"}),
        ("resid_post", "mlp", {"resid_post"}),
    ],
)
def test_what_a_wrong_table_names_wrongly_is_withdrawn_and_nothing_else(
    module: torch.nn.Module, site: str, tap: str, expected: set[str]
) -> None:
    model = Model(module, family=replace(GEMMA, stacks=(replace(STACK, sites=SITES | {site: tap}),)))
    found = verify(model)
    withdrawn = kinds(found, "withdrawn")
    assert withdrawn >= expected
    if site != "resid_post":  # without the stream's end, little else can be compared
        assert withdrawn == expected
    with pytest.raises(ins.SiteError, match="withdrawn on this model"):
        ins.run(model, torch.tensor([[3, 4, 5]]), read=f"layers.1.{site}")


def test_withdrawing_can_be_left_to_the_caller(module: torch.nn.Module) -> None:
    model = Model(module, family=replace(GEMMA, stacks=(replace(STACK, sites=SITES | {"attn_out": "self_attn"}),)))
    found = verify(model, withdraw=False)
    assert found.withdrawn > 0
    assert not model.status
    assert "withdrawn" in repr(found)


def test_a_forgotten_rule_after_the_head_shows(module: torch.nn.Module) -> None:
    found = verify(Model(module, family=replace(GEMMA, logits_after=())))
    assert kinds(found, "withdrawn") == {"logits"}


def test_the_middle_of_the_stream_is_proven_and_an_edit_there_goes_on_along_the_stream() -> None:
    sites = {"resid_pre": ":in", "attn_out": "attn", "resid_mid": "ln_2:in", "mlp_out": "mlp", "resid_post": ""}
    model = Model(gpt2_module(2), family=Family("gpt2", ("gpt2",), (Stack("transformer.h", sites),)))
    found = verify(model)
    assert found.read_only == ()
    assert found["layers.0.resid_mid"].status == "proven"


def test_a_module_in_training_mode_is_proved_in_eval_mode_and_left_in_training() -> None:
    module = gpt2_module(2).train()
    try:
        sites = {"resid_pre": ":in", "attn_out": "attn", "mlp_out": "mlp", "resid_post": ""}
        found = verify(Model(module, family=Family("gpt2", ("gpt2",), (Stack("transformer.h", sites),))))
        assert found.proven == found.offered
        assert module.training
    finally:
        module.eval()


def test_a_module_with_unknown_inputs_asks_for_some() -> None:
    class Odd(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return a + b + c

    with pytest.raises(ins.InputError, match="inputs="):
        verify(Model(Odd()))
