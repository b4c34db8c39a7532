"""Edits of more than one vector, as training finds them: a gated vector, a low-rank map beside the stream."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import Edit, make_edit
from inscape.core.errors import ShapeError


def low_rank_add(
    site: str,
    reads: Float[Tensor, "d rank"],
    writes: Float[Tensor, "d_out rank_out"],
    *,
    strength: float = 1.0,
    source: str = "",
    **places: Any,
) -> Edit:
    """`x + strength * (x @ reads) @ writes.T`: what is added depends on the state, in `rank` ways.

    Tensors that require grad are learned. Cost: 2 d rank multiplications a token. Raises: ShapeError.
    """
    if reads.ndim != 2 or reads.shape != writes.shape:
        raise ShapeError(
            f"low_rank_add: reads {tuple(reads.shape)} and writes {tuple(writes.shape)} are both [d, rank]."
        )

    def fn(x: Tensor) -> Tensor:
        _fits(x, reads, "low_rank_add")
        wide = _wide(x)
        return x + (strength * ((wide @ reads.to(wide)) @ writes.to(wide).T)).to(x.dtype)

    spec = {"kind": "low_rank_add", "strength": float(strength), "source": source}
    tensors = {"reads": reads, "writes": writes}
    return make_edit(site, fn, f"+ {source or 'a low-rank map'}", spec=spec, tensors=tensors, **places)


def gated_add(
    site: str,
    vector: Float[Tensor, " d"],
    inward: Float[Tensor, "d_in hidden"],
    bias: Float[Tensor, " n_bias"],
    outward: Float[Tensor, " n_out"],
    offset: Float[Tensor, ""],
    *,
    strength: float = 1.0,
    source: str = "",
    **places: Any,
) -> Edit:
    """`x + strength * g(x) * vector`, with a gate between 0 and 1 a token that a small net reads from the state.

    g = sigmoid(gelu(x/rms(x) @ inward + bias) @ outward + offset). Tensors that require grad are learned.
    Cost: d hidden multiplications a token. Raises: ShapeError.
    """
    hidden = tuple(bias.shape)
    if vector.ndim != 1 or tuple(inward.shape) != (len(vector), *hidden) or tuple(outward.shape) != hidden:
        raise ShapeError(
            f"gated_add: vector {tuple(vector.shape)}, inward {tuple(inward.shape)}, bias {hidden}, outward "
            f"{tuple(outward.shape)} are [d], [d, hidden], [hidden], [hidden]."
        )

    def fn(x: Tensor) -> Tensor:
        _fits(x, vector, "gated_add")
        wide = _wide(x)
        seen = wide / wide.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)
        inner = torch.nn.functional.gelu(seen @ inward.to(wide) + bias.to(wide))
        gate = torch.sigmoid(inner @ outward.to(wide) + offset.to(wide))
        return x + (strength * gate[..., None] * vector.to(wide)).to(x.dtype)

    spec = {"kind": "gated_add", "strength": float(strength), "source": source}
    tensors = {"vector": vector, "inward": inward, "bias": bias, "outward": outward, "offset": offset}
    return make_edit(site, fn, f"+ gated {source or 'vector'}", spec=spec, tensors=tensors, **places)


def _wide(x: Tensor) -> Tensor:
    """float32 at least: products of massive units overflow float16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _fits(x: Tensor, weight: Tensor, name: str) -> None:
    if x.shape[-1] != len(weight):
        raise ShapeError(f"{name}: it is for {len(weight)} units; the site's last axis has {x.shape[-1]}.")
