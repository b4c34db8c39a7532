"""LLaVA: a CLIP or SigLIP vision tower before a Llama, Mistral or Qwen2 language model."""

from dataclasses import replace

from inscape.models.families.parts import PRE_NORM
from inscape.models.families.parts_encoder import AFTER_VISION, BEFORE_TEXT
from inscape.models.family import Family

LLAVA = Family(
    name="llava",
    model_types=("llava",),
    stacks=(BEFORE_TEXT, replace(AFTER_VISION, sites=PRE_NORM)),
    logits="lm_head",
    notes={
        "text.embed": "before the image features take the places of the image tokens",
        "vision.layers.*": "the text usually sees the layer that config.vision_feature_layer names, not the last one",
        "vision.final_norm": "of token 0 only with a CLIP tower, and unused by the text",
    },
)
