"""One `samples.parquet` from the lines of all writers, in memory that does not grow with the corpus.

1. Every line is read once: where it lies goes into an index on disk, three numbers a sample; which kinds of values each
   label has decides its column's type.
2. When no sample is missing, they are gone through by number: the lines of a row group are fetched through the index,
   parsed and written.
Memory: one row group, of at most 4,096 samples and 32 MB of lines (or one longer line).
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from inscape.core.durable import disk_errors, written
from inscape.core.errors import FileError
from inscape.store import samples
from inscape.store.samples import TABLE

GROUP, GROUP_BYTES = 4096, 32 << 20
WIDTH = 3  # of the index: number of the file plus one (0: no line yet), where the line begins, its bytes
Kinds = dict[str, set[type]]


def finish(store: Path, n_samples: int, about: Callable[[int], dict[str, Any]] | None = None) -> bool:
    """One table of all samples, once every one is there; False when some are missing or pyarrow is.

    about: tells of samples whose lines are gone, so that they are listed again.
    Cost: every line is parsed twice. Raises: FileError for a line that is no sample of this store, a full disk.
    """
    if (store / TABLE).exists():
        return True
    said = "all rows are recorded; make room and run the same record again for its table."
    with disk_errors(f"the table of samples of {store}", lambda: said):
        if _made(store, n_samples):
            return True
        if about is None or not samples.add_missing(store, f"s-{os.getpid():x}-{time.time_ns():x}", n_samples, about):
            return False
        return _made(store, n_samples)


def _made(store: Path, n_samples: int) -> bool:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return False
    with _Index(store, n_samples) as index:
        kinds = index.fill()
        if not index.is_full:
            return False
        with written(store / TABLE, replace=True) as file:
            _write(file, index, kinds)
    return True


class _Index:
    """Where the line of each sample lies, in a nameless file beside the table: nothing of it is left by a kill."""

    def __init__(self, store: Path, n_samples: int) -> None:
        self.store, self.n, self.files = store, n_samples, samples.files(store)

    def __enter__(self) -> "_Index":
        with ExitStack() as stack:
            self.file: BinaryIO = stack.enter_context(tempfile.TemporaryFile(dir=self.store, buffering=0))
            self.file.truncate(8 * WIDTH * self.n)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def fill(self) -> Kinds:
        """Look at every line; gives the kinds of values of each name."""
        kinds: Kinds = {}
        for owner, path in enumerate(self.files, 1):
            entries: list[tuple[int, int, int]] = []  # of samples that follow one another, the first at `start`
            said: list[dict[str, type]] = []
            start = 0
            for line in samples.lines(path):
                found = line.sample()
                number = int(found["sample"])
                if number >= self.n:
                    raise FileError(f"{path}, line {line.number}: sample {number} of {self.n:,}.")
                if number != start + len(entries) or len(entries) >= GROUP:
                    self._put(start, entries, said, kinds)
                    start, entries, said = number, [], []
                entries.append((owner, line.at, len(line.text)))
                said.append({name: type(_plain(value)) for name, value in found.items()})
            self._put(start, entries, said, kinds)
        return kinds

    def _put(self, start: int, entries: list[tuple[int, int, int]], said: list[dict[str, type]], kinds: Kinds) -> None:
        """Samples that have no line yet get theirs, and what it says counts."""
        if not entries:
            return
        there = self.entries(start, start + len(entries))
        is_new = there[:, 0] == 0
        kept = np.where(is_new[:, None], np.array(entries, np.int64), there)
        at, data = 8 * WIDTH * start, memoryview(kept.tobytes())
        while len(data):
            done = os.pwrite(self.file.fileno(), data, at)
            data, at = data[done:], at + done
        for i in np.flatnonzero(is_new).tolist():
            for name, kind in said[i].items():
                kinds.setdefault(name, set()).add(kind)

    def entries(self, start: int, stop: int) -> np.ndarray:
        """[samples, (file plus one, begin, bytes)]"""
        raw = os.pread(self.file.fileno(), 8 * WIDTH * (stop - start), 8 * WIDTH * start)
        return np.frombuffer(raw, np.int64).reshape(-1, WIDTH)

    @property
    def is_full(self) -> bool:
        stretches = range(0, self.n, GROUP)
        return all(bool((self.entries(a, min(self.n, a + GROUP))[:, 0] > 0).all()) for a in stretches)

    def groups(self) -> Iterator[list[dict[str, Any]]]:
        """The samples by number, in groups that fit in memory."""
        for start in range(0, self.n, GROUP):
            entries = self.entries(start, min(self.n, start + GROUP))
            part = np.cumsum(entries[:, 2]) // GROUP_BYTES
            for some in np.split(entries, np.flatnonzero(np.diff(part)) + 1):
                yield self._read(some)

    def _read(self, entries: np.ndarray) -> list[dict[str, Any]]:
        """The samples of some entries. A writer's lines mostly lie in the order of their numbers."""
        found: list[dict[str, Any]] = [{}] * len(entries)
        for owner in np.unique(entries[:, 0]).tolist():
            with open(self.files[owner - 1], "rb") as file:
                for i in np.flatnonzero(entries[:, 0] == owner).tolist():
                    file.seek(int(entries[i, 1]))
                    line = samples.Line(self.files[owner - 1], 0, int(entries[i, 1]), file.read(int(entries[i, 2])))
                    found[i] = line.sample()
        return found


def _write(file: BinaryIO, index: _Index, kinds: Kinds) -> None:
    import pyarrow as pa

    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    types: dict[str, Any] = {}
    for name, several in kinds.items():
        known = several - {type(None)}
        if len(known) <= 1:
            types[name] = plain[known.pop()] if known else pa.null()
        else:
            types[name] = pa.float64() if known == {int, float} else None  # None: JSON text
    schema = pa.schema([(name, kind if kind is not None else pa.string()) for name, kind in types.items()])
    with samples.parquet().ParquetWriter(file, schema, compression="zstd") as writer:
        for found in index.groups():
            columns = [
                pa.array([_as(s.get(name), kind, kind == pa.float64()) for s in found], schema.field(name).type)
                for name, kind in types.items()
            ]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=len(found))


def _as(value: Any, kind: Any, is_float: bool) -> Any:
    """A value as its column holds it: labels of several kinds are JSON text."""
    value = _plain(value)
    if value is None:
        return None
    return json.dumps(value) if kind is None else float(value) if is_float else value


def _plain(value: Any) -> Any:
    if isinstance(value, str):  # half a surrogate pair is no Unicode, and Parquet holds nothing else
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return json.dumps(value)
    return value if value is None or isinstance(value, (str, int, float, bool)) else json.dumps(value)
