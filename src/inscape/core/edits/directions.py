"""Edits along directions: remove them, hold the projection on one within bounds."""

from collections.abc import Sequence
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.edit import Edit, make_edit
from inscape.core.edits.strength import Constant
from inscape.core.edits.vectors import along, checked, checked_all, laid, refuse_empty, units_of
from inscape.core.errors import EditError
from inscape.core.step import Step


@overload
def project_out(direction: Direction | Sequence[Direction], **places: Any) -> Edit: ...
@overload
def project_out(direction: Directions, **places: Any) -> list[Edit]: ...
def project_out(direction: Direction | Sequence[Direction] | Directions, **places: Any) -> Edit | list[Edit]:
    """Remove what lies along a direction, or in the span of several: x - Q Q'x; twice is the same as once.

    Q is an orthonormal basis, for one direction v/|v|. Several need not be orthogonal, and one that lies in the span of
    the others changes nothing: which is why they belong in one edit, since two edits in a row would leave some of the
    first. They are of one site, with vectors of one shape: (d,), or one a row or head as in `add`, each with a span of
    its own. Vectors that require grad are learned, and must then be independent. float32 inside.
    `Directions` give one edit a site, a list.
    Raises: ShapeError for directions that point nowhere; EditError for directions of several sites.
    """
    if isinstance(direction, Directions):
        return [project_out(d, **places) for d in direction.values()]
    several = checked_all(direction, "project_out")
    vectors = [d.vector for d in several]
    for d in several:
        if not d.vector.requires_grad:
            refuse_empty(d.vector, "project_out", d.source)
    learned = any(v.requires_grad for v in vectors)
    basis = Constant(lambda: units_of(vectors[0]) if len(vectors) == 1 else spanned(vectors, learned), learned)

    def fn(x: Tensor, step: Step | None = None) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        known = basis.to(x.device, wide.dtype)
        if len(vectors) == 1:
            unit = laid(known, x, step, "project_out")
            return (wide - along(wide, unit) * unit).to(x.dtype)
        if known.ndim == 2:  # one span for all: two products of matrices
            _ = laid(known[0], x, step, "project_out")
            return (wide - wide @ known.T @ known).to(x.dtype)
        units = [laid(unit, x, step, "project_out") for unit in known.unbind(-2)]
        return (wide - sum(along(wide, unit) * unit for unit in units)).to(x.dtype)

    source = "; ".join(dict.fromkeys(d.source for d in several if d.source))
    spec = {"kind": "project_out", "source": source, "model": several[0].model}
    tensors = {"vector": vectors[0]} | {f"vector{i}": v for i, v in enumerate(vectors[1:], 1)}
    label = f"without {source or 'direction'}" if len(several) == 1 else f"without {len(several)} directions ({source})"
    return make_edit(several[0].site, fn, label, contextual=vectors[0].ndim > 1, spec=spec, tensors=tensors, **places)


def spanned(vectors: Sequence[Float[Tensor, "*lead d"]], learned: bool = False) -> Float[Tensor, "*lead k d"]:
    """An orthonormal basis of the span, as rows, in float64; where they depend on one another, rows of zero remain."""
    stacked = torch.stack([v.double() for v in vectors], -2)
    if learned:
        return torch.linalg.qr(stacked.mT).Q.mT
    _, values, rows = torch.linalg.svd(units_of(stacked), full_matrices=False)
    return rows * (values > 1e-9 * values[..., :1])[..., None]


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
    vector = checked(target, "clamp").vector
    if not vector.requires_grad:
        refuse_empty(vector, "clamp", target.source)
    ready = Constant(lambda: units_of(vector), vector.requires_grad)

    def fn(x: Tensor, step: Step | None = None) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        unit = laid(ready.to(x.device, wide.dtype), x, step, "clamp")
        now = along(wide, unit)
        return (wide + (now.clamp(low, high) - now) * unit).to(x.dtype)

    spec |= {"source": target.source, "model": target.model}
    return make_edit(
        target.site,
        fn,
        f"{target.source or 'direction'} in [{low}, {high}]",
        contextual=vector.ndim > 1,
        spec=spec,
        tensors={"vector": vector},
        **places,
    )
