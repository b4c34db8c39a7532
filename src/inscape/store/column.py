"""One column of a store: lazy, indexed like a tensor, read by whole stretches of rows."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inscape.core.errors import ShapeError
from inscape.store.files import Files, read_into
from inscape.store.manifest import Segment
from inscape.store.schema import Column

STRETCH = 64  # rows nearer than this to one another are read in one go when rows are picked from a cold file


class Rows:
    """Where the rows of a store lie: segments in order, found by row number."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = list(segments)
        self.starts = np.zeros(len(self.segments) + 1, np.int64)
        np.cumsum([s.rows for s in self.segments], out=self.starts[1:])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def pieces(self, start: int, stop: int) -> Iterator[tuple[Segment, int, int]]:
        """(segment, first row in the shard, count) that make up rows [start, stop)."""
        i = int(np.searchsorted(self.starts, start, "right")) - 1
        while start < stop:
            segment = self.segments[i]
            inside = start - int(self.starts[i])
            count = min(stop - start, segment.rows - inside)
            if count:
                yield segment, segment.start + inside, count
            start, i = start + count, i + 1


class LazyColumn:
    """A column of a store. `column[10:20]`, `column[[3, 1, 2]]`, `column[mask]`, `column[5]` give tensors.

    A slice reads consecutive bytes; picked rows come from memory maps in file order and are put in the order asked
    for. Values keep their stored type (scaled ones come as float32).
    Cost: the bytes asked for, and a page fault a row where rows are far apart and not cached: for training use
    `store.batches`.
    Raises: IndexError, ShapeError for an index that is none.
    """

    def __init__(
        self, column: Column, rows: Rows, files: Files, factor: "LazyColumn | None" = None, model: str = ""
    ) -> None:
        self.about, self._rows, self._files, self.factor = column, rows, files, factor
        self.model = model  # fingerprint: what is learned from these rows is for this model

    @property
    def name(self) -> str:
        return self.about.name

    @property
    def site(self) -> str:
        """The site the rows are of; "" for sample, pos and token."""
        return self.about.site

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._rows), *self.about.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The type of what is read: the stored one, float32 where rows are scaled."""
        return torch.float32 if self.factor is not None else self.stored

    @property
    def stored(self) -> torch.dtype:
        return getattr(torch, self.about.dtype)

    def scaled(self, values: Tensor, factors: Tensor | None) -> Tensor:
        """Rows as they were computed: times their factor, where they have one."""
        if factors is None:
            return values
        return values.float() * factors.reshape(-1, *[1] * (values.ndim - 1))

    def mapped(self, segment: Segment) -> np.ndarray:
        """A column of one number a row, as a memory map of one segment: only what is looked at is read."""
        rows = self._files.get(segment.listed).view(self.about)[segment.start : segment.stop]
        return rows.reshape(-1).view(self.about.dtype)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Tensor:
        if isinstance(index, tuple):
            rows, is_one = self[index[0]], isinstance(index[0], (int, np.integer))
            return rows[index[1:]] if is_one else rows[(slice(None), *index[1:])]
        if isinstance(index, (int, np.integer)):
            at = int(index) + (len(self) if index < 0 else 0)
            if not 0 <= at < len(self):
                raise IndexError(f"row {index} of {len(self):,}")
            return self._stretch(at, at + 1)[0]
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self._stretch(start, max(start, stop)) if step == 1 else self._picked(np.arange(start, stop, step))
        return self._picked(self._numbers(index))

    def __iter__(self) -> Iterator[Tensor]:
        """Rows, some thousand read at a time."""
        for start in range(0, len(self), 4096):
            yield from self[start : start + 4096]

    def __repr__(self) -> str:
        return f"{self.name} {list(self.shape)} {self.about.dtype}"

    def _numbers(self, index: Any) -> np.ndarray:
        found = index.cpu().numpy() if isinstance(index, Tensor) else np.asarray(index)
        if found.dtype == bool:
            if found.shape != (len(self),):
                raise ShapeError(f"a mask over rows has the shape ({len(self):,},); got {found.shape}.")
            return np.flatnonzero(found)
        if found.size == 0:
            return np.zeros(0, np.int64)
        if found.ndim != 1 or found.dtype.kind not in "iu":
            raise ShapeError(
                f"rows are picked by numbers or by a mask over rows; got {found.dtype} of shape {found.shape}."
            )
        found = found.astype(np.int64)
        found = np.where(found < 0, found + len(self), found)
        if int(found.min()) < 0 or int(found.max()) >= len(self):
            raise IndexError(f"rows from {int(found.min()):,} to {int(found.max()):,} of {len(self):,}")
        return found

    def empty(self, rows: int, pin: bool = False) -> Tensor:
        """A tensor to fill with rows as they are stored."""
        return torch.empty((rows, *self.about.shape), dtype=self.stored, pin_memory=pin)

    def bytes_of(self, values: Tensor) -> np.ndarray:
        """The memory of rows as they are stored, as [rows, row_bytes]."""
        return values.reshape(-1).view(torch.uint8).numpy().reshape(len(values), self.about.row_bytes)

    def _empty(self, rows: int) -> tuple[Tensor, np.ndarray]:
        out = self.empty(rows)
        return out, self.bytes_of(out)

    def _stretch(self, start: int, stop: int) -> Tensor:
        out, raw = self._empty(stop - start)
        done = 0
        for segment, first, count in self._rows.pieces(start, stop):
            read_into(self._files.get(segment.listed), self.about, first, raw[done : done + count].data.cast("B"))
            done += count
        return self.scaled(out, self.factor[start:stop] if self.factor is not None else None)

    def _picked(self, rows: np.ndarray) -> Tensor:
        out, raw = self._empty(len(rows))
        if not len(rows):
            return out.to(self.dtype)
        order = np.argsort(rows, kind="stable")
        owner = np.searchsorted(self._rows.starts, rows[order], "right") - 1
        cuts = np.flatnonzero(np.diff(owner)) + 1
        for group in np.split(order, cuts):
            i = int(np.searchsorted(self._rows.starts, rows[group[0]], "right")) - 1
            segment = self._rows.segments[i]
            view = self._files.get(segment.listed).view(self.about)
            raw[group] = view[rows[group] - int(self._rows.starts[i]) + segment.start]
        return self.scaled(out, self.factor[rows] if self.factor is not None else None)
