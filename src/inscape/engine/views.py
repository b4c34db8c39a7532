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
            found = (
                preferred
                if preferred is not None
                else (tensors[index - len(out)] if index - len(out) < len(tensors) else None)
            )
    elif isinstance(out, (tuple, list)):
        found = out[index] if index < len(out) else None
    elif hasattr(out, "to_tuple"):
        found = out.to_tuple()[index]
    elif isinstance(out, dict):
        found = list(out.values())[index]
    else:
        found = out
    if not isinstance(found, Tensor):
        raise ShapeError(
            f"{point.name}: {point.path} holds {type(found).__name__}, not a tensor, in this forward pass."
        )
    return found


def view(point: Point, x: Tensor, step: Step) -> Tensor:
    """`x` as the site's axes: the wanted part, scaled, tokens unflattened, heads split off."""
    if point.part is not None or point.span is not None:
        x = x[..., _bounds(point, x.shape[-1])]
    if x.ndim == 2 and len(point.axes) >= 3 and x.shape[0] == step.batch * (step.stop - step.start):
        x = x.unflatten(0, (step.batch, step.stop - step.start))
    elif x.ndim == 2 and len(point.axes) >= 3:  # all images' patches in one row
        x = x[None]
    if point.heads is not None and x.ndim == 3:
        x = x.unflatten(-1, (point.heads, x.shape[-1] // point.heads))
    if point.scale is not None:
        x = x * point.scale
    for what, number in point.rules:
        if what == "softcap":
            x = torch.tanh(x / number) * number
        else:
            x = x * number if what == "times" else x / number
    return x


def _bounds(point: Point, size: int) -> slice:
    if point.part is not None:
        width = size // point.part[1]
        return slice(point.part[0] * width, (point.part[0] + 1) * width)
    return slice(*(point.span or (None, None)))


def unview(point: Point, new: Tensor, x: Tensor) -> Tensor:
    """`new`, in the site's axes, back in the shape and place of `x`."""
    for what, number in reversed(point.rules):  # the model applies them again, so they are undone here
        if what == "softcap":
            new = torch.atanh((new / number).clamp(-1 + 1e-7, 1 - 1e-7)) * number
        else:
            new = new / number if what == "times" else new * number
    if point.scale is not None:
        new = new / point.scale
    if point.part is None and point.span is None:
        return new.reshape(x.shape)
    bounds = _bounds(point, x.shape[-1])
    start, stop, _ = bounds.indices(x.shape[-1])
    return torch.cat([x[..., :start], new.reshape(x[..., bounds].shape), x[..., stop:]], -1)
