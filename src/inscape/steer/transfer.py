"""A direction in another model, or at another site, through a map between their states."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.errors import InputError, ShapeError, SiteError
from inscape.models.model import Model


def transfer(
    direction: Direction,
    through: Any,
    *,
    site: str,
    model: Model | str = "",
    around: Float[Tensor, "n d"] | None = None,
    keep_length: bool = False,
    source: str = "",
) -> Direction:
    """Carry a direction over by a map f of states: `f(x + v) - f(x)`, the change there that v is here.

    An affine map's offset falls out, and the result is the same for every x. A map that is none needs `around`: states
    here at which the change is taken, and averaged. How good it is depends on the map alone: compare with a direction
    fitted there, and with one carried over by a map learned from shuffled rows.

    through: a matrix [d_there, d_here], a readout with `transform` (`RidgeProbe` fitted on rows of both sites), a
    module or a function of rows [n, d_here]. site, model: where the result lives. keep_length: of v as it is here; else
    what the map makes of it, which is the dose that means the same there.
    Cost: two rows through the map (2 n with `around`).
    Raises: ShapeError for a map of another width, InputError for one that is not affine without `around`, or that maps
    the direction to nothing; SiteError for a site that the model has not.
    """
    if isinstance(model, Model) and site not in model.sites:
        raise model.sites.unknown(site)
    if not site:
        raise SiteError("site= says where the direction is to live after the map.")
    v = direction.vector.detach().double().cpu()
    if v.ndim != 1:
        raise ShapeError(f"the direction has shape {tuple(v.shape)}: one vector (d_model,) is carried over at a time.")
    f = _function(through, len(v))
    x = around.detach().double().cpu() if around is not None else torch.zeros(1, len(v), dtype=torch.float64)
    if x.ndim != 2 or x.shape[1] != len(v):
        raise ShapeError(f"around has shape {tuple(x.shape)}; the direction has {len(v)} units.")
    made = f(x + v) - f(x)
    if around is None:
        twice = f(x + 2 * v) - f(x)
        if float((twice - 2 * made).norm()) > 1e-3 * float(twice.norm()):
            raise InputError(
                "this map is not affine: twice the direction does not come out as twice the vector.\n"
                "  say at which states it is to be taken: around=rows of activations at the direction's site."
            )
    vector = made.mean(0)
    if not float(vector.norm()) > 1e-9 * float(v.norm()):
        raise InputError("the map takes this direction to nothing: what it points along is not carried over.")
    if keep_length:
        vector = vector * (v.norm() / vector.norm())
    about = source or f"{direction.source or 'direction'}, carried over from {direction.site}"
    whose = model if isinstance(model, str) else model.fingerprint
    return Direction(site, vector.to(direction.vector.dtype), about, whose)


def _function(through: Any, d: int) -> Callable[[Tensor], Tensor]:
    """The map as a function of float64 rows on the CPU."""
    if isinstance(through, Tensor):
        if through.ndim != 2 or through.shape[1] != d:
            raise ShapeError(
                f"the map has shape {tuple(through.shape)}: [d_there, d_here] is needed, and d_here is {d} here."
            )
        weight = through.detach().double().cpu()
        return lambda x: x @ weight.T
    if not callable(through) and not hasattr(through, "transform"):
        raise InputError(
            f"a {type(through).__name__} is no map: give a matrix [d_there, d_here], a readout with transform, or a "
            "function of rows."
        )
    call: Any = getattr(through, "transform", through)
    first = next(iter(through.parameters()), None) if isinstance(through, torch.nn.Module) else None
    like = first if first is not None else torch.zeros(0, dtype=torch.float64)

    def mapped(x: Tensor) -> Tensor:
        with torch.no_grad():
            out = call(x.to(like))
        if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(x):
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ShapeError(f"the map gave {shape} for {len(x)} rows: rows [n, d_there] are needed.")
        return out.double().cpu()

    return mapped
