"""EfficientNet-Lite as the package efficientnet-lite-pytorch builds it: one flat list of inverted-residual blocks."""

from inscape.models.family import Family, Stack

EFFICIENTNET_LITE = Family(
    name="efficientnet_lite",
    model_types=(),
    classes=("efficientnet_lite_pytorch.model.EfficientNet",),
    stacks=(
        Stack(
            blocks="_blocks",
            sites={"out": ""},
            adds="other",
            # The stem ends in an activation module that the head uses again; what block 0 receives is met once.
            embed="_blocks.0:in",
        ),
    ),
    logits="_fc",
    positions="none",
    notes={
        "layers.*.out": "the blocks of all stages lie in one list, so they are counted through",
        "final_norm": "none: the head reads the mean over the image after one more convolution",
    },
)
