"""GPT-NeoX and Pythia: attention and MLP side by side, or one after the other where the configuration says so."""

from dataclasses import replace

from inscape.models.families.parts import STREAM
from inscape.models.family import Family, Stack, Taps

_SITES: dict[str, Taps] = {
    **STREAM,
    "attn.in": "attention:in",
    "attn.z": "attention.dense:in",
    "attn_out": "post_attention_dropout",
    "mlp.in": "mlp:in",
    "mlp.pre": "mlp.dense_h_to_4h",
    "mlp.act": "mlp.dense_4h_to_h:in",
    "mlp_out": "post_mlp_dropout",
}
_STACK = Stack(
    blocks="gpt_neox.layers",
    sites=_SITES,
    attention="attention",
    embed="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
)
_HEAD = ("lm_head", "embed_out")

GPT_NEOX = Family(
    name="gpt_neox",
    model_types=("gpt_neox",),
    when={"use_parallel_residual": True},
    stacks=(replace(_STACK, adds="parallel"),),
    logits=_HEAD,
    notes={"resid_mid": "attention and MLP read the same stream: there is no middle"},
)

GPT_NEOX_SEQUENTIAL = Family(
    name="gpt_neox_sequential",
    model_types=("gpt_neox",),
    when={"use_parallel_residual": False},
    stacks=(replace(_STACK, sites={**_SITES, "resid_mid": "post_attention_layernorm:in"}),),
    logits=_HEAD,
)
