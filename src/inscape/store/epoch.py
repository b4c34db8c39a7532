"""One pass over shuffled rows: a thread reads pools ahead, and batches are gathered from them."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from inscape.store.ahead import ahead
from inscape.store.column import LazyColumn
from inscape.store.files import read_into

if TYPE_CHECKING:
    from inscape.store.batches import Batches

Batch = dict[str, Tensor]
Memory = dict[str, np.ndarray]
PAGE = 4096


class Pool(NamedTuple):
    """Rows as they lie on disk, [rows, row bytes] a column, and which of them to give, in which order."""

    rows: dict[str, np.ndarray]
    order: np.ndarray


@dataclass(eq=False)
class Epoch:
    """What is left of an epoch of `of` after `skip` rows, up to row `limit` of this rank's share."""

    of: "Batches"
    skip: int
    limit: int
    stopped: bool = False
    stored: dict[str, LazyColumn] = field(default_factory=dict)  # what is read: the columns and their factors

    def __post_init__(self) -> None:
        for column in self.of.columns:
            self.stored[column.name] = column
            if column.factor is not None:
                self.stored[column.factor.name] = column.factor

    def batches(self) -> Generator[Batch, None, None]:
        """The batches; close it to stop the threads."""
        n = self.of.ahead if self.of.ahead is not None else int(self.of.pin)
        made = ahead(self._gathered(), n, "inscape store batches") if n else self._gathered()
        with closing(made):
            try:
                for batch in made:  # noqa: UP028 - `yield from` would wait for the threads before they are told
                    yield batch
            finally:
                self.stopped = True

    def _gathered(self) -> Generator[Batch, None, None]:
        """Rows of pool after pool in the pool's order, cut into batches: every row is copied once here.

        numpy's take along an axis leaves the interpreter's lock, and one core does more with it than with torch's
        index_select, whose second thread would only compete with the one that reads.
        """
        left, at, batch, raw = self.limit - self.skip, 0, {}, {}
        with closing(ahead(self._pools(), 1, "inscape store reader")) as pools:
            for pool in pools:
                done = 0
                while done < len(pool.order):
                    if not at:
                        batch = {name: c.empty(min(self.of.n, left), self.of.pin) for name, c in self.stored.items()}
                        raw = {name: c.bytes_of(batch[name]) for name, c in self.stored.items()}
                    rows = pool.order[done : done + self.of.n - at]
                    for name, source in pool.rows.items():
                        np.take(source, rows, axis=0, out=raw[name][at : at + len(rows)], mode="clip")
                    done, at, left = done + len(rows), at + len(rows), left - len(rows)
                    if at == self.of.n or not left:
                        yield self._scaled(batch)
                        at, batch, raw = 0, {}, {}

    def _scaled(self, batch: Batch) -> Batch:
        given = {}
        for c in self.of.columns:
            value = c.scaled(batch[c.name], batch[c.factor.name] if c.factor is not None else None)
            given[c.name] = value.pin_memory() if self.of.pin else value  # scaling made a new one; others are pinned
        return given

    def _pools(self) -> Generator[Pool, None, None]:
        """Pools read into two memories in turn: the one before is gathered from meanwhile."""
        memories = self.of.spare.pop() if self.of.spare else ({}, {})
        try:
            yield from self._filled(memories)
        finally:
            self.of.spare.append(memories)

    def _filled(self, memories: tuple[Memory, Memory]) -> Generator[Pool, None, None]:
        blocks, each = self.of.blocks(), max(1, self.of.pool_rows // self.of.block)
        total, given = len(self.of.rows), 0
        for number, start in enumerate(range(0, len(blocks), each)):
            mine = blocks[start : start + each]
            sizes = np.minimum(self.of.block, total - mine * self.of.block)
            rows = int(sizes.sum())
            first, last = max(0, self.skip - given), min(rows, self.limit - given)
            given += rows
            if last <= 0 or self.stopped:
                return
            if first >= rows:
                continue
            memory = memories[number % 2]
            for name, column in self.stored.items():
                if name not in memory or len(memory[name]) < rows:
                    memory[name] = aligned(rows * column.about.row_bytes).reshape(rows, column.about.row_bytes)
            self._read(mine, sizes, memory)
            order = self.of.order(number, rows)[first:last]
            yield Pool({name: kept[:rows] for name, kept in memory.items()}, order)

    def _read(self, blocks: np.ndarray, sizes: np.ndarray, memory: dict[str, np.ndarray]) -> None:
        """Whole blocks from disk, one behind the other, of every column."""
        into = {name: (column.about, memory[name].reshape(-1).data) for name, column in self.stored.items()}
        at = 0
        for start, size in zip((blocks * self.of.block).tolist(), sizes.tolist(), strict=True):
            if self.stopped:
                return
            for segment, row, count in self.of.rows.pieces(start, start + size):
                shard = self.of.files.get(segment.listed)
                for about, out in into.values():
                    width = about.row_bytes
                    read_into(shard, about, row, out[at * width : (at + count) * width])
                at += count


def aligned(size: int) -> np.ndarray:
    """Memory that begins with a page: the system copies a fifth faster into it than to where numpy's own begins."""
    raw = np.empty(size + PAGE, np.uint8)
    start = -raw.ctypes.data % PAGE
    return raw[start : start + size]
