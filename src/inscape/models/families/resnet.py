"""ResNet: stages of residual blocks with a ReLU after the sum."""

from inscape.models.family import Family, Stack

RESNET = Family(
    name="resnet",
    model_types=("resnet",),
    stacks=(
        Stack(
            blocks="resnet.encoder.stages",
            inner="layers",
            sites={"out": ""},
            adds="other",
            embed="resnet.embedder",
        ),
    ),
    logits="classifier",
    positions="none",
    notes={
        "final_norm": "none: the head reads the mean over the last block's image",
        "stages.*.blocks.*.out": "after the ReLU that follows the sum",
    },
)
