"""Shuffled batches from disk: permuted blocks, read in whole stretches into a bounded pool, mixed there.

How an epoch goes:
1. The rows are cut into blocks of `block` consecutive rows; a seeded permutation of all blocks is dealt to the ranks.
2. A rank reads the next `pool_rows` rows' worth of its blocks by pread, in a thread, while the pool before is used.
3. Batches are gathered from the pool in the pool's own permutation, when they are asked for or in a second thread.
Everything follows from (seed, epoch, rank, world), so the number of rows given out is the whole state.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field

import numpy as np
import torch

from inscape.core.errors import InputError
from inscape.store.column import LazyColumn, Rows
from inscape.store.epoch import Batch, Epoch, Memory
from inscape.store.files import Files

State = dict[str, int]


@dataclass(eq=False)
class Batches:
    """Batches of some columns of a store, as `{column: [n, ...]}`; iterating gives what is left of the epoch.

    n: rows a batch. columns: their names. shuffle: False gives the rows in order. seed, epoch: together the order.
    pool_rows: rows that are mixed at once. block: rows read in one stretch: smaller mixes better
    and seeks more. rank, world: this process's share; every rank gets equally many batches. last: also give the batch
    that is not full. pin: into page-locked memory, for copies to a GPU. ahead: batches that a second thread gathers
    before they are asked for; left out, one with `pin` and none without, where the cores have enough to do.
    Mixing: within a pool every order is equally likely; two rows of one block always meet in one pool.
    Cost: a row is copied twice, from the file to the pool by a thread, and from there to its batch. Memory: 2 *
    pool_rows rows, kept for the next epoch, and ahead + 2 batches.
    Raises: InputError for numbers that make no batches, and for `pin` without a device that could use it.
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
    ahead: int | None = None
    epoch: int = 0
    done: int = field(default=0, init=False)  # rows of this epoch already given out by this rank
    spare: list[tuple[Memory, Memory]] = field(default_factory=list, init=False, repr=False)  # pools of epochs before

    def __post_init__(self) -> None:
        if self.n < 1 or self.block < 1 or self.pool_rows < 1:
            raise InputError(f"n={self.n}, block={self.block}, pool_rows={self.pool_rows}: each must be at least 1.")
        if (self.ahead or 0) < 0:
            raise InputError(f"ahead={self.ahead}: it can be 0 or so many batches.")
        if self.pin and not torch.accelerator.is_available():
            raise InputError(
                "pin=True: torch sees no GPU here whose copies page-locked memory would serve; leave it out."
            )
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

    def __iter__(self) -> Iterator[Batch]:
        limit = self._share() if self.last else len(self) * self.n
        with closing(Epoch(copy(self), self.done, limit).batches()) as made:
            for batch in made:
                self.done += len(next(iter(batch.values())))
                yield batch
        self.epoch, self.done = self.epoch + 1, 0

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

    def order(self, pool: int, rows: int) -> np.ndarray:
        """The order in which a pool's rows are given out."""
        if not self.shuffle:
            return np.arange(rows)
        return np.random.default_rng((self.seed, self.epoch, self.rank, pool, 1)).permutation(rows)
