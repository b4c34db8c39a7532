"""BART: an encoder-decoder whose stream is normalised after every addition; the MLP is two layers of the block."""

from inscape.models.families.parts_encoder import CROSS_PARTS, FC_PARTS
from inscape.models.family import Family, Stack

ENCODER = {**FC_PARTS, "resid_mid": "self_attn_layer_norm"}

BART = Family(
    name="bart",
    model_types=("bart",),
    stacks=(
        Stack(
            blocks="model.encoder.layers",
            sites=ENCODER,
            attention="self_attn",
            adds="post_norm",
            norms=("self_attn_layer_norm", "final_layer_norm"),
            prefix="encoder.",
            embed="model.encoder.embed_tokens",
        ),
        Stack(
            blocks="model.decoder.layers",
            sites={
                **ENCODER,
                **CROSS_PARTS,
                "resid_mid": "encoder_attn_layer_norm",
            },
            attention="self_attn",
            cross="encoder_attn",
            adds="post_norm",
            norms=("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
            prefix="decoder.",
            embed="model.decoder.embed_tokens",
            heads=("num_heads", "decoder_attention_heads"),
        ),
    ),
    logits=("lm_head", "classification_head", "qa_outputs"),
    positions="own",
    notes={
        "embed": "token vectors alone (scaled where the config says so); positions and a norm follow",
        "final_norm": "none: every block ends in its own norm",
        "logits": "before final_logits_bias is added, which published models leave at zero",
        "decoder.layers.*.resid_mid": "after cross-attention; never met in a decoder that runs without an encoder",
    },
)
