"""Edits along a direction: add it, remove it, hold the projection on it within bounds."""

from typing import Any

import torch
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.edit import Edit, make_edit
from inscape.core.errors import EditError, ShapeError


def add(direction: Direction, scale: float | int | Tensor = 1.0, **places: Any) -> Edit:
    """Add `scale * direction.vector` to the activation.

    scale: a number, or one number a row [batch]; a tensor that requires grad is learned, and so is the vector.
    Choose it to push a model along a direction; choose `project_out` to remove one, `clamp` to hold it.
    Places: at=, heads=, units=, rows=. At a per-head site the vector is (d_head,) or (heads, d_head).
    """
    direction = _checked(direction, "add")
    vector, cache = direction.vector, {}
    learned = vector.requires_grad or isinstance(scale, Tensor)

    def fn(x: Tensor) -> Tensor:
        _fits(x, vector, "add")
        if learned:
            factor = scale.to(x) if isinstance(scale, Tensor) else scale
            if isinstance(factor, Tensor) and factor.ndim == 1:
                factor = factor.repeat_interleave(x.shape[0] // len(factor)).reshape(-1, *[1] * (x.ndim - 1))
            return x + factor * vector.to(x)
        key = (x.dtype, x.device)
        if key not in cache:
            cache[key] = (scale * vector.detach()).to(x)
        return x + cache[key]

    number = float(scale) if not isinstance(scale, Tensor) or scale.numel() == 1 else None
    label = (
        f"{number:+g} {direction.source or 'direction'}"
        if number is not None
        else f"+ {direction.source or 'direction'}"
    )
    spec = {"kind": "add", "source": direction.source, "model": direction.model}
    tensors = {
        "vector": vector,
        "scale": scale if isinstance(scale, Tensor) else torch.tensor(float(scale), dtype=torch.float64),
    }
    return make_edit(direction.site, fn, label, spec=spec, tensors=tensors, **places)


def project_out(direction: Direction, **places: Any) -> Edit:
    """Remove what lies along a direction: x - (x . u) u with u of length one; twice is the same as once."""
    direction = _checked(direction, "project_out")
    vector = direction.vector
    if not vector.requires_grad:
        _ = direction.unit  # refuses a vector of length zero now, not in the middle of a run

    def fn(x: Tensor) -> Tensor:
        _fits(x, vector, "project_out")
        unit = (vector / vector.norm(dim=-1, keepdim=True)).to(x)
        return x - (x * unit).sum(-1, keepdim=True) * unit

    spec = {"kind": "project_out", "source": direction.source, "model": direction.model}
    return make_edit(
        direction.site,
        fn,
        f"without {direction.source or 'direction'}",
        spec=spec,
        tensors={"vector": vector},
        **places,
    )


def clamp(
    target: Direction | str, low: float | int | None = None, high: float | int | None = None, **places: Any
) -> Edit:
    """Hold values within [low, high]: at a site every entry (see units=), for a direction the projection x . u.

    clamp(d, 5, 5) sets the projection to exactly 5; clamp("layers.3.mlp.act", high=0) keeps neurons off.
    """
    if low is None and high is None:
        raise EditError("clamp needs low=, high= or both; give the same number twice to set the value.")
    if low is not None and high is not None and low > high:
        raise EditError(f"clamp: low={low} is above high={high}.")
    spec = {"kind": "clamp", "low": low, "high": high}
    if not isinstance(target, Direction):
        return make_edit(str(target), lambda x: x.clamp(low, high), f"{target} in [{low}, {high}]", spec=spec, **places)
    vector = _checked(target, "clamp").vector

    def fn(x: Tensor) -> Tensor:
        _fits(x, vector, "clamp")
        unit = (vector / vector.norm(dim=-1, keepdim=True)).to(x)
        along = (x * unit).sum(-1, keepdim=True)
        return x + (along.clamp(low, high) - along) * unit

    spec |= {"source": target.source, "model": target.model}
    return make_edit(
        target.site,
        fn,
        f"{target.source or 'direction'} in [{low}, {high}]",
        spec=spec,
        tensors={"vector": vector},
        **places,
    )


def _checked(direction: Direction, name: str) -> Direction:
    if not isinstance(direction, Direction):
        raise EditError(
            f"{name} takes a Direction, got {type(direction).__name__}.\n"
            f"  write ins.{name}(ins.Direction('layers.6.resid_post', vector, source='...'))."
        )
    return direction


def _fits(x: Tensor, vector: Tensor, name: str) -> None:
    if vector.shape[-1] != x.shape[-1] or vector.ndim > 2:
        raise ShapeError(
            f"{name}: the vector has shape {tuple(vector.shape)}, the site's last axis has {x.shape[-1]} entries."
        )
