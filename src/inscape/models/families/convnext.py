"""ConvNeXt: stages of depthwise-convolution blocks; each block adds one branch to its input."""

from inscape.models.family import Family, Stack

CONVNEXT = Family(
    name="convnext",
    model_types=("convnext",),
    stacks=(
        Stack(
            blocks="convnext.encoder.stages",
            inner="layers",
            sites={"out": ""},
            adds="other",
            embed="convnext.embeddings",
            final_norm="convnext.layernorm",
        ),
    ),
    logits="classifier",
    positions="none",
    notes={"final_norm": "of the mean over the image: one row an image"},
)
