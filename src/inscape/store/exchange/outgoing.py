"""Columns on their way out of a store: which ones, in which type, in blocks of bounded size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inscape.core.errors import InputError
from inscape.store.column import LazyColumn
from inscape.store.store import Store

BLOCK_BYTES = 16 << 20
INDEX = ("sample", "pos", "token")


@dataclass(frozen=True, eq=False)
class Outgoing:
    """Columns to export and what to say of them. columns: indices first; row scales are undone, not exported."""

    store: Store
    columns: tuple[LazyColumn, ...]
    notes: tuple[str, ...]

    @property
    def block_rows(self) -> int:
        row = sum(c.about.row_bytes for c in self.columns)
        return max(1, BLOCK_BYTES // max(1, row))

    def blocks(self) -> Iterator[dict[str, Tensor]]:
        """All rows in order, {column: [n, ...]}, some megabytes at a time."""
        for start in range(0, len(self.store), self.block_rows):
            stop = min(start + self.block_rows, len(self.store))
            yield {c.name: c[start:stop] for c in self.columns}


def outgoing(store: Store, columns: Sequence[str] | str | None = None) -> Outgoing:
    """Columns by name, every one that was recorded when left out, always with sample, pos and token.

    Raises: InputError for an empty store, SiteError for a column that is not there.
    """
    if not len(store):
        raise InputError(f"{store.path} holds no rows yet: there is nothing to export.")
    scales = {c.scaled_by for c in store.about.columns if c.scaled_by}
    asked = [columns] if isinstance(columns, str) else columns
    names = [n for n in store if n not in scales and n not in INDEX] if asked is None else [str(n) for n in asked]
    chosen = [store[n] for n in dict.fromkeys([*(i for i in INDEX if i in store), *names])]
    notes = []
    scaled = [c.name for c in chosen if c.factor is not None]
    if scaled:
        notes.append(f"rows were scaled to fit {chosen[-1].stored}; they are written as float32: {', '.join(scaled)}")
    if not store.is_complete:
        of = f" of {store.about.n_units:,}" if store.about.n_units is not None else ""
        notes.append(f"the store is not complete: {len(store.missing):,}{of} units are missing")
    return Outgoing(store, tuple(chosen), tuple(notes))


def widened(columns: Sequence[LazyColumn]) -> tuple[str, ...]:
    """The sentence that says which columns had a type the format does not have."""
    names = [c.name for c in columns if c.dtype == torch.bfloat16]
    return (f"bfloat16 has no type there and is written as float32, exactly: {', '.join(names)}",) if names else ()


def plain(values: Tensor) -> Tensor:
    """bfloat16 as float32, which holds each of its values; anything else as it is."""
    return values.float() if values.dtype == torch.bfloat16 else values
