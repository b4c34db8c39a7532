"""The sites that are compared: rows by name from a store, a trace or tensors, all of the same items, read together."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inscape.core.errors import InputError, NotFiniteError, ShapeError, SiteError
from inscape.core.readout import Rows, real_rows, units_of
from inscape.core.trace import Trace
from inscape.store.ahead import ahead
from inscape.store.store import Store

Source = Store | Trace | Mapping[str, Rows] | Sequence[Rows] | Tensor
BATCH_BYTES = 64 << 20  # of all columns together, in the type they are compared in; two are held


def columns_of(source: Any, sites: str | Sequence[str] | None = None) -> dict[str, Rows]:
    """Rows by name. source: a store (its sites), a trace (its real tokens), {name: rows}, several rows, or one tensor
    of equal layers [layer, n, d]. sites: names or patterns to take, all of them when left out.

    Raises: SiteError when no name fits; InputError for what holds no rows; as `units_of`.
    """
    if isinstance(source, Store):
        found: dict[str, Rows] = {name: source[name] for name in source.sites}
    elif isinstance(source, Trace):
        found = {name: _of_trace(source, name) for name in source}
    elif isinstance(source, Mapping):
        found = {str(name): rows for name, rows in source.items()}
    elif isinstance(source, Sequence) or (isinstance(source, Tensor) and source.ndim == 3):
        found = {str(i): source[i] for i in range(len(source))}
    else:
        raise InputError(
            f"{type(source).__name__} holds no sites to compare.\n"
            "  give a store, a trace, {name: rows}, a list of rows, or a tensor [layer, n, d]."
        )
    if sites is not None:
        wanted = [sites] if isinstance(sites, str) else list(sites)
        chosen = [name for name in found if any(fnmatchcase(name, str(w)) for w in wanted)]
        unmet = next((w for w in wanted if not any(fnmatchcase(name, str(w)) for name in found)), None)
        if unmet is not None:
            raise SiteError(f"none of the {len(found)} sites is {unmet!r}: there are {', '.join(found)[:300]}.")
        found = {name: found[name] for name in chosen}
    if not found:
        raise InputError("there is no site to compare.")
    for name, rows in found.items():
        units_of(rows, name)
    return found


def same_rows(*groups: Mapping[str, Rows], at_least: int = 4) -> int:
    """The number of rows that all columns have.

    Raises: ShapeError when they differ (item i of one must be item i of all), InputError for too few.
    """
    lengths = {name: len(rows) for group in groups for name, rows in group.items()}
    n = next(iter(lengths.values()))
    other = next((name for name, m in lengths.items() if m != n), None)
    if other is not None:
        raise ShapeError(
            f"a comparison takes the same items in one order everywhere: {next(iter(lengths))!r} has {n:,} rows and "
            f"{other!r} {lengths[other]:,}."
        )
    if n < at_least:
        raise InputError(f"{n} rows say nothing about similarity: at least {at_least} are needed.")
    return n


def together(
    columns: Mapping[str, Rows],
    *,
    dtype: torch.dtype = torch.float32,
    device: Any = None,
    batch_bytes: int = BATCH_BYTES,
) -> Iterator[tuple[slice, list[Tensor]]]:
    """The same stretch of rows of all columns at a time, flat, checked to be finite; the next is read meanwhile."""
    widths = [units_of(rows, name) for name, rows in columns.items()]
    n, item = len(next(iter(columns.values()))), torch.empty((), dtype=dtype).element_size()
    step = max(16, batch_bytes // (item * sum(widths)))
    step = -(-n // max(1, -(-n // step)))  # even pieces

    def read() -> Any:
        for start in range(0, n, step):
            rows = slice(start, min(start + step, n))
            yield rows, [taken(x[rows], name, rows.start, dtype, device) for name, x in columns.items()]

    if all(isinstance(x, Tensor) for x in columns.values()):
        yield from read()
        return
    pieces = ahead(read(), 1, "inscape similarity reader")
    try:
        yield from pieces
    finally:
        pieces.close()


def taken(part: Any, name: str, first: int, dtype: torch.dtype, device: Any) -> Tensor:
    """A stretch of rows [m, d]. Raises: NotFiniteError with the row and the unit."""
    x = part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))
    x = x.detach().reshape(len(x), -1)
    if not bool(torch.isfinite(x.sum(dtype=torch.float64))) and not bool(torch.isfinite(x).all()):
        row, unit = (~torch.isfinite(x)).nonzero()[0].tolist()
        raise NotFiniteError(
            f"{name}: unit {unit} of row {first + row:,} is {float(x[row, unit])}: leave such rows out."
        )
    return x.to(device=device if device is not None else x.device, dtype=dtype)


def _of_trace(trace: Trace, name: str) -> Tensor:
    value = trace[name]
    if trace.mask is None or trace.mask.shape != value.shape[:2] or value.ndim < 3:
        return value.reshape(-1, value.shape[-1]) if value.ndim > 2 else value
    return real_rows(value, trace.mask)[0]


def held_rows(x: Rows, name: str, budget_bytes: int) -> Tensor:
    """All rows of one column, float64, where they are. Raises InputError when they do not fit."""
    size = 8 * len(x) * units_of(x, name)
    if size > budget_bytes:
        raise InputError(
            f"{name}: {len(x):,} rows take {size / 2**30:,.1f} GiB, above the budget of {budget_bytes / 2**30:,.1f}.\n"
            "  take some of the rows (core.readout.picked): a measure that is not CKA holds them."
        )
    return torch.cat([parts[0] for _, parts in together({name: x}, dtype=torch.float64)])
