"""SigLIP: a text and a vision tower side by side, and either tower on its own."""

from dataclasses import replace

from inscape.models.families.parts_encoder import NO_CLASS_TOKEN, PAIR_NOTES, PAIR_TEXT, PAIR_VISION
from inscape.models.family import Family

_NOTES = {
    **PAIR_NOTES,
    "vision.embed": NO_CLASS_TOKEN,
}

SIGLIP = Family(
    name="siglip",
    model_types=("siglip",),
    stacks=(PAIR_VISION, PAIR_TEXT),
    logits="classifier",
    positions="own",
    notes=_NOTES,
)
SIGLIP_TEXT = Family(
    name="siglip_text",
    model_types=("siglip_text_model",),
    stacks=(replace(PAIR_TEXT, prefix="", config=""),),
    logits=None,
    positions="own",
    notes={"embed": _NOTES["text.embed"]},
)
SIGLIP_VISION = Family(
    name="siglip_vision",
    model_types=("siglip_vision_model",),
    stacks=(replace(PAIR_VISION, prefix="", config=""),),
    logits=None,
    positions="none",
    notes={"embed": _NOTES["vision.embed"]},
)
