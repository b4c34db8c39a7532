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
                "attn.z": "self_attention.dense:in",
                "attn_out": "self_attention.dense",
                "resid_mid": "self_attention",
                "mlp.in": "mlp:in",
                "mlp.pre": "mlp.dense_h_to_4h",
                "mlp.act": "mlp.dense_4h_to_h:in",
                "mlp_out": "mlp.dense_4h_to_h",
            },
            attention_calls="self_attention",
            embed="transformer.word_embeddings",
            final_norm="transformer.ln_f",
        ),
    ),
    positions="own",
    notes={
        "embed": "before the norm that stands between the embedding and the first layer",
        "attn.scores": f"{OWN_ATTENTION}; the bias of the distance (ALiBi) is in them",
        "attn_out": "not with slow_but_exact, which multiplies slices of the weight past the module",
        "mlp_out": "not with slow_but_exact, which multiplies slices of the weight past the module",
    },
)
