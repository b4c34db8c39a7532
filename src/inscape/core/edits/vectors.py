"""How the vectors of directions lie on an activation: one for all, one a head, one a row."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.edits.strength import by_row
from inscape.core.errors import EditError, ShapeError
from inscape.core.step import Step


def checked(direction: Any, name: str) -> Direction:
    """The direction; EditError for anything else."""
    if not isinstance(direction, Direction):
        raise EditError(
            f"{name} takes a Direction, got {type(direction).__name__}.\n"
            f"  write ins.{name}(ins.Direction('layers.6.resid_post', vector, source='...'))."
        )
    return direction


def checked_all(directions: Any, name: str) -> list[Direction]:
    """One or several directions of one site, with vectors of one shape."""
    if isinstance(directions, Direction):
        return [directions]
    if not isinstance(directions, (list, tuple)) or not directions:
        return [checked(directions if not isinstance(directions, (list, tuple)) else None, name)]
    several = [checked(d, name) for d in directions]
    sites = list(dict.fromkeys(d.site for d in several))
    shapes = list(dict.fromkeys(tuple(d.vector.shape) for d in several))
    if len(sites) > 1 or len(shapes) > 1:
        raise EditError(
            f"{name} takes directions of one site and shape together; "
            f"got {', '.join(sites)} with {', '.join(map(str, shapes))}.\n  make one edit a site."
        )
    return several


def refuse_empty(vector: Tensor, name: str, source: str) -> None:
    """A vector that is zero or not finite points nowhere; one a row or head may be zero, all may not."""
    length = float(vector.detach().double().norm())
    if not 0 < length < float("inf"):
        raise ShapeError(f"{name}: the direction {source or ''} has length {length}: it points nowhere.")


def lengths(x: Float[Tensor, "*lead d"]) -> Float[Tensor, "*lead 1"]:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # a third of what Tensor.norm takes on one token


def along(x: Float[Tensor, "*lead d"], unit: Tensor) -> Float[Tensor, "*lead 1"]:
    """The projection of each token on a unit vector that broadcasts to it."""
    return (x @ unit).unsqueeze(-1) if unit.ndim == 1 else (x * unit).sum(-1, keepdim=True)


def units_of(vector: Float[Tensor, "*lead d"]) -> Float[Tensor, "*lead d"]:
    """Each vector with length one, in float32 or wider; a zero vector stays zero."""
    wide = vector.to(torch.promote_types(vector.dtype, torch.float32))
    length = lengths(wide)
    return torch.where(length > 0, wide / length.clamp(min=torch.finfo(wide.dtype).tiny), torch.zeros_like(wide))


def laid(vector: Tensor, x: Tensor, step: Step | None, name: str) -> Tensor:
    """A vector so that it broadcasts to x.

    (d,) is for all; at a site with heads (heads, d) is one a head and (batch, heads or 1, d) one a row; elsewhere
    (batch, d) is one a row.
    """
    if vector.ndim == 1 and vector.shape[0] == x.shape[-1]:
        return vector
    heads = x.ndim > 3
    if vector.ndim > 2 + heads or vector.shape[-1] != x.shape[-1] or vector.ndim > x.ndim:
        shapes = "(d,), (heads, d) or (batch, heads, d)" if heads else "(d,) or (batch, d)"
        raise ShapeError(
            f"{name}: the vector has shape {tuple(vector.shape)}, the site's last axis has {x.shape[-1]} entries.\n"
            f"  here a vector is {shapes}."
        )
    if heads and vector.shape[-2] not in (1, x.shape[-2]):
        raise ShapeError(
            f"{name}: the vector has shape {tuple(vector.shape)}, the site has {x.shape[-2]} heads of {x.shape[-1]}.\n"
            "  one vector a row is (batch, 1, d) here."
        )
    if heads and vector.ndim == 2:
        return vector
    return by_row(vector, x, step or Step.plain(x.shape[0], 1), f"{name}: vectors")
