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
    embed="transformer.word_embeddings",
    final_norm="transformer.ln_f",
)
_NOTES = {
    "attn.q": f"{OWN_ATTENTION}; heads are fused in @transformer.h.{{i}}.self_attention.query_key_value",
    "attn.k": f"{OWN_ATTENTION}; heads are fused in @transformer.h.{{i}}.self_attention.query_key_value",
    "attn.v": f"{OWN_ATTENTION}; heads are fused in @transformer.h.{{i}}.self_attention.query_key_value",
    "attn.scores": OWN_ATTENTION,
    "attn.pattern": f"{OWN_ATTENTION}, and no module receives the pattern",
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
