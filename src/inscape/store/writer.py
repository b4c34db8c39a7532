"""The thread that writes while the model computes: finished work units in, shards on disk out."""

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from inscape.core.durable import disk_errors
from inscape.store import manifest, samples
from inscape.store.schema import Column
from inscape.store.shard import write_shard
from inscape.store.statistics.watch import Watch

SHARD_BYTES = 64 << 20
LONGEST_S = 60.0  # what is computed is on disk after so long, however small


@dataclass(frozen=True, eq=False)
class Unit:
    """One recorded work unit: its rows by column (contiguous, on the CPU) and what is kept of its samples."""

    number: int
    rows: int
    values: Mapping[str, Tensor]
    samples: Sequence[dict[str, Any]] = ()
    digest: str = ""  # of the samples, where the data are known only as they pass

    @cached_property
    def bytes(self) -> int:
        """Rows, and what is kept of the samples."""
        rows = sum(x.numel() * x.element_size() for x in self.values.values())
        return rows + sum(200 + len(str(s.get("text", ""))) for s in self.samples)


class Writer:
    """Takes work units and writes shards of about `shard_bytes`, in a thread of its own.

    `put` waits only when two shards' worth is unwritten, so memory stays bounded. An error of the disk is raised by
    the next `put` or when it is left; what is listed by then stays. Use it in a `with`: leaving it, with an error or
    without, writes the whole units that are there. A minute's work is written even where it fills no shard.
    watch: statistics taken of every shard that is listed.
    """

    def __init__(
        self, store: Path, name: str, columns: Sequence[Column], *, shard_bytes: int = SHARD_BYTES,
        watch: Watch | None = None,
    ) -> None:  # fmt: skip
        self.store, self.name, self.columns, self.watch = store, name, columns, watch
        self.shard_bytes, self.number = shard_bytes, 0
        self.bytes = self.rows = 0
        self._units: queue.Queue[Unit | None] = queue.Queue()
        self._room = threading.Condition()
        self._waiting = 0  # bytes handed in and not yet on disk
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="inscape store writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self._units.put(None)
        self._thread.join()
        if kind is None:
            self._raise()
            if self.watch is not None:
                self.watch.save()

    def put(self, unit: Unit) -> None:
        """Hand over a work unit; the tensors must not be written to afterwards."""
        with self._room:
            while self._waiting > 2 * self.shard_bytes and self._error is None:
                self._room.wait()
            self._waiting += unit.bytes
        self._raise()
        self._units.put(unit)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        held: list[Unit] = []
        try:
            with disk_errors(f"a shard of {self.store}", self._advice):
                size, since = 0, time.monotonic()
                while (unit := self._units.get()) is not None:
                    held.append(unit)
                    size += unit.bytes
                    if size >= self.shard_bytes or time.monotonic() - since > LONGEST_S:
                        self._write(held)
                        held, size, since = [], 0, time.monotonic()
                if held:  # also when an error ends the record: these units are whole
                    self._write(held)
        except BaseException as error:
            with self._room:
                self._error = error
                self._room.notify_all()

    def _write(self, held: list[Unit]) -> None:
        at, spans = 0, []
        for unit in held:
            spans.append((unit.number, at, at + unit.rows))
            at += unit.rows
        pieces = {c.name: [u.values[c.name] for u in held if u.rows] for c in self.columns}
        path = self.store / manifest.SHARDS / f"{self.name}-{self.number:06d}.safetensors"
        listed = write_shard(path, self.columns, pieces, spans)
        if any(unit.digest for unit in held):
            listed = listed.model_copy(update={"digests": tuple(unit.digest for unit in held)})
        samples.add(self.store, self.name, (s for u in held for s in u.samples))
        manifest.add_line(self.store, self.name, listed)
        if self.watch is not None:
            self.watch.update(listed, [u.values for u in held])
        self.number += 1
        with self._room:
            self.bytes, self.rows = self.bytes + listed.bytes, self.rows + listed.rows
            self._waiting -= sum(u.bytes for u in held)
            self._room.notify_all()

    def _advice(self) -> str:
        return (
            f"{self.rows:,} rows of this writer are safe and listed; make room, then run the same record again: "
            "it goes on from there."
        )
