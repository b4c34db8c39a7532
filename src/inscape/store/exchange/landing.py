"""Rows of a foreign file become a real store: claimed, cut into work units, listed, gone on with after a kill.

What is left behind: damaged input removes a folder that this call made, since nothing in it can be trusted; a kill or
a full disk leaves the listed units, and the same import goes on from there.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inscape.core.errors import FileError, InscapeError, NotFiniteError
from inscape.core.progress import Progress, tell
from inscape.store import manifest
from inscape.store.claim import DESCRIPTION, FOLDERS, claim
from inscape.store.sample_table import finish
from inscape.store.schema import Description
from inscape.store.shard import no_rows
from inscape.store.store import Store
from inscape.store.writer import SHARD_BYTES, Unit, Writer

Block = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Source:
    """Rows to import. starts: first row of every work unit, then the number of rows, [n_units + 1].

    rows: from a row number to blocks of consecutive rows from there on, every column of `about`. kept: what is
    remembered of a sample besides its number and length. name: for errors.
    """

    about: Description
    starts: np.ndarray
    rows: Callable[[int], Iterator[Block]]
    name: str
    kept: Callable[[int], dict[str, Any]] = lambda _: {}

    @property
    def n_samples(self) -> int:
        """How many, which is known of every file."""
        return self.about.n_samples or 0


def land(
    source: Source, to: str | Path, *, allow_nan: bool = False, shard_bytes: int = SHARD_BYTES,
    progress: Progress = None,
) -> Store:  # fmt: skip
    """Write a source into a folder and give it as a `Store`.

    Memory: three shards and one block. Raises: FileError for a folder that holds something else or damaged input,
    NotFiniteError for NaN and infinities unless allow_nan.
    """
    folder = Path(to).expanduser()
    fresh = not folder.exists() or not any(folder.iterdir())
    claim(folder, source.about)
    done = manifest.done_units(folder)
    todo = source.about.missing(done)
    name, start = f"i-{os.getpid():x}-{time.time_ns():x}", time.perf_counter()
    with (
        _cleared(folder, fresh) as damage,
        Writer(folder, name, source.about.columns, shard_bytes=shard_bytes) as writer,
    ):
        stream = _units(source, todo, allow_nan)
        for i in range(len(todo)):
            with damage:
                unit = next(stream)
            writer.put(unit)
            left_s = (time.perf_counter() - start) / (i + 1) * (len(todo) - i - 1)
            tell(progress, f"{source.starts[unit.number + 1]:,} rows, {left_s:,.0f} s left", (i + 1) / len(todo))
    store = Store(folder)

    def again(sample: int) -> dict[str, Any]:
        rows = store.rows_of(sample)
        return {"sample": sample, "tokens": rows.stop - rows.start} | source.kept(sample)

    finish(folder, source.n_samples, again)
    return store


class _Damage(contextlib.AbstractContextManager["_Damage"]):
    """Remembers that an error came from the input, and not from the disk that is written to."""

    found = False

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.found = kind is not None and issubclass(kind, (InscapeError, StopIteration))


@contextlib.contextmanager
def _cleared(folder: Path, fresh: bool) -> Iterator[_Damage]:
    """Remove what this call made in the folder when the input turns out damaged."""
    damage = _Damage()
    try:
        yield damage
    except BaseException:
        if damage.found and fresh:
            for inner in FOLDERS:
                shutil.rmtree(folder / inner, ignore_errors=True)
            (folder / DESCRIPTION).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _units(source: Source, todo: list[int], allow_nan: bool) -> Iterator[Unit]:
    """The work units asked for, cut from the blocks."""
    if not todo:
        return
    blocks = _Blocks(source, int(source.starts[todo[0]]))
    for number in todo:
        blocks.skip(int(source.starts[number]) - blocks.at)
        values = blocks.take(int(source.starts[number + 1]) - blocks.at)
        if not allow_nan:
            _finite(values, source)
        numbers, counts = torch.unique_consecutive(values["sample"], return_counts=True)
        size = source.about.unit_samples
        if len(numbers) and not number * size <= int(numbers[0]) <= int(numbers[-1]) < (number + 1) * size:
            raise FileError(f"{source.name} changed while it was read: its samples are not where they were.")
        have = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        members = range(number * size, min((number + 1) * size, source.n_samples))
        kept = [{"sample": s, "tokens": have.get(s, 0)} | source.kept(s) for s in members]
        yield Unit(number, len(values["sample"]), values, kept)


class _Blocks:
    """Blocks of any length, given out in the lengths asked for."""

    def __init__(self, source: Source, at: int) -> None:
        self.source, self.at = source, at
        self._blocks = source.rows(at)
        self._held: Block = {}

    def skip(self, n: int) -> None:
        while n > 0:
            n -= len(self._some(n)["sample"])

    def take(self, n: int) -> Block:
        parts = []
        while n > 0:
            parts.append(self._some(n))
            n -= len(parts[-1]["sample"])
        columns = self.source.about.columns
        if not parts:
            return no_rows(columns)
        return {c.name: torch.cat([p[c.name] for p in parts]).contiguous() for c in columns}

    def _some(self, limit: int) -> Block:
        while not self._held or not len(self._held["sample"]):
            block = next(self._blocks, None)
            if block is None:
                raise FileError(f"{self.source.name} ended at row {self.at:,} of {int(self.source.starts[-1]):,}.")
            self._held = block
        given = {name: x[:limit] for name, x in self._held.items()}
        self._held = {name: x[limit:] for name, x in self._held.items()}
        self.at += len(given["sample"])
        return given


def _finite(values: Block, source: Source) -> None:
    for name, x in values.items():
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            row = int((~torch.isfinite(x)).reshape(len(x), -1).any(1).nonzero()[0])
            raise NotFiniteError(
                f"{source.name}: {name} holds NaN or infinities, the first in sample {int(values['sample'][row])}.\n"
                "  allow_nan=True imports them as they are."
            )
