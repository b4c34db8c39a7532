"""Optimal transport on the line: how far the values of every unit must be moved from one sample to become another."""

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError


def matched(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d_y"]
) -> tuple[Float[Tensor, "k d"], Float[Tensor, "k d_y"], Float[Tensor, " k"]]:
    """What optimal transport pairs, unit by unit: values of x, the values of y they go to, the share of each pair.

    The i-th smallest goes to the i-th smallest; where one sample is larger, values of the other are split, exactly.
    Gradients reach both through the sort. Raises: ShapeError for other units, InputError for an empty sample.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ShapeError(f"transport is between [n, d] and [m, d]; got {tuple(x.shape)} and {tuple(y.shape)}.")
    n, m = len(x), len(y)
    if not n or not m:
        raise InputError(f"samples of {n} and {m} values: there is nothing to move.")
    x, y = x.sort(0).values, y.sort(0).values
    if n == m:
        return x, y, torch.full((n,), 1 / n, dtype=x.dtype, device=x.device)
    ends = torch.unique(torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]))  # of the steps, in 1 / (n m)
    start = ends[:-1]
    share = (ends.diff().double() / (n * m)).to(x)
    return x[(start // m).to(x.device)], y[(start // n).to(y.device)], share


def squared_transport(x: Float[Tensor, "n d"], y: Float[Tensor, "m d_y"]) -> Float[Tensor, " d"]:
    """The squared 2-Wasserstein distance of every unit between two samples: `integral (F_x^-1 - F_y^-1)^2`.

    Differentiable; 0 only for equal distributions, and never for finite samples of one distribution: read it beside the
    distance of two halves of a sample. `read.geometry.wasserstein` is the 1-distance with a null, for reading alone.
    Cost: a sort. Raises: ShapeError, InputError.
    """
    a, b, share = matched(x, y)
    return (share[:, None] * (a - b).square()).sum(0)
