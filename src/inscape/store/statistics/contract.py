"""What every statistic of rows promises, and what each checks of the rows and of the files it is given.

A statistic is filled by `update(x, rows)` in any cuts and any order, filled ones of the same settings are joined by
`merge`, and `state`/`from_state` carry one through a file. Results are properties that end in `_`.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.errors import FileError, InputError, NotFiniteError, ShapeError

Rows = int | Int[Tensor, " n"] | None
State = tuple[dict[str, Tensor], dict[str, int]]


@runtime_checkable
class Statistic(Protocol):
    """A mergeable summary of rows.

    n: rows seen. sites: columns it takes at once, 1 or 2. kind: its name with the settings that decide the numbers
    ("top-16"): two of one kind may be merged. update(x, rows): `x` [n, d] of any float type, or (x, y, rows) for two
    columns; rows: their numbers, or the first one's, counted on when left out. merge: `other` stays as it is.
    fresh: an empty one of the same settings. state: copies; from_state goes on in the tensors it is given.
    """

    n: int
    sites: ClassVar[int]

    @property
    def kind(self) -> str: ...
    @property
    def update(self) -> Callable[..., Any]: ...
    def fresh(self) -> Any: ...
    def merge(self, other: Any) -> Any: ...
    def state(self) -> State: ...
    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], about: Mapping[str, int]) -> Any: ...


def taken(x: Tensor, seen: Tensor | None, name: str) -> Tensor:
    """Rows ready to be counted: float32 or float64, on the device of what was seen (a tensor [d, ...], or nothing yet).

    Raises: ShapeError, InputError for integers, NotFiniteError with the row and the unit.
    """
    if x.ndim != 2:
        raise ShapeError(f"{name} takes rows [n, d]; got the shape {tuple(x.shape)}.\n  flatten further axes of a row.")
    if not x.is_floating_point():
        raise InputError(f"{name} takes rows of floats; got {x.dtype}, which counts or numbers something.")
    if seen is not None and x.shape[1] != seen.shape[0]:
        raise ShapeError(f"{name} has seen rows of {seen.shape[0]:,} units; these have {x.shape[1]:,}.")
    x = x.detach()
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()
    if seen is not None:
        x = x.to(seen.device)
    if not bool(torch.isfinite(x.sum())) and not bool(torch.isfinite(x).all()):  # a sum may pass the type, rows not
        row, unit = (~torch.isfinite(x)).nonzero()[0].tolist()
        raise NotFiniteError(f"{name}: unit {unit} of row {row} of these {len(x):,} is {float(x[row, unit])}.")
    return x


def numbered(rows: Rows, n: int, seen: int, device: torch.device) -> Tensor:
    """The numbers of n rows. Raises ShapeError when there are not n of them."""
    if rows is None or isinstance(rows, int):
        first = seen if rows is None else rows
        return torch.arange(first, first + n, device=device)
    if tuple(rows.shape) != (n,) or rows.dtype != torch.int64:
        raise ShapeError(f"{n:,} rows need {n:,} numbers (int64); got {rows.dtype} of shape {tuple(rows.shape)}.")
    return rows.to(device)


def same_kind(mine: Statistic, other: Statistic) -> None:
    """Raise InputError unless two statistics may be merged."""
    if type(mine) is not type(other) or mine.kind != other.kind:
        raise InputError(f"{mine.kind} cannot be merged with {other.kind}: fill both with the same settings.")


def same_units(mine: Tensor, other: Tensor, name: str) -> None:
    """Raise ShapeError when two statistics saw rows of unlike length."""
    if mine.shape[0] != other.shape[0]:
        raise ShapeError(f"{name} of {mine.shape[0]:,} units cannot be merged with one of {other.shape[0]:,}.")


def need(n: int, at_least: int, what: str) -> None:
    """Raise InputError when too few rows were seen for a result."""
    if n < at_least:
        raise InputError(f"{what} takes at least {at_least} row{'s'[: at_least > 1]}; {n} were seen.")


def expect(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[torch.dtype, tuple[int | None, ...]]], name: str
) -> None:
    """Raise FileError unless a state holds these tensors; None stands for any length."""
    if tensors.keys() != shapes.keys():
        raise FileError(f"no state of {name}: it holds {sorted(tensors)}, not {sorted(shapes)}.")
    for key, (dtype, shape) in shapes.items():
        x = tensors[key]
        fits = len(x.shape) == len(shape) and all(b in (None, a) for a, b in zip(x.shape, shape, strict=True))
        if x.dtype != dtype or not fits:
            raise FileError(f"no state of {name}: {key} is {x.dtype} of shape {tuple(x.shape)}.")


def expect_count(about: Mapping[str, int], key: str, name: str, at_least: int = 0) -> int:
    """A whole number of a state. Raises FileError."""
    value = about.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise FileError(f"no state of {name}: {key} is {value!r}, not a count of at least {at_least}.")
    return value
