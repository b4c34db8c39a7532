"""What to keep of an activation on the way, so that a long run does not hold what it will throw away."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.positions import check_at, select
from inscape.core.step import Step

WORDS = ("last", "mean", "norm", "first")


def reducer(how: Any) -> Callable[[Tensor, Step], Tensor] | None:
    """A function (activation, step) -> kept value.

    "last" / "first": the value at each row's last / first real token, [batch, ...]. "mean": over real tokens.
    "norm": length along the last axis, [batch, pos]. An int, slice or list: those real positions, [batch, n, ...];
    rows must have equally many. A function: of the activation.
    """
    if how is None:
        return None
    if how in ("last", "first"):
        at = -1 if how == "last" else 0
        return lambda x, step: _picked(x, step, at)[:, 0]
    if how == "mean":
        return _mean
    if how == "norm":
        return lambda x, step: x.norm(dim=-1)
    if callable(how):
        function: Any = how
        return lambda x, step: function(x)
    if isinstance(how, str):
        raise InputError(
            f"reduce={how!r} is unknown; it can be {', '.join(WORDS)}, positions, or a function of the activation."
        )
    at = check_at(how)
    return lambda x, step: _picked(x, step, at)


def _picked(x: Tensor, step: Step, at: Any) -> Tensor:
    chosen = select(at, step)
    if chosen is None:
        return x
    counts = chosen.sum(1)
    if int(counts.min()) != int(counts.max()) or int(counts.max()) == 0:
        raise InputError(
            f"reduce={at!r} picks {counts.tolist()} positions in the rows; "
            "every row must have equally many, at least one."
        )
    return x[chosen.to(x.device)].unflatten(0, (x.shape[0], int(counts[0])))


def _mean(x: Tensor, step: Step) -> Tensor:
    real = (step.real[:, step.start :] >= 0).to(x.device)
    if x.ndim < 3 or real.shape != x.shape[:2]:
        return x.mean(1)
    weight = real.to(x.dtype).reshape(*real.shape, *[1] * (x.ndim - 2))
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)
