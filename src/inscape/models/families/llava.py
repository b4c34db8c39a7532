"""LLaVA: a CLIP or SigLIP vision tower before a Llama, Mistral or Qwen2 language model."""

from inscape.models.families.parts import PRE_NORM
from inscape.models.families.parts_encoder import CLIP_BLOCK
from inscape.models.family import Family, Stack

LLAVA = Family(
    name="llava",
    model_types=("llava",),
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
            sites=PRE_NORM,
            attention="self_attn",
            prefix="text.",
            embed="model.language_model.embed_tokens",
            final_norm="model.language_model.norm",
            config="text_config",
        ),
    ),
    logits="lm_head",
    notes={
        "text.embed": "before the image features take the places of the image tokens",
        "vision.layers.*": "the text usually sees the layer that config.vision_feature_layer names, not the last one",
        "vision.final_norm": "of token 0 only with a CLIP tower, and unused by the text",
    },
)
