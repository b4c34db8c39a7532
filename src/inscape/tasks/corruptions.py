"""Images made worse and labels made wrong, to try whether a classifier stands it.

The first digit, a 0, with "noise" of severity 0.5: the same shape under Gaussian noise of standard deviation 0.5 in the
scale of the pixels ([-1, 1]). Everything is drawn from a seed; severity 0 changes nothing.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, pad

from inscape.core.errors import InputError
from inscape.tasks.digits import Images

KINDS = ("noise", "blur", "contrast", "occlusion", "shift", "salt")


def corrupted(images: Images, kind: str, severity: float = 0.5, *, seed: int = 0) -> Images:
    """The same images, corrupted; labels as they are.

    kind: "noise", Gaussian of this standard deviation; "blur", a mix with the mean of 3 x 3 pixels; "contrast", pixels
    drawn to their image's mean; "occlusion", a square of this share of the side set to -1; "shift", moved sideways
    by this share of a quarter of the side; "salt", this share of half the pixels set to -1 or 1.
    severity: 0 to 1. Raises: InputError for another kind or severity.
    """
    if kind not in KINDS:
        raise InputError(f"kind={kind!r} is no corruption; there are {', '.join(KINDS)}.")
    if not 0 <= severity <= 1:
        raise InputError(f"severity={severity}: from 0, nothing, to 1.")
    g = torch.Generator().manual_seed(seed)
    return replace(images, pixels=_changed(images.pixels, kind, severity, g))


def _changed(x: Float[Tensor, "n c h w"], kind: str, severity: float, g: torch.Generator) -> Float[Tensor, "n c h w"]:
    n, channels, height, width = x.shape
    if kind == "noise":
        return x + severity * torch.randn(x.shape, generator=g)
    if kind == "blur":
        kernel = torch.full((channels, 1, 3, 3), 1 / 9)
        return (1 - severity) * x + severity * conv2d(pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)
    if kind == "contrast":
        return x + severity * (x.mean((1, 2, 3), keepdim=True) - x)
    if kind == "salt":
        hit = torch.rand(x.shape, generator=g) < severity / 2
        return torch.where(hit, torch.randint(0, 2, x.shape, generator=g).to(x) * 2 - 1, x)
    if kind == "shift":
        by = round(severity * width / 4)
        side = torch.randint(0, 2, (n,), generator=g)
        wide = pad(x, (by, by, 0, 0), value=-1.0)
        return torch.where(side[:, None, None, None] == 1, wide[..., :width], wide[..., 2 * by : 2 * by + width])
    size = round(severity * min(height, width))
    top, left = (torch.randint(0, s - size + 1, (n, 1, 1), generator=g) for s in (height, width))
    row, column = torch.arange(height)[:, None], torch.arange(width)[None]
    hidden = (row >= top) & (row < top + size) & (column >= left) & (column < left + size)
    return torch.where(hidden[:, None], -1.0, x)


def wrong_labels(images: Images, share: float, *, seed: int = 0) -> Images:
    """The same images, this share of them (rounded) with a label that is another class, drawn evenly.

    `chance` stays that of the true labels. Raises: InputError for a share outside 0 to 1, or one class only.
    """
    n_classes = int(images.labels.max()) + 1
    if not 0 <= share <= 1 or n_classes < 2:
        raise InputError(
            f"wrong_labels(share={share}) of {n_classes} classes: a share from 0 to 1, two classes or more."
        )
    g = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=g)[: round(share * len(images))]
    labels = images.labels.clone()
    labels[chosen] = (labels[chosen] + torch.randint(1, n_classes, (len(chosen),), generator=g)) % n_classes
    return replace(images, labels=labels)
