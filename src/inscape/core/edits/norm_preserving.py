"""Turn tokens towards directions without making them longer or shorter."""

import functools
from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.edit import Edit, make_edit
from inscape.core.edits.add import turned
from inscape.core.edits.strength import Constant, Strength, Strengths
from inscape.core.edits.vectors import along, checked_all, laid, lengths, refuse_empty, units_of
from inscape.core.step import Step


@overload
def norm_preserving_add(
    direction: Direction | Sequence[Direction], strength: Strengths = ..., *, adaptive: bool = ..., **places: Any
) -> Edit: ...
@overload
def norm_preserving_add(
    direction: Directions, strength: Strengths = ..., *, adaptive: bool = ..., **places: Any
) -> list[Edit]: ...
def norm_preserving_add(
    direction: Direction | Sequence[Direction] | Directions,
    strength: Strengths = 0.1,
    *,
    adaptive: bool = True,
    **places: Any,
) -> Edit | list[Edit]:
    """Turn each token towards a direction and give it back its length.

    With u = v/|v|: `y = x/|x| + strength c u`, `x := |x| y/|y|`. adaptive: `c = 1 + max(0, cos(x, -u))`, up to twice
    the push where a token points away from where it is pushed; else c = 1. A negative strength pushes along -u, and is
    adaptive towards there; 0 changes nothing. Several directions of one site: the mean of their pushes; `Directions`
    give one edit a site, a list.
    strength: a share of the token's length; a number, one a row, or a schedule, as in `ins.add`; it and the vectors may
    be learned. Choose it where lengths carry meaning, such as under attention sinks or massive channels;
    `ins.add(..., unit="relative", keep_norm=True)` is the same with c = 1.
    float32 inside, so that a massive channel of float16 does not overflow. A token of length zero stays zero.
    Source: Li et al. 2025 (VISTA), arXiv:2502.03628 and its code, which add it to the output of every block's MLP.
    """
    if isinstance(direction, Directions):
        return [norm_preserving_add(d, strength, adaptive=adaptive, **places) for d in direction.values()]
    several = checked_all(direction, "norm_preserving_add")
    for d in several:
        refuse_empty(d.vector, "norm_preserving_add", d.source)
    vectors, force = [d.vector for d in several], Strength(strength, "norm_preserving_add")
    ready = [Constant(functools.partial(units_of, v), v.requires_grad) for v in vectors]

    def fn(x: Tensor, step: Step | None = None) -> Tensor:
        if force.number == 0:
            return x
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        length, factor = lengths(wide), force.of(x, step)
        sign = factor.detach().sign() if isinstance(factor, Tensor) else (1.0 if factor >= 0 else -1.0)
        pushes = []
        for unit in ready:
            u = laid(unit.to(x.device, wide.dtype), x, step, "norm_preserving_add")
            opposed = (along(wide, u) * -sign).relu() if adaptive else 0.0
            pushes.append((length + opposed) * u)  # all by |x|, so that a token of length zero needs no division
        y = turned(wide + factor * (pushes[0] if len(pushes) == 1 else sum(pushes) / len(pushes)), length)
        if isinstance(factor, Tensor) and not force.learned:
            y = torch.where(factor == 0, wide, y)  # exactly no change, also where a schedule is at 0
        return y.to(x.dtype)

    source = "; ".join(dict.fromkeys(d.source for d in several if d.source))
    spec = {"kind": "norm_preserving_add", "source": source, "model": several[0].model, "adaptive": adaptive}
    tensors = {"vector": vectors[0], "scale": force.values} | {f"vector{i}": v for i, v in enumerate(vectors[1:], 1)}
    contextual = force.needs_step or vectors[0].ndim > 1
    label = f"turned {force.label} towards {source or 'direction'}"
    return make_edit(
        several[0].site, fn, label, contextual=contextual, spec=spec | force.spec, tensors=tensors, **places
    )
