"""Whisper: a pre-norm encoder-decoder over log-mel spectrograms; the MLP is two layers of the block itself."""

from inscape.models.families.parts_encoder import CROSS_PARTS, FC_PARTS
from inscape.models.family import Family, Stack

ENCODER = {**FC_PARTS, "resid_mid": "final_layer_norm:in"}

WHISPER = Family(
    name="whisper",
    model_types=("whisper",),
    stacks=(
        Stack(
            blocks="model.encoder.layers",
            sites=ENCODER,
            attention="self_attn",
            prefix="encoder.",
            final_norm="model.encoder.layer_norm",
        ),
        Stack(
            blocks="model.decoder.layers",
            sites={
                **ENCODER,
                **CROSS_PARTS,
            },
            attention="self_attn",
            cross="encoder_attn",
            prefix="decoder.",
            embed="model.decoder.embed_tokens",
            final_norm="model.decoder.layer_norm",
            heads=("num_heads", "decoder_attention_heads"),
        ),
    ),
    logits=("proj_out", "classifier"),
    positions="own",
    notes={
        "encoder.embed": "none: two convolutions with an activation between them; encoder.layers.0.resid_pre follows",
        "decoder.layers.*.resid_mid": "after cross-attention",
    },
)
