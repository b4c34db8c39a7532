"""DINOv2 and DINOv3 (ViT): pre-norm encoders whose branches pass a learned scale before they are added."""

from inscape.models.families.parts_encoder import DINO_BLOCK
from inscape.models.family import Family, Stack

_EMBED = "class token, any register tokens and patches, as layers.0.resid_pre"

DINOV2 = Family(
    name="dinov2",
    model_types=("dinov2",),
    stacks=(
        Stack(
            blocks="dinov2.encoder.layer",
            sites=DINO_BLOCK,
            attention="attention",
            embed="dinov2.embeddings",
            final_norm="dinov2.layernorm",
        ),
    ),
    logits="classifier",
    positions="none",
    notes={"embed": _EMBED, "logits": "one row an image, read from token 0 and the mean of the patches of final_norm"},
)

DINOV3_VIT = Family(
    name="dinov3_vit",
    model_types=("dinov3_vit",),
    stacks=(
        Stack(
            blocks="model.layer",
            sites=DINO_BLOCK,
            attention="attention",
            embed="embeddings",
            final_norm="norm",
        ),
    ),
    logits=None,
    positions="none",
    notes={"embed": _EMBED, "logits": "none: the published model has no head"},
)
