"""Shuffled batches from disk: permuted blocks, read in whole stretches into a bounded pool, mixed there.

How an epoch goes:
1. The rows are cut into blocks of `block` consecutive rows; a seeded permutation of all blocks is dealt to the ranks.
2. A rank reads the next `pool_rows` rows' worth of its blocks by pread, in a thread, while the pool before is used.
3. Each row goes from the block, still in the cache, straight to its place in the pool's own permutation; batches are
   then consecutive stretches of the pool, not copied again.
Everything follows from (seed, epoch, rank, world), so the number of rows given out is the whole state.
"""

import queue
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inscape.core.errors import InputError
from inscape.store.column import LazyColumn, Rows
from inscape.store.files import Files, read_into

State = dict[str, int]
Pool = dict[str, Tensor]


@dataclass(eq=False)
class Batches:
    """Batches of some columns of a store, as `{column: [n, ...]}`; iterating gives what is left of the epoch.

    n: rows a batch. columns: their names. shuffle: False gives the rows in order. seed, epoch: together the order.
    pool_rows: rows that are mixed at once. block: rows read in one stretch: smaller mixes better
    and seeks more. rank, world: this process's share; every rank gets equally many batches. last: also give the batch
    that is not full. pin: into page-locked memory, for copies to a GPU.
    Mixing: within a pool every order is equally likely; two rows of one block always meet in one pool.
    A batch is part of the pool it was mixed in, and holds it as long as it is held: clone the few that you keep.
    Cost: a row is read and put in its place by a thread of its own; memory 3 * pool_rows rows.
    Raises: InputError for numbers that make no batches.
    """

    rows: Rows
    files: Files
    columns: Sequence[LazyColumn]
    n: int
    shuffle: bool = True
    seed: int = 0
    pool_rows: int = 65_536
    block: int = 1024
    rank: int = 0
    world: int = 1
    last: bool = False
    pin: bool = False
    epoch: int = 0
    done: int = field(default=0, init=False)  # rows of this epoch already given out by this rank
    memory: "_Recycled" = field(default_factory=lambda: _Recycled(), init=False, repr=False)

    def __post_init__(self) -> None:
        if self.n < 1 or self.block < 1 or self.pool_rows < 1:
            raise InputError(f"n={self.n}, block={self.block}, pool_rows={self.pool_rows}: each must be at least 1.")
        if not 0 <= self.rank < self.world:
            raise InputError(f"rank {self.rank} of {self.world}: ranks count from 0.")

    def __len__(self) -> int:
        """Batches an epoch."""
        rows = self._share()
        return -(-rows // self.n) if self.last else rows // self.n

    def state_dict(self) -> State:
        """Where this stands; with the same store and arguments, `load_state_dict` goes on with the very next batch."""
        return {
            "seed": self.seed, "epoch": self.epoch, "done": self.done, "n": self.n, "block": self.block,
            "pool_rows": self.pool_rows, "rank": self.rank, "world": self.world, "shuffle": int(self.shuffle),
            "rows": len(self.rows),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state` was taken. Raises InputError when it belongs to another store or other arguments."""
        mine = self.state_dict()
        other = [k for k in mine if k not in ("seed", "epoch", "done") and state.get(k) != mine[k]]
        if other:
            said = ", ".join(f"{k} {state.get(k)} there, {mine[k]} here" for k in other)
            raise InputError(f"this state is of other batches: {said}.\n  make them with the same arguments.")
        self.seed, self.epoch, self.done = state["seed"], state["epoch"], state["done"]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        limit = self._share() if self.last else len(self) * self.n
        left: Pool | None = None  # the beginning of a batch that two pools share
        with _Reader(self, limit) as reader:
            for pool, rows in reader:
                at = 0
                if left is not None:
                    at = min(self.n - _length(left), rows)
                    left = {k: torch.cat([left[k], pool[k][:at]]) for k in left}
                    if _length(left) == self.n:
                        yield self._given(left)
                        left = None
                while at + self.n <= rows:
                    yield self._given(_cut(pool, at, at + self.n))
                    at += self.n
                if at < rows:
                    left = _cut(pool, at, rows)
                del pool
                reader.used()
            if left is not None:
                yield self._given(left)
        self.epoch, self.done = self.epoch + 1, 0

    def _given(self, batch: Pool) -> Pool:
        self.done += _length(batch)
        return batch

    # -- which rows, in which order ------------------------------------------------------------------------------

    def blocks(self) -> np.ndarray:
        """This rank's blocks of this epoch, in order: numbers of blocks of consecutive rows."""
        count = -(-len(self.rows) // self.block)
        order = np.random.default_rng((self.seed, self.epoch)).permutation(count) if self.shuffle else np.arange(count)
        return order[self.rank :: self.world]

    def _share(self) -> int:
        """Rows that every rank has at least."""
        if self.world == 1:
            return len(self.rows)
        blocks = -(-len(self.rows) // self.block)
        short = blocks * self.block - len(self.rows)  # the one block that is not full may be anybody's
        return max(0, blocks // self.world * self.block - short)

    def places(self, pool: int, rows: int) -> np.ndarray:
        """Where in its pool each row goes, in the order in which they are read."""
        if not self.shuffle:
            return np.arange(rows)
        return np.random.default_rng((self.seed, self.epoch, self.rank, pool, 1)).permutation(rows)


class _Reader:
    """Reads pools ahead in a thread of its own: one is filled while another is used, and there are no more."""

    def __init__(self, batches: Batches, limit: int) -> None:
        self.of, self.limit, self.skip = batches, limit, batches.done
        self.ready: queue.Queue[Any] = queue.Queue()
        self.room = threading.Semaphore(2)
        self.thread = threading.Thread(target=self._run, name="inscape store reader", daemon=True)

    def __enter__(self) -> "_Reader":
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopped = True
        self.room.release()
        self.thread.join()

    stopped = False

    def __iter__(self) -> Iterator[tuple[Pool, int]]:
        """(pool, rows in it), in order, until the limit."""
        while (item := self.ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def used(self) -> None:
        """The last pool given has no further use: another may be read."""
        self.room.release()

    def _run(self) -> None:
        try:
            blocks, each = self.of.blocks(), max(1, self.of.pool_rows // self.of.block)
            total, given = len(self.of.rows), 0
            for number, start in enumerate(range(0, len(blocks), each)):
                mine = blocks[start : start + each]
                sizes = np.minimum(self.of.block, total - mine * self.of.block)
                rows = int(sizes.sum())
                first, last = max(0, self.skip - given), min(rows, self.limit - given)
                given += rows
                if last <= 0:
                    break
                if first >= rows:
                    continue
                self.room.acquire()
                if self.stopped:
                    return
                places = self.of.places(number, rows)
                pool = {c.name: self._filled(c, mine, sizes, places)[first:last] for c in self.of.columns}
                if self.of.pin:
                    pool = {name: values.pin_memory() for name, values in pool.items()}
                self.ready.put((pool, last - first))
                del pool
            self.ready.put(None)
        except BaseException as error:
            self.ready.put(error)

    def _filled(self, column: LazyColumn, blocks: np.ndarray, sizes: np.ndarray, places: np.ndarray) -> Tensor:
        """The pool's rows of one column, each at its place."""
        rows, width = len(places), column.about.row_bytes
        pool = self.of.memory(column.name, rows, width)
        self._scatter(column, blocks, sizes, places, pool)
        values = torch.from_numpy(pool.view(np.uint8)).view(column.stored).reshape(rows, *column.about.shape)
        if column.factor is None:
            return values
        return column.scaled(values, self._filled(column.factor, blocks, sizes, places))

    def _scatter(
        self, column: LazyColumn, blocks: np.ndarray, sizes: np.ndarray, places: np.ndarray, pool: np.ndarray
    ) -> None:
        """Blocks from disk into a small buffer, and from there, while it is in the cache, to their places.

        In one thread: numpy keeps the interpreter's lock while it scatters, and two would wait for each other.
        """
        width, at, rows = column.about.row_bytes, 0, self.of.rows
        hot = np.empty(self.of.block, f"V{width}")
        raw = hot.view(np.uint8).data
        starts = blocks * self.of.block
        owners = np.searchsorted(rows.starts, starts, "right") - 1
        whole = starts + sizes <= rows.starts[owners + 1]  # nearly all blocks lie in one segment
        firsts = starts - rows.starts[owners]
        every = (x.tolist() for x in (starts, sizes, owners, whole, firsts))
        for start, size, owner, is_whole, first in zip(*every, strict=True):
            if self.stopped:
                return
            if is_whole:
                segment = rows.segments[owner]
                shard = self.of.files.get(segment.listed)
                read_into(shard, column.about, segment.start + first, raw[: size * width])
            else:
                done = 0
                for segment, row, count in rows.pieces(start, start + size):
                    part = raw[done * width : (done + count) * width]
                    read_into(self.of.files.get(segment.listed), column.about, row, part)
                    done += count
            pool[places[at : at + size]] = hot[:size]
            at += size


class _Recycled:
    """Memory for pools, used again once nothing refers to it: fresh pages cost more than what is done with them."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, int], list[np.ndarray]] = {}

    @staticmethod
    def _idle() -> int:
        """What the interpreter counts for memory that a list alone holds, asked as below: versions differ."""
        made = [np.empty(1, "V1")]
        for memory in made:
            return sys.getrefcount(memory)
        return 0

    def __call__(self, name: str, rows: int, width: int) -> np.ndarray:
        made = self._made.setdefault((name, width), [])
        idle = self._idle()
        for memory in made:
            if sys.getrefcount(memory) <= idle and len(memory) >= rows:
                return memory[:rows]
        made.append(np.empty(rows, f"V{width}"))
        del made[:-4]  # somebody keeps every batch: forget the oldest
        return made[-1][:]


def _cut(pool: Pool, start: int, stop: int) -> Pool:
    return {name: values[start:stop] for name, values in pool.items()}


def _length(batch: Pool) -> int:
    return len(next(iter(batch.values())))
