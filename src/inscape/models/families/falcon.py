"""Falcon: side by side in both block layouts, old (one norm) and new (two); one after the other in falcon-rw."""

from dataclasses import replace

from inscape.models.families.parts import OWN_ATTENTION, STREAM
from inscape.models.family import Family, Stack, Taps

_SITES: dict[str, Taps] = {
    **STREAM,
    "attn.in": "self_attention:in",
    "attn.z": "self_attention.dense:in",
    "attn_out": "self_attention",
    "mlp.in": "mlp:in",
    "mlp.pre": "mlp.dense_h_to_4h",
    "mlp.act": "mlp.dense_4h_to_h:in",
    "mlp_out": "mlp",
}
_STACK = Stack(
    blocks="transformer.h",
    sites=_SITES,
    attention_calls="self_attention",
    embed="transformer.word_embeddings",
    final_norm="transformer.ln_f",
)
_NOTES = {
    "attn.k": "one kv_head for all heads in the old layout; as many as heads in the new one, which repeats them first",
    "attn.v": "one kv_head for all heads in the old layout; as many as heads in the new one, which repeats them first",
    "attn.scores": f"{OWN_ATTENTION}; not with flash attention",
    "attn.pattern": f"{OWN_ATTENTION}; not with flash attention",
}

FALCON = Family(
    name="falcon",
    model_types=("falcon",),
    when={"parallel_attn": True},
    stacks=(replace(_STACK, adds="parallel"),),
    notes={
        **_NOTES,
        "resid_mid": "attention and MLP read the same stream: there is no middle",
        "mlp_out": "the block adds attention into this very tensor, in place, after the MLP returned it",
    },
)

FALCON_SEQUENTIAL = Family(
    name="falcon_sequential",
    model_types=("falcon",),
    when={"parallel_attn": False},
    stacks=(replace(_STACK, sites={**_SITES, "resid_mid": "post_attention_layernorm:in"}),),
    notes=_NOTES,
)
