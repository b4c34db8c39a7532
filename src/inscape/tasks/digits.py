"""Handwritten digits, 8 x 8 grey pixels, ten classes: 1,797 images that come with scikit-learn.

One example, the first image, a 0 (pixels in sixteenths):

    0  0  5 13  9  1  0  0
    0  0 13 15 10 15  5  0
    0  3 15  2  0 11  8  0
    0  4 12  0  0  8  8  0
    0  5  8  0  0  9  8  0
    0  4 11  0  1 12  7  0
    0  2 14  5 10 12  0  0
    0  0  6 13 10  0  0  0

Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits (UCI), its test part; 43 writers.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.extra import package

SPLITS = ("train", "test", "all")
HELD_OUT = 360  # of 1,797


@dataclass(frozen=True, eq=False)
class Images:
    """Images with their classes. chance: how often the most common class is right."""

    pixels: Float[Tensor, "n channel height width"]
    labels: Int[Tensor, " n"]
    chance: float

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, which: slice | Tensor) -> "Images":
        """The images at these indices (or where a mask is true), in this order."""
        labels = self.labels[which]
        if not len(labels):
            raise InputError(f"no image is left of {len(self)}: one at least has to be taken.")
        return Images(self.pixels[which], labels, chance_of(labels))


def digits(split: str = "test", n: int | None = None, *, seed: int = 0) -> Images:
    """The digits as [n, 1, 8, 8] in [-1, 1].

    split: "train" (1,437), "test" (360) or "all"; which image is held out is the same in every call, drawn once at
    random, so that writers are in both. n: that many of the split, drawn by seed; all of them when left out.
    Raises: MissingExtraError without scikit-learn, InputError for another split or more images than there are.
    """
    if split not in SPLITS:
        raise InputError(f"split={split!r}: it can be {', '.join(SPLITS)}.")
    package("sklearn", "sklearn", "the digits")
    from sklearn.datasets import load_digits

    given = load_digits()
    pixels = torch.from_numpy(given.images).float()[:, None] / 8 - 1
    labels = torch.from_numpy(given.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    parts = {"train": order[HELD_OUT:], "test": order[:HELD_OUT], "all": torch.arange(len(labels))}
    where = parts[split]
    if n is not None:
        if not 0 < n <= len(where):
            raise InputError(f"n={n}: the split {split!r} has {len(where)} images.")
        where = where[torch.randperm(len(where), generator=torch.Generator().manual_seed(seed))[:n]]
    return Images(pixels[where], labels[where], chance_of(labels[where]))


def chance_of(labels: Tensor) -> float:
    """The share of the most common class."""
    return float(labels.bincount().max()) / len(labels)
