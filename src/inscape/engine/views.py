"""A site's value in what a module takes or gives: taking it out, seeing it in its own axes, putting it back."""

from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import ShapeError
from inscape.core.step import Step
from inscape.models.points import Point


def take(point: Point, out: Any, kwargs: dict[str, Any] | None = None) -> Tensor:
    """The tensor of `point` in a module's output (or, with kwargs, in its inputs)."""
    index = point.index or 0
    if isinstance(out, Tensor):
        return out
    if kwargs is not None:
        if index < len(out):
            found = out[index]
        else:
            tensors = [v for v in kwargs.values() if isinstance(v, Tensor)]
            preferred = kwargs.get("hidden_states") if index == 0 and not out else None
            found = preferred if preferred is not None else (tensors[index - len(out)] if index - len(out) < len(tensors) else None)
    elif isinstance(out, (tuple, list)):
        found = out[index] if index < len(out) else None
    elif hasattr(out, "to_tuple"):
        found = out.to_tuple()[index]
    elif isinstance(out, dict):
        found = list(out.values())[index]
    else:
        found = out
    if not isinstance(found, Tensor):
        raise ShapeError(f"{point.name}: {point.path} holds {type(found).__name__}, not a tensor, in this forward pass.")
    return found


def view(point: Point, x: Tensor, step: Step) -> Tensor:
    """`x` as the site's axes: the wanted part, scaled, tokens unflattened, heads split off."""
    if point.part is not None:
        x = x.chunk(point.part[1], -1)[point.part[0]]
    if x.ndim == 2 and len(point.axes) >= 3 and x.shape[0] == step.batch * (step.stop - step.start):
        x = x.unflatten(0, (step.batch, step.stop - step.start))
    if point.heads is not None and x.ndim == 3:
        x = x.unflatten(-1, (point.heads, x.shape[-1] // point.heads))
    if point.scale is not None:
        x = x * point.scale
    return x


def unview(point: Point, new: Tensor, x: Tensor) -> Tensor:
    """`new`, in the site's axes, back in the shape and place of `x`."""
    if point.scale is not None:
        new = new / point.scale
    whole = x if point.part is None else x.chunk(point.part[1], -1)[point.part[0]]
    new = new.reshape(whole.shape)
    if point.part is None:
        return new
    parts = list(x.chunk(point.part[1], -1))
    parts[point.part[0]] = new
    return torch.cat(parts, -1)
