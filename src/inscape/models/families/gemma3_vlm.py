"""Gemma 3 with its SigLIP vision tower; the text-only models have a table of their own."""

from dataclasses import replace

from inscape.models.families.parts import SANDWICH_NORM
from inscape.models.families.parts_encoder import AFTER_VISION, BEFORE_TEXT, NO_CLASS_TOKEN
from inscape.models.family import Family

GEMMA3_VLM = Family(
    name="gemma3_vlm",
    model_types=("gemma3",),
    stacks=(BEFORE_TEXT, replace(AFTER_VISION, sites=SANDWICH_NORM)),
    logits="lm_head",
    notes={
        "text.embed": "scaled by sqrt(d_model), before the image features take the places of the image tokens",
        "vision.embed": NO_CLASS_TOKEN,
    },
)
