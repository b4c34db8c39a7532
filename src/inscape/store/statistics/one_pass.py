"""Statistics of columns of a store in one sequential read, in bounded memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from inscape.core.errors import InputError, NotFiniteError
from inscape.core.progress import Progress, tell
from inscape.store.column import LazyColumn, Rows
from inscape.store.manifest import Segment
from inscape.store.schema import Column
from inscape.store.statistics.contract import Statistic
from inscape.store.statistics.keys import key
from inscape.store.store import Store

Key = str | tuple[str, str]
Wanted = Mapping[Key, Sequence[Any]]  # of Statistic
S = TypeVar("S", bound=Statistic)


def one_pass(
    store: Store,
    wanted: Wanted,
    *,
    segments: Sequence[Segment] | None = None,
    of: Callable[[Tensor], Tensor] | None = None,
    device: str | torch.device = "cpu",
    batch_bytes: int = 32 << 20,
    progress: Progress = None,
) -> None:
    """Fill statistics from the rows of a store: {column: [statistics]}, {(column, column): [Cross()]}.

    Rows are numbered by their keys (see `keys`), so what is found can be located when more has been recorded. Axes of a
    row are flattened: unit 5 of a column (heads, d_head) is head 5 // d_head.
    segments: of the store, when not all its rows are meant. of: what to make of rows [n, ...] before they are counted
    (a dictionary's encode; nan_to_num where a store keeps what is not finite). device: where the sums are taken; needs
    float64. batch_bytes: of rows read at once, as float64; three such batches are held.
    Cost: each column once, in the order of the files, read by a second thread while the first adds up.
    Raises: NotFiniteError with column, sample and position; InputError for columns that are no activations.
    """
    names = list(dict.fromkeys(name for at in wanted for name in columns_of(at)))
    whole = {name: store[name] for name in names}
    for at, statistics in wanted.items():
        check_wanted(store.about.columns, at, statistics)
    chosen = sorted(store.segments if segments is None else segments, key=lambda s: (s.listed.shard, s.start))
    rows = Rows(chosen)
    columns = {name: _of_rows(column, rows, store) for name, column in whole.items()}
    width = sum(max(8, 8 * c.about.row_bytes // c.stored.itemsize) for c in columns.values())
    step = max(1, min(1 << 16, batch_bytes // max(1, width)))

    def read(start: int) -> dict[str, Tensor]:
        return {name: c[start : start + step] for name, c in columns.items()}

    for start, batch in _ahead(read, range(0, len(rows), step)):
        keys = _keys(rows, start, min(start + step, len(rows)))
        values = {name: _flat(x.to(device), of) for name, x in batch.items()}
        for at, statistics in wanted.items():
            for statistic in statistics:
                try:
                    statistic.update(*(values[name] for name in columns_of(at)), rows=keys)
                except NotFiniteError:
                    raise _located(store, values, columns_of(at), rows, start) from None
        done = min(start + step, len(rows))
        tell(progress, f"statistics of {done:,} of {len(rows):,} rows", done / len(rows))


def columns_of(at: Key) -> tuple[str, ...]:
    """The columns that a statistic of this key takes."""
    return (at,) if isinstance(at, str) else at


def check_wanted(columns: Sequence[Column], at: Key, statistics: Sequence[Statistic]) -> None:
    """Raise InputError unless these statistics can be taken of these columns."""
    there = {c.name: c for c in columns}
    for name in columns_of(at):
        if not there[name].dtype.startswith(("float", "bfloat")):
            raise InputError(
                f"{name!r} holds {there[name].dtype}, no activations: there is no statistic of it.\n"
                f"  columns of activations are {', '.join(c.name for c in columns if c.site)}."
            )
        if f"{name}.units" in there:
            raise InputError(
                f"{name!r} keeps the {there[name].keep} of each row, so its places are not units.\n"
                "  record the whole site, or a projection of it, for statistics of units."
            )
    n = len(columns_of(at))
    wrong = next((s for s in statistics if s.sites != n), None)
    if wrong is not None:
        raise InputError(f"{wrong.kind} takes {wrong.sites} column(s) at once; {at!r} names {n}.")


def _of_rows(column: LazyColumn, rows: Rows, store: Store) -> LazyColumn:
    """The same column, of some of the store's rows."""
    factor = LazyColumn(column.factor.about, rows, store.files) if column.factor is not None else None
    return LazyColumn(column.about, rows, store.files, factor)


def _flat(x: Tensor, of: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Rows as [n, units], widened once for all that will count them."""
    x = of(x) if of is not None else x
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return x.reshape(len(x), -1)


def _keys(rows: Rows, start: int, stop: int) -> Tensor:
    parts = []
    for segment, first, count in rows.pieces(start, stop):
        begin = key(segment.unit, first - segment.start)
        parts.append(torch.arange(begin, begin + count))
    return torch.cat(parts)


def _ahead(read: Callable[[int], dict[str, Tensor]], starts: range) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Batches, the next one read while one is used."""
    with ThreadPoolExecutor(1, "inscape statistics reader") as reader:
        waiting: Future[dict[str, Tensor]] | None = reader.submit(read, starts[0]) if len(starts) else None
        for start in starts:
            assert waiting is not None
            batch = waiting.result()
            waiting = reader.submit(read, start + starts.step) if start + starts.step < starts.stop else None
            yield start, batch


def _located(
    store: Store, values: Mapping[str, Tensor], names: Sequence[str], rows: Rows, start: int
) -> NotFiniteError:
    """Which column, sample and position holds what is not finite."""
    name = next(n for n in names if not bool(torch.isfinite(values[n]).all()))
    wrong = ~torch.isfinite(values[name])
    row, unit = wrong.nonzero()[0].tolist()
    sample, pos = (int(_of_rows(store[c], rows, store)[start + row]) for c in ("sample", "pos"))
    return NotFiniteError(
        f"{name}: unit {unit} is {float(values[name][row, unit])} at sample {sample}, position {pos} "
        f"({int(wrong.any(1).sum())} such rows of the {len(wrong):,} read with it).\n"
        "  a store has such rows where it was recorded with allow_nan=True; one_pass(..., of=torch.nan_to_num) counts "
        "them as numbers."
    )
