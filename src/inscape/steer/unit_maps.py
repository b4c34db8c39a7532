"""Closed-form maps, one scale and one shift a unit, from the values of two samples: what trained maps stand beside."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.logistic.design import Design
from inscape.core.logistic.minimise import Columns, minimise
from inscape.core.transport import matched

TINY_STD = 1e-4  # a unit that varies less in the source has no scale that could be told
UnitMap = tuple[Float[Tensor, " d"], Float[Tensor, " d"]]


def mean_map(z: Float[Tensor, "n d"], v: Float[Tensor, "m d"]) -> UnitMap:
    """The shift of the mean: w = 1, b = mean v - mean z."""
    return torch.ones_like(z[0]), v.mean(0) - z.mean(0)


def gaussian_map(z: Float[Tensor, "n d"], v: Float[Tensor, "m d"]) -> UnitMap:
    """Mean and spread as in the target: w = std v / std z, optimal between normal distributions."""
    spread = z.std(0)
    w = torch.where(spread > TINY_STD, v.std(0) / spread.clamp(min=TINY_STD), 1.0)
    return w, v.mean(0) - w * z.mean(0)


def linear_map(z: Float[Tensor, "n d"], v: Float[Tensor, "m d"]) -> UnitMap:
    """Least squares of the sorted target on the sorted source (Lin-AcT): the best map of its kind for these samples."""
    a, b, share = matched(z, v)
    share = share[:, None]
    mean_a, mean_b = (share * a).sum(0), (share * b).sum(0)
    variance = (share * (a - mean_a).square()).sum(0)
    together = (share * (a - mean_a) * (b - mean_b)).sum(0)
    w = torch.where(variance.sqrt() > TINY_STD, together / variance.clamp(min=TINY_STD**2), 1.0)
    return w, mean_b - w * mean_a


def probe_map(z: Float[Tensor, "n d"], v: Float[Tensor, "m d"]) -> UnitMap:
    """A shift along one direction: the logistic probe's of target against source, as far as their means lie apart on it
    (in the way of inference-time intervention)."""
    x = torch.cat([v, z]).double()
    labels = torch.cat([torch.ones(len(v)), torch.zeros(len(z))]).long()
    everyone = torch.ones(1, len(x), dtype=torch.bool)
    design = Design({"x": x}, everyone)
    made = minimise(design, Columns(labels[:, None], everyone, (0,), 2), C=1.0, tol=1e-5, max_rounds=500)
    along = design.folded(0, made.weight[0, 0])[0][0].to(z)
    along = along / along.norm()
    return torch.ones_like(z[0]), along * ((v.mean(0) - z.mean(0)) @ along)


MAPS: dict[str, Callable[..., UnitMap]] = {
    "mean": mean_map, "gaussian": gaussian_map, "linear": linear_map, "probe": probe_map,
}  # fmt: skip
