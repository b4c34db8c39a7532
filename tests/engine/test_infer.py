"""Architectures without a table: what inference finds, and that its names pass the proofs."""

import pytest
import torch

from inscape.engine.infer import infer_family
from inscape.engine.verify import Verification, verify
from inscape.models.model import Model
from tests.common.zoo_unknown import unknown

WHOLE = [
    "stablelm",
    "persimmon",
    "mpt",
    "gpt_bigcode",
    "xglm",
    "codegen",
    "nemotron",
    "glm",
    "electra",
    "deberta",
    "tiny",
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def inferred(name: str) -> tuple[Model, Verification]:
    module = unknown(name)
    model = Model(module, family=infer_family(module), inferred=True)
    return model, verify(model)


@pytest.mark.parametrize("name", WHOLE)
def test_a_transformer_without_a_table_gets_the_whole_set_of_proven_names(name: str) -> None:
    model, found = inferred(name)
    assert found.bit_equal
    assert found.proven == found.offered
    wanted = {"resid_pre", "attn.in", "attn_out", "mlp.in", "mlp.pre", "mlp.act", "mlp_out", "resid_post"}
    wanted |= {"attn.z", "attn.scores", "attn.pattern"}
    assert wanted <= set(model.blocks[1].points)
    assert "logits" in model.sites
    assert "embed" in model.sites
    assert model.n_layers == 3


@pytest.mark.parametrize("name", ["stablelm", "persimmon", "gpt_bigcode", "nemotron", "glm", "electra"])
def test_attention_is_offered_where_the_model_calls_the_interface(name: str) -> None:
    model, _ = inferred(name)
    assert {f"layers.1.attn.{n}" for n in ("q", "k", "v", "scores", "pattern")} <= set(model.sites.names)


@pytest.mark.parametrize("name", ["mpt", "xglm", "codegen", "tiny"])
def test_attention_is_offered_where_the_model_computes_it_itself(name: str) -> None:
    model, _ = inferred(name)
    assert {f"layers.1.attn.{n}" for n in ("q", "k", "v", "scores", "pattern", "z")} <= set(model.sites.names)


def test_of_disentangled_attention_only_what_has_a_meaning_is_offered() -> None:
    model, _ = inferred("deberta")
    assert {f"layers.1.attn.{n}" for n in ("v", "scores", "pattern")} <= set(model.sites.names)
    assert not {"layers.1.attn.q", "layers.1.attn.k"} & set(model.sites.names)


@pytest.mark.parametrize("name", ["torch_encoder", "mlp"])
def test_attention_is_not_offered_where_none_is_seen(name: str) -> None:
    model, _ = inferred(name)
    assert "layers.1.attn.pattern" not in model.sites


@pytest.mark.parametrize(
    ("name", "adds"), [("codegen", "parallel"), ("stablelm", "sequential"), ("electra", "post_norm")]
)
def test_the_layout_of_the_block_is_found(name: str, adds: str) -> None:
    assert infer_family(unknown(name)).stacks[0].adds == adds


@pytest.mark.parametrize("name", ["torch_encoder", "torch_encoder_post_norm"])
def test_torchs_own_encoder_has_its_stream_and_its_parts(name: str) -> None:
    model, found = inferred(name)
    assert found.proven == found.offered
    assert {"attn_out", "mlp_out", "mlp.act", "resid_mid"} <= set(model.blocks[0].points)


def test_an_encoder_and_a_decoder_are_two_stacks() -> None:
    model, found = inferred("pegasus")
    assert [s.prefix for s, _ in model.resolved.stacks] == ["encoder.", "decoder."]
    assert found.withdrawn == 0
    assert found["decoder.layers.1.resid_post"].status == found["encoder.layers.1.attn.z"].status == "proven"


def test_layers_that_share_one_module_are_withdrawn_because_their_names_mean_no_single_activation() -> None:
    model, found = inferred("albert")
    assert "fires 3 times" in found["layers.0.resid_post"].proof
    assert "layers.0.resid_post" not in model.sites


def test_the_layers_of_a_plain_sequence_are_blocks() -> None:
    model, found = inferred("mlp")
    assert model.n_layers == 5
    assert found.proven == found.offered == 10


def test_a_module_without_repeated_blocks_has_no_sites_and_says_why() -> None:
    family = infer_family(torch.nn.Linear(4, 4))
    assert not family.stacks
    assert "no list of repeated blocks" in family.notes["layers"]
