"""CLIP: a text and a vision tower side by side, and either tower on its own."""

from dataclasses import replace

from inscape.models.families.parts_encoder import PAIR_NOTES, PAIR_TEXT, PAIR_VISION
from inscape.models.family import Family

_NOTES = {
    **PAIR_NOTES,
    "vision.embed": "class token and patches with positions; a norm follows before layers.0.resid_pre",
    "vision.final_norm": "of token 0 only: one row an image",
}

CLIP = Family(
    name="clip",
    model_types=("clip",),
    stacks=(PAIR_VISION, PAIR_TEXT),
    logits="classifier",
    positions="own",
    notes=_NOTES,
)
CLIP_TEXT = Family(
    name="clip_text",
    model_types=("clip_text_model",),
    stacks=(replace(PAIR_TEXT, prefix="", config=""),),
    logits=None,
    positions="own",
    notes={"embed": _NOTES["text.embed"]},
)
CLIP_VISION = Family(
    name="clip_vision",
    model_types=("clip_vision_model",),
    stacks=(replace(PAIR_VISION, prefix="", config=""),),
    logits=None,
    positions="none",
    notes={"embed": _NOTES["vision.embed"], "final_norm": _NOTES["vision.final_norm"]},
)
