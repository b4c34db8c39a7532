"""Gemma 3 with its SigLIP vision tower; the text-only models have a table of their own."""

from inscape.models.families.parts import SANDWICH_NORM
from inscape.models.families.parts_encoder import CLIP_BLOCK
from inscape.models.family import Family, Stack

GEMMA3_VLM = Family(
    name="gemma3_vlm",
    model_types=("gemma3",),
    stacks=(
        Stack(
            blocks="model.vision_tower.encoder.layers",
            sites=CLIP_BLOCK,
            attention="self_attn",
            prefix="vision.",
            embed="model.vision_tower.embeddings",
            final_norm="model.vision_tower.post_layernorm",
            config="vision_config",
        ),
        Stack(
            blocks="model.language_model.layers",
            sites=SANDWICH_NORM,
            attention="self_attn",
            prefix="text.",
            embed="model.language_model.embed_tokens",
            final_norm="model.language_model.norm",
            config="text_config",
        ),
    ),
    logits="lm_head",
    notes={
        "text.embed": "scaled by sqrt(d_model), before the image features take the places of the image tokens",
        "vision.embed": "patches with positions, as layers.0.resid_pre; there is no class token",
    },
)
