"""BLOOM: pre-norm; attention and MLP modules add the residual themselves, so the parts are their inner projections."""

from inscape.models.families.parts import OWN_ATTENTION, STREAM
from inscape.models.family import Family, Stack

BLOOM = Family(
    name="bloom",
    model_types=("bloom",),
    when={"apply_residual_connection_post_layernorm": False},
    stacks=(
        Stack(
            blocks="transformer.h",
            sites={
                **STREAM,
                "attn.in": "self_attention:in",
                "attn.pattern": "self_attention.attention_dropout:in",
                "attn.z": "self_attention.dense:in",
                "attn_out": "self_attention.dense",
                "resid_mid": "self_attention",
                "mlp.in": "mlp:in",
                "mlp.pre": "mlp.dense_h_to_4h",
                "mlp.act": "mlp.dense_4h_to_h:in",
                "mlp_out": "mlp.dense_4h_to_h",
            },
            embed="transformer.word_embeddings",
            final_norm="transformer.ln_f",
        ),
    ),
    positions="own",
    notes={
        "embed": "before the norm that stands between the embedding and the first layer",
        "attn.q": f"{OWN_ATTENTION}; heads are fused in @transformer.h.{{i}}.self_attention.query_key_value",
        "attn.k": f"{OWN_ATTENTION}; heads are fused in @transformer.h.{{i}}.self_attention.query_key_value",
        "attn.v": f"{OWN_ATTENTION}; heads are fused in @transformer.h.{{i}}.self_attention.query_key_value",
        "attn.scores": OWN_ATTENTION,
        "attn_out": "not with slow_but_exact, which multiplies slices of the weight past the module",
        "mlp_out": "not with slow_but_exact, which multiplies slices of the weight past the module",
    },
)
