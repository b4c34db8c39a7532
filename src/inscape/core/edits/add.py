"""Steer along a direction: add it, in its own length, as a unit, or as a share of each token's length."""

from typing import Any, overload

import torch
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.edit import Edit, make_edit
from inscape.core.edits.strength import Constant, Strength, Strengths
from inscape.core.edits.vectors import checked, laid, lengths, refuse_empty, units_of
from inscape.core.errors import EditError
from inscape.core.step import Step

TINY = torch.finfo(torch.float32).tiny
UNITS = ("vector", "norm", "relative")


@overload
def add(
    direction: Direction, scale: Strengths = ..., *, unit: str = ..., keep_norm: bool = ..., **places: Any
) -> Edit: ...
@overload
def add(
    direction: Directions, scale: Strengths = ..., *, unit: str = ..., keep_norm: bool = ..., **places: Any
) -> list[Edit]: ...
def add(
    direction: Direction | Directions,
    scale: Strengths = 1.0,
    *,
    unit: str = "vector",
    keep_norm: bool = False,
    **places: Any,
) -> Edit | list[Edit]:
    """Add a direction to the activation; `Directions` give one edit a site, a list.

    unit: what `scale` counts. "vector": `x + scale v`, the vector in its own length; "norm": `x + scale v/|v|`, lengths
        at the site; "relative": `x + scale |x| v/|v|`, a share of each token's own length, so that 0.1 means the same
        at every layer and on every model.
    scale: a number; one a row [batch]; `ins.schedule(...)` or [batch, steps], by generated token. What requires grad is
        learned, the vector too.
    keep_norm: turn only: the result is given the length that x had (float32 inside).
    Choose it to push a model along a direction; `norm_preserving_add` for a push that adapts to where a token stands
    already; `project_out` to remove a direction, `clamp` to hold it.
    Places: at=, heads=, units=, rows=. The vector is (d,), or one a row, (batch, d); at a per-head site (d_head,),
    (heads, d_head), each head's length its own, or (batch, heads or 1, d_head).
    Cost: one addition; casts are kept by dtype and device. "relative" and keep_norm: a norm more each.
    Raises: EditError for another unit; ShapeError for a vector that does not fit, or is zero where it is to be a unit.
    """
    if isinstance(direction, Directions):
        return [add(d, scale, unit=unit, keep_norm=keep_norm, **places) for d in direction.values()]
    direction = checked(direction, "add")
    if unit not in UNITS:
        raise EditError(f"add(unit={unit!r}): the units of a strength are {', '.join(UNITS)}.")
    vector, strength = direction.vector, Strength(scale, "add")
    if unit != "vector":
        refuse_empty(vector, f"add(unit={unit!r})", direction.source)
    learned = vector.requires_grad
    ready = Constant(lambda: vector if unit == "vector" else units_of(vector), learned)
    number = strength.number if unit != "relative" and not learned else None
    scaled = Constant(lambda: (number or 0.0) * (vector if unit == "vector" else units_of(vector)), False)
    narrow = unit == "vector" and not keep_norm

    def fn(x: Tensor, step: Step | None = None) -> Tensor:
        if number is not None and not keep_norm:  # the common case, kept short
            return x + laid(scaled.to(x.device, x.dtype), x, step, "add")
        if strength.number == 0:
            return x
        factor = strength.of(x, step)
        if narrow:
            if isinstance(factor, Tensor):
                factor = factor.to(x.dtype)
            return x + factor * laid(ready.to(x.device, x.dtype), x, step, "add")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        length = lengths(wide)
        if unit == "relative":
            factor = factor * length
        y = wide + factor * laid(ready.to(x.device, wide.dtype), x, step, "add")
        if keep_norm:
            y = turned(y, length)
        return y.to(x.dtype)

    spec: dict[str, Any] = {"kind": "add", "source": direction.source, "model": direction.model, **strength.spec}
    if unit != "vector" or keep_norm:
        spec |= {"unit": unit, "keep_norm": keep_norm}
    said = {"vector": "", "norm": " |1|", "relative": " |x|"}[unit]
    label = f"{strength.label}{said} {direction.source or 'direction'}" + (", length kept" if keep_norm else "")
    contextual = strength.needs_step or vector.ndim > 1
    tensors = {"vector": vector, "scale": strength.values}
    return make_edit(direction.site, fn, label, contextual=contextual, spec=spec, tensors=tensors, **places)


def turned(y: Tensor, length: Tensor) -> Tensor:
    """y with these lengths, token by token; where y is zero it stays zero."""
    return y * (length / lengths(y).clamp(min=TINY))
