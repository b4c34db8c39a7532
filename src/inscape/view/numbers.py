"""Values on their way into a figure: tensors, arrays and lists become plain floats, and what is not finite a gap."""

import math
from collections.abc import Iterable
from typing import Any

from inscape.core.errors import ShapeError


def plain(values: Any) -> Any:
    """The values as Python lists; tensors and arrays give theirs by `tolist`."""
    if hasattr(values, "detach"):
        values = values.detach()
    if hasattr(values, "tolist"):
        return values.tolist()
    return [plain(value) if isinstance(value, (list, tuple)) or hasattr(value, "tolist") else value for value in values]


def number(value: Any) -> float | None:
    """One number; NaN and infinity are None, which every figure draws as a gap and never as zero."""
    if value is None:
        return None
    value = float(value)
    return value if math.isfinite(value) else None


def row(values: Iterable[Any], what: str, length: int | None = None) -> list[float | None]:
    """A list of numbers from one axis of values.

    Raises: ShapeError when the values have more than one axis or not the length asked for.
    """
    listed = plain(values)
    if not isinstance(listed, list) or any(isinstance(value, list) for value in listed):
        raise ShapeError(
            f"{what} must have one axis, and has another number of them.\n  reduce it first, e.g. .mean(0)."
        )
    if length is not None and len(listed) != length:
        raise ShapeError(f"{what} has {len(listed)} values where {length} are drawn.\n  give one value for each.")
    return [number(value) for value in listed]


def grid(
    values: Iterable[Any], what: str, n_rows: int | None = None, n_columns: int | None = None
) -> list[list[float | None]]:
    """Rows of numbers from two axes of values.

    Raises: ShapeError when the rows differ in length, or their number or length is not the one asked for.
    """
    listed = plain(values)
    if not isinstance(listed, list) or any(not isinstance(line, list) for line in listed):
        raise ShapeError(f"{what} must have two axes, rows and columns.\n  select or reduce the others first.")
    if n_rows is not None and len(listed) != n_rows:
        raise ShapeError(f"{what} has {len(listed)} rows where {n_rows} are drawn.\n  give one row for each.")
    width = n_columns if n_columns is not None else (len(listed[0]) if listed else 0)
    return [row(line, f"row {index} of {what}", width) for index, line in enumerate(listed)]
