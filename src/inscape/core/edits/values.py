"""Edits on values: multiply, replace, or any function."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inscape.core.edit import Edit, make_edit
from inscape.core.errors import EditError, ShapeError
from inscape.core.step import Step


def scale(site: str, factor: float | int | Tensor, **places: Any) -> Edit:
    """Multiply the activation by `factor`: a number, or a tensor that broadcasts over the site's last axes."""
    tensors = {"factor": factor if isinstance(factor, Tensor) else torch.tensor(float(factor), dtype=torch.float64)}

    def fn(x: Tensor) -> Tensor:
        return x * (factor.to(x) if isinstance(factor, Tensor) else factor)

    label = f"{site} x {factor:g}" if not isinstance(factor, Tensor) else f"{site} scaled"
    return make_edit(site, fn, label, spec={"kind": "scale"}, tensors=tensors, **places)


def replace(site: str, value: float | int | Tensor, **places: Any) -> Edit:
    """Set the activation to `value`: a number, a vector, or a tensor with the axes of the site.

    A tensor with a `pos` axis stands for the columns of the prompt; later columns of a generation pass unchanged.
    """
    tensors = {"value": value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)}

    def fn(x: Tensor, step: Step) -> Tensor:
        return columns_of(tensors["value"], x, step, site).clone()  # some models go on writing into what they get

    return make_edit(
        site, fn, f"{site} := {_short(value)}", contextual=True, spec={"kind": "replace"}, tensors=tensors, **places
    )


def edit(site: str, fn: Callable[[Tensor], Tensor], label: str = "", **places: Any) -> Edit:
    """Apply any function of the activation; return a tensor of the same shape. Cannot be written to a file."""
    if not callable(fn):
        raise EditError(f"ins.edit(site, fn) takes a function of the activation, got {type(fn).__name__}.")
    return make_edit(site, fn, label or f"{getattr(fn, '__name__', 'function')} at {site}", **places)


def columns_of(value: Tensor, x: Tensor, step: Step, site: str) -> Tensor:
    """`value` as it applies to the columns of this call, in the shape of `x`."""
    value = value.to(x)
    if value.ndim < x.ndim:
        try:
            return value.expand(x.shape)
        except RuntimeError:
            raise _misfit(value, x, site) from None
    if value.shape[0] not in (1, x.shape[0]):
        if x.shape[0] != value.shape[0] * step.n_repeats:
            raise _misfit(value, x, site)
        value = value.repeat_interleave(step.n_repeats, 0)
    if (value.ndim >= 3 and value.shape[1] not in (1, x.shape[1])) or (step.start > 0 and value.shape[1] > 1):
        if value.shape[1] < step.prompt and step.start == 0:
            raise _misfit(value, x, site)
        here = value[:, step.start : step.stop]
        if here.shape[1] == 0:
            return x
        if here.shape[1] < x.shape[1]:
            here = torch.cat([here.expand(x.shape[0], *here.shape[1:]), x[:, here.shape[1] :]], 1)
        value = here
    try:
        return value.expand(x.shape)
    except RuntimeError:
        raise _misfit(value, x, site) from None


def _misfit(value: Tensor, x: Tensor, site: str) -> ShapeError:
    return ShapeError(f"replace at {site}: the value has shape {tuple(value.shape)}, the activation {tuple(x.shape)}.")


def _short(value: float | int | Tensor) -> str:
    return f"tensor{tuple(value.shape)}" if isinstance(value, Tensor) else f"{value:g}"
