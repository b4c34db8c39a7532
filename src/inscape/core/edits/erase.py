"""The edit of an eraser: take away what some reading directions say, along some writing directions."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import Edit, make_edit
from inscape.core.errors import ShapeError


def erase(
    site: str,
    reads: Float[Tensor, "d k"],
    writes: Float[Tensor, "d_out k_out"],
    centre: Float[Tensor, " d_mean"],
    *,
    strength: float = 1.0,
    source: str = "",
    **places: Any,
) -> Edit:
    """`x - strength * ((x - centre) @ reads) @ writes.T`: a projection along k directions that need not be orthogonal.

    `steer.erase.Eraser` finds the matrices; `project_out` is the case of one direction that is read and written alike.
    strength: 1 erases, between 0 and 1 weakens. Computed in float32 at least; an [d, k] product a token.
    Raises: ShapeError for matrices that do not fit one another, or a site of another width.
    """
    if reads.ndim != 2 or reads.shape != writes.shape or centre.shape != reads.shape[:1]:
        raise ShapeError(
            f"erase: reads {tuple(reads.shape)}, writes {tuple(writes.shape)} and centre {tuple(centre.shape)} do not "
            "fit: [d, k], [d, k] and [d]."
        )
    cache: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}

    def fn(x: Tensor) -> Tensor:
        if x.shape[-1] != len(centre):
            raise ShapeError(f"erase: it was fitted on {len(centre)} units; the site's last axis has {x.shape[-1]}.")
        wide = torch.promote_types(x.dtype, torch.float32)
        key = (wide, x.device)
        if key not in cache:
            cache[key] = (reads.to(x.device, wide), writes.to(x.device, wide), centre.to(x.device, wide))
        r, w, c = cache[key]
        return x - (strength * ((x.to(wide) - c) @ r) @ w.T).to(x.dtype)

    tensors = {"reads": reads, "writes": writes, "centre": centre}
    spec = {"kind": "erase", "strength": float(strength), "source": source}
    return make_edit(site, fn, f"without {source or 'what was erased'}", spec=spec, tensors=tensors, **places)
