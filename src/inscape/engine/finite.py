"""No silent NaN: an edit that makes a number NaN or infinite is refused, with its site and the first such place."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import NotFiniteError
from inscape.core.step import Step
from inscape.models.points import Point

if TYPE_CHECKING:
    from inscape.engine.session import Session


def check_finite(session: "Session", edit: Edit, x: Tensor, y: Tensor, step: Step, point: Point) -> None:
    """Refuse an edit that made NaN or infinity; on an accelerator the session looks when the run ends."""
    if not y.is_floating_point():
        return
    if point.inside == "scores":  # masked scores are infinite by right
        total = torch.where(y.detach().isnan().any(), torch.nan, 0.0)
    else:
        total = y.detach().sum(dtype=torch.float32 if y.dtype.itemsize < 4 else None)
    if y.device.type == "cpu":
        if not math.isfinite(float(total)):
            _not_finite(edit, x, y, step, point)
    else:  # looking at the number now would stall the device; it is looked at when the run ends
        session.flags.append((total, edit, step))


def _not_finite(edit: Edit, x: Tensor, y: Tensor, step: Step, point: Point) -> None:
    wrong = y.isnan() if point.inside == "scores" else ~torch.isfinite(y) & torch.isfinite(x)
    if not bool(wrong.any()):
        return  # the sum overflowed, or the values came in like that
    where = wrong.nonzero()[0].tolist()
    spot = ", ".join(f"{axis} {i}" for axis, i in zip(point.axes, where, strict=False))
    raise NotFiniteError(
        f"the edit {edit!r} made {y[tuple(where)].item()} at {point.name} "
        f"({spot}; {int(wrong.sum())} values in all).\n"
        "  lower its strength, or pass allow_nan=True to go on."
    )
