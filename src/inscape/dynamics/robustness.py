"""What a way of training stands: wrong labels, corrupted inputs, and whether its probabilities still mean something."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.calibration import ece
from inscape.tasks.corruptions import corrupted, wrong_labels
from inscape.tasks.digits import Images

Classifier = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n classes"]]


@dataclass(frozen=True)
class Stood:
    """Accuracy and expected calibration error (15 bins) of one classifier on one set of images."""

    accuracy: float
    ece: float


def robustness(
    train: Callable[[Images], Classifier],
    training: Images,
    held_out: Images,
    *,
    label_noise: Sequence[float] = (0.0, 0.4),
    corruptions: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, Stood]:
    """Train on labels of which a share is wrong, test on right ones, clean and corrupted.

    train: takes images with (partly wrong) labels and gives a function pixels -> logits, in eval mode; two ways of
    training are compared by two calls with the same seed, which meet the same wrong labels and the same corruptions.
    label_noise: shares of wrong labels, one training each. corruptions: kind -> severity, see `tasks.corruptions`.
    Returns: "noise 0.4" and "noise 0.4, blur" -> what it stood. Cost: one training a share.
    """
    kinds = {"noise": 0.5, "blur": 1.0, "occlusion": 0.4} if corruptions is None else corruptions
    found = {}
    for share in label_noise:
        classify = train(wrong_labels(training, share, seed=seed))
        found[f"noise {share:g}"] = stood(classify, held_out)
        for kind, severity in kinds.items():
            found[f"noise {share:g}, {kind}"] = stood(classify, corrupted(held_out, kind, severity, seed=seed))
    return found


def stood(classify: Classifier, images: Images) -> Stood:
    """Accuracy and calibration error of a classifier on images."""
    with torch.no_grad():
        logits = classify(images.pixels).float().cpu()
    right = (logits.argmax(-1) == images.labels).double().mean()
    return Stood(float(right), ece(logits.softmax(-1), images.labels).error)
