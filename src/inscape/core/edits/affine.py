"""One scale and one shift a unit, towards which the activation goes part of the way."""

import warnings
from typing import Any

import torch
from torch import Tensor

from inscape.core.edit import Edit, make_edit
from inscape.core.edits.strength import Constant, Strength, Strengths
from inscape.core.errors import NotFiniteError, ShapeError
from inscape.core.step import Step


def affine(
    site: str, weight: float | Tensor, bias: float | Tensor = 0.0, strength: Strengths = 1.0, **places: Any
) -> Edit:
    """Scale and shift every unit: z := (1 - t) z + t (w z + b), with t the strength.

    weight, bias: a number, or one a unit, (units,); (heads, d_head) at a per-head site, (channels, 1, 1) at one of
    images. What requires grad is learned, the strength too. strength: a number, one a row or a schedule, as in
    `ins.add`. 0 changes nothing, to the bit; 1 is the whole map; beyond [0, 1] the map is extrapolated, with a warning.
    Two maps one after the other are a map again; their order matters. Choose it for maps that were fitted unit by unit
    (means, spreads or whole distributions moved); `ins.add` for a shift alone, `ins.scale` for a scale alone.
    float32 inside where the model is in half precision. Cost: one multiply-add.
    Raises: NotFiniteError for weights that are not finite; ShapeError for as many as the site has not.
    Source: Rodriguez et al. 2025 (LinEAS), arXiv:2503.10679.
    """
    w, b = (v if isinstance(v, Tensor) else torch.tensor(float(v), dtype=torch.float64) for v in (weight, bias))
    for name, v in (("weight", w), ("bias", b)):
        if not v.is_floating_point() or v.ndim > 3 or (v.ndim == 3 and v.shape[1:] != (1, 1)):
            raise ShapeError(
                f"affine({name}=...) is one number a unit, (units,), (heads, d_head) or (channels, 1, 1); "
                f"got {v.dtype} of shape {tuple(v.shape)}."
            )
        if not bool(torch.isfinite(v.detach()).all()):
            raise NotFiniteError(f"affine at {site}: {name} has {int((~torch.isfinite(v)).sum())} values not finite.")
    force = Strength(strength, "affine")
    far = force.values.detach()
    if bool(((far < 0) | (far > 1)).any()):
        warnings.warn(
            f"affine at {site}: a strength of {float(far.flatten()[far.sub(0.5).abs().argmax()]):g} is outside [0, 1]: "
            "the map is carried on past what it was fitted for.",
            stacklevel=2,
        )
    learned = w.requires_grad or b.requires_grad
    t = force.number
    slope = Constant(lambda: w - 1, learned)
    shift = Constant(lambda: b, learned)
    whole = Constant(lambda: 1 + (t or 0.0) * (w.double() - 1), False)
    moved = Constant(lambda: (t or 0.0) * b.double(), False)

    def fn(x: Tensor, step: Step | None = None) -> Tensor:
        if t == 0:
            return x
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        for v in (w, b):
            if not _fits(v, x):
                raise ShapeError(f"affine at {site}: maps of shape {tuple(v.shape)}, an activation {tuple(x.shape)}.")
        where = (x.device, wide.dtype)
        if t is not None and not learned:
            return torch.addcmul(moved.to(*where), wide, whole.to(*where)).to(x.dtype)
        return (wide + force.of(x, step) * (slope.to(*where) * wide + shift.to(*where))).to(x.dtype)

    tensors = {"weight": w, "bias": b, "scale": force.values}
    label = f"{site} scaled and shifted" + ("" if t == 1 else f" ({force.label})")
    return make_edit(
        site, fn, label, contextual=force.needs_step, spec={"kind": "affine", **force.spec}, tensors=tensors, **places
    )


def _fits(v: Tensor, x: Tensor) -> bool:
    """Is there one number for every unit of the activation?"""
    if v.ndim == 3:
        return x.ndim == 4 and x.shape[1] == len(v)
    return not v.ndim or (v.shape[-1] == x.shape[-1] and (v.ndim == 1 or (x.ndim > 3 and len(v) == x.shape[-2])))
