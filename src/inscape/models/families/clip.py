"""CLIP: a text and a vision tower side by side, and either tower on its own."""

from dataclasses import replace

from inscape.models.families.parts_encoder import CLIP_BLOCK
from inscape.models.family import Family, Stack

_TEXT = Stack(
    blocks="text_model.encoder.layers",
    sites=CLIP_BLOCK,
    attention="self_attn",
    prefix="text.",
    embed="text_model.embeddings.token_embedding",
    final_norm="text_model.final_layer_norm",
    config="text_config",
)
_VISION = Stack(
    blocks="vision_model.encoder.layers",
    sites=CLIP_BLOCK,
    attention="self_attn",
    prefix="vision.",
    embed="vision_model.embeddings",
    final_norm="vision_model.post_layernorm",
    config="vision_config",
)
_NOTES = {
    "text.embed": "token vectors alone; positions are added before layers.0.resid_pre",
    "vision.embed": "class token and patches with positions; a norm follows before layers.0.resid_pre",
    "vision.final_norm": "of token 0 only: one row an image",
    "logits": "similarities of the two towers' pooled outputs, made by no module",
}

CLIP = Family(
    name="clip", model_types=("clip",), stacks=(_VISION, _TEXT), logits="classifier", positions="own", notes=_NOTES
)
CLIP_TEXT = Family(
    name="clip_text",
    model_types=("clip_text_model",),
    stacks=(replace(_TEXT, prefix="", config=""),),
    logits=None,
    positions="own",
    notes={"embed": _NOTES["text.embed"]},
)
CLIP_VISION = Family(
    name="clip_vision",
    model_types=("clip_vision_model",),
    stacks=(replace(_VISION, prefix="", config=""),),
    logits=None,
    positions="none",
    notes={"embed": _NOTES["vision.embed"], "final_norm": _NOTES["vision.final_norm"]},
)
