"""One shard: a safetensors file of flat rows, written without gathering them first, read by offset.

The tensors lie in the order of the store's columns without gaps, so that every byte's place follows from the number of
rows and the length of the header: readers open no header to know where a row is.
"""

import hashlib
import json
import os
import queue
import struct
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from inscape.core.durable import written
from inscape.core.errors import FileError, ShapeError
from inscape.store.schema import DTYPES, Column, Listed

HEADER_LIMIT = 1 << 24  # bytes; a header larger than this is no header of ours
ALIGN = 64


def write_shard(
    path: Path, columns: Sequence[Column], pieces: Mapping[str, Sequence[Tensor]], units: Sequence[tuple[int, int, int]]
) -> Listed:
    """Write rows given in pieces (tensors [rows, ...] a column, contiguous, on the CPU), durably; returns its line.

    The checksum is taken in a second thread while the disk works. Raises OSError.
    """
    rows = units[-1][2] if units else 0
    for c in columns:
        wrong = [x for x in pieces[c.name] if tuple(x.shape[1:]) != c.shape or str(x.dtype) != f"torch.{c.dtype}"]
        if wrong or sum(len(x) for x in pieces[c.name]) != rows:
            found = wrong[0] if wrong else None
            said = f"{list(found.shape[1:])} {found.dtype}" if found is not None else "another number of rows"
            raise ShapeError(
                f"{c.name} has {said} where the store has {list(c.shape)} {c.dtype} in {rows:,} rows.\n"
                "  samples whose activations differ in shape need a reduce= that makes them alike, or other stores."
            )
    header = header_of(columns, rows)
    hasher = _Hasher()
    try:
        with written(path) as file:
            handle = file.fileno()
            for data in (header, *(_bytes(x) for c in columns for x in pieces[c.name])):
                hasher.add(data)
                _write(handle, data)
        size = len(header) + sum(c.row_bytes for c in columns) * rows
    finally:
        digest = hasher.digest()
    return Listed(shard=path.name, rows=rows, bytes=size, data=len(header), sha256=digest, units=tuple(units))


def no_rows(columns: Sequence[Column]) -> dict[str, Tensor]:
    """Every column with no row in it."""
    return {c.name: torch.empty((0, *c.shape), dtype=getattr(torch, c.dtype)) for c in columns}


def header_of(columns: Sequence[Column], rows: int) -> bytes:
    """The head of the file, padded so that the tensors begin at a multiple of 64 bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt", "inscape": "store 1"}}
    at = 0
    for c in columns:
        size = c.row_bytes * rows
        entries[c.name] = {"dtype": DTYPES[c.dtype][0], "shape": [rows, *c.shape], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGN)
    return struct.pack("<Q", len(text)) + text


def offsets(columns: Sequence[Column], listed: Listed) -> dict[str, int]:
    """Where each column begins in the file."""
    at, found = listed.data, {}
    for c in columns:
        found[c.name] = at
        at += c.row_bytes * listed.rows
    return found


def check_header(path: Path, columns: Sequence[Column], listed: Listed) -> None:
    """Raise FileError unless the file has the size, the columns and the rows that the manifest says."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
            if not 0 <= length <= min(HEADER_LIMIT, size - 8):
                raise FileError(f"{path} is damaged: it says its header has {length:,} bytes, the file has {size:,}.")
            text = file.read(length)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path} is listed and cannot be read: {error.strerror}.\n{REPAIR}") from None
    if size != listed.bytes:
        raise FileError(f"{path} has {size:,} bytes and was written with {listed.bytes:,}: it was cut.\n{REPAIR}")
    expected = header_of(columns, listed.rows)
    if listed.data != len(expected) or listed.bytes != listed.data + sum(c.row_bytes for c in columns) * listed.rows:
        raise FileError(f"{path}: its line does not fit {listed.rows:,} rows of this store.\n{REPAIR}")
    if struct.pack("<Q", length) + text != expected:
        raise FileError(f"{path} is damaged: its header is not that of {listed.rows:,} rows of this store.\n{REPAIR}")


REPAIR = (
    "  `inscape store verify` looks at every shard; `inscape store repair` drops the bad ones, to be recorded again."
)


def _bytes(x: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    return x.reshape(-1).view(torch.uint8).numpy().data if x.numel() else memoryview(b"")


def _write(handle: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while len(view):
        view = view[os.write(handle, view[: 1 << 26]) :]


class _Hasher:
    """SHA-256 in a thread of its own (hashing leaves the interpreter's lock), so that it costs the writer nothing."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._work: queue.Queue[bytes | memoryview | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, data: bytes | memoryview) -> None:
        self._work.put(data)

    def digest(self) -> str:
        self._work.put(None)
        self._thread.join()
        return self._digest.hexdigest()

    def _run(self) -> None:
        while (data := self._work.get()) is not None:
            self._digest.update(data)
