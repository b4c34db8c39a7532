"""Random directions that a direction can be compared with."""

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError


def random_directions(
    like: Float[Tensor, "*axes"],
    n: int = 1,
    *,
    data: Float[Tensor, "rows ..."] | None = None,
    within: str | None = None,
    seed: int = 0,
) -> Float[Tensor, "n *axes"]:
    """n random vectors of the same length, shape, type and device as one direction.

    "sphere": any direction is as likely as any other. Activations fill few directions, and most of these change
    nothing: "span" draws evenly from the directions in which `data` vary at all, "covariance" as the data vary
    (`z @ (x - mean)`, the stricter control and the default with data).

    like: the direction, (d_model,) or (heads, d_head). data: activations at its site, one a row.
    Cost: n x d, and with data n x rows x d; "span" one singular value decomposition of the data.
    Raises: ShapeError when data have other axes; InputError for a direction without length or data that do not vary.
    """
    within = within or ("sphere" if data is None else "covariance")
    length = float(like.detach().double().norm())
    if not 0 < length < float("inf"):
        raise InputError(f"the direction has length {length}: nothing random can be as long.")
    generator = torch.Generator().manual_seed(seed)
    if within == "sphere":
        drawn = torch.randn(n, like.numel(), generator=generator, dtype=torch.float64)
    elif within not in ("span", "covariance"):
        raise InputError(f"within={within!r} is none of 'sphere', 'span' and 'covariance'.")
    else:
        varied = _varied(like, data, within)
        if within == "span":
            _, s, vh = torch.linalg.svd(varied, full_matrices=False)
            varied = vh[s > s[0] * max(varied.shape) * torch.finfo(data.dtype if data is not None else s.dtype).eps]
        drawn = torch.randn(n, len(varied), generator=generator, dtype=torch.float64) @ varied
    drawn = drawn * (length / drawn.norm(dim=1, keepdim=True))
    return drawn.reshape(n, *like.shape).to(like.device, like.dtype)


def _varied(like: Tensor, data: Tensor | None, within: str) -> Float[Tensor, "rows d"]:
    """The data without their mean, flat."""
    if data is None:
        raise InputError(f"within={within!r} needs data: activations at the direction's site, one a row.")
    if data.shape[1:] != like.shape:
        raise ShapeError(
            f"the data have shape {tuple(data.shape)} for a direction of shape {tuple(like.shape)}.\n"
            f"  give rows of activations: select or flatten the other axes first."
        )
    rows = data.detach().cpu().double().reshape(len(data), -1)
    rows = rows - rows.mean(0)
    if len(rows) < 2 or float(rows.norm()) == 0.0:
        raise InputError("the data do not vary, so they name no direction.\n  give two different rows or more.")
    return rows
