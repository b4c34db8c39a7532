"""Qwen2.5-VL: a windowed vision tower over packed patches before a Qwen2 language model."""

from dataclasses import replace

from inscape.models.families.parts import PRE_NORM
from inscape.models.family import Family, Stack

_PATCHES = (
    "the patches of all images of a batch lie in one row (patch, d_model), ordered by window inside the blocks; "
    "embed is still in the order given"
)
_WINDOWS = "windowed layers, and batches of several images, call the attention function once a window or image"

_VISION = Stack(
    blocks="model.visual.blocks",
    sites={
        "resid_pre": ":in",
        "attn.in": "attn:in",
        "attn.z": "attn.proj:in",
        "attn_out": "attn",
        "resid_mid": "norm2:in",
        "mlp.in": "mlp:in",
        "mlp.pre": "mlp.gate_proj",
        "mlp.act": "mlp.down_proj:in",
        "mlp_out": "mlp",
        "resid_post": "",
    },
    attention="attn",
    prefix="vision.",
    embed="model.visual.patch_embed",
    final_norm="model.visual.merger.ln_q",
    config="vision_config",
)
_TEXT = Stack(
    blocks="model.language_model.layers",
    sites=PRE_NORM,
    attention="self_attn",
    prefix="text.",
    embed="model.language_model.embed_tokens",
    final_norm="model.language_model.norm",
    config="text_config",
)

QWEN2_5_VL = Family(
    name="qwen2_5_vl",
    model_types=("qwen2_5_vl",),
    stacks=(_VISION, _TEXT),
    logits="lm_head",
    positions="own",
    notes={
        "text.embed": "before the image features take the places of the image tokens",
        "vision": _PATCHES,
        "vision.layers.*.attn": _WINDOWS,
    },
)
QWEN2_5_VL_TEXT = Family(
    name="qwen2_5_vl_text",
    model_types=("qwen2_5_vl_text",),
    stacks=(replace(_TEXT, prefix="", config=""),),
    logits=None,
    positions="own",
)
QWEN2_5_VL_VISION = Family(
    name="qwen2_5_vl_vision",
    model_types=("qwen2_5_vl_vision",),
    stacks=(replace(_VISION, prefix="", config=""),),
    logits=None,
    positions="none",
    notes={"layers": _PATCHES, "layers.*.attn": _WINDOWS},
)
