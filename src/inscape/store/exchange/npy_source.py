"""Rows of NumPy files for an import: arrays of one length, read side by side from a folder or an archive."""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inscape.core.errors import FileError
from inscape.store.exchange.arriving import (
    Names,
    described_in,
    description,
    fingerprint_of,
    site_of,
    unit_starts,
)
from inscape.store.exchange.datasets_rows import indices
from inscape.store.exchange.landing import Block, Source
from inscape.store.exchange.npy import ABOUT, BITS, blocks, header
from inscape.store.exchange.outgoing import BLOCK_BYTES, INDEX
from inscape.store.schema import Column, Description

RATIO = 100  # an archive that unfolds to more than so many times its size holds no activations
ABOUT_LIMIT = 16 << 20
Head = tuple[tuple[int, ...], "np.dtype[Any]"]


class Arrays:
    """The arrays of an .npy, an .npz or a folder of .npy, by name, each checked against the size of its file."""

    def __init__(self, path: Path) -> None:
        self.path, self.is_archive = path, path.is_file() and path.suffix != ".npy"
        self.heads: dict[str, Head] = {}
        self.about: bytes | None = None
        self.files = [path] if path.is_file() else sorted(path.glob("*.npy"))
        if self.is_archive:
            self._look_into_archive()
        else:
            for file in self.files:
                self._look(file.stem, file.stat().st_size)
            about = path / ABOUT
            self.about = about.read_bytes() if path.is_dir() and about.exists() else None
        if not self.heads:
            raise FileError(f"{path} holds no arrays: looked for .npy files, or an .npz.")

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Any]:
        try:
            if not self.is_archive:
                with open(self.path if self.path.is_file() else self.path / f"{name}.npy", "rb") as file:
                    yield file
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
                    yield file
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise FileError(f"{self.path}, {name}: damaged: {error}.") from None

    def rows(self, name: str, n: int, first: int = 0) -> Iterator[Tensor]:
        """Rows of an array from `first` on, n at a time; uint16 named as bfloat16 are that."""
        with self.open(name) as file:
            where = f"{self.path}, {name}"
            shape, dtype = header(file, where)
            for block in blocks(file, shape, dtype, where, n, first):
                yield block.view(torch.bfloat16) if name.endswith(BITS) else block

    def _look(self, name: str, size: int) -> None:
        with self.open(name) as file:
            where = f"{self.path}, {name}"
            shape, dtype = header(file, where)
            need = file.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
        if need != size:
            raise FileError(f"{where} has {size:,} bytes; {dtype} of shape {shape} takes {need:,}: it was cut.")
        if name.endswith(BITS) and dtype != np.uint16:
            raise FileError(f"{where} is named as the bits of bfloat16 and holds {dtype}.")
        self.heads[name] = (shape, dtype)

    def _look_into_archive(self) -> None:
        try:
            with zipfile.ZipFile(self.path) as archive:
                found = archive.infolist()
                self._check(found)
                about = next((i for i in found if i.filename == ABOUT), None)
                self.about = archive.read(about) if about is not None and about.file_size < ABOUT_LIMIT else None
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"{self.path} is no .npz file: {error}.") from None
        for info in found:
            if info.filename.endswith(".npy"):
                self._look(info.filename.removesuffix(".npy"), info.file_size)

    def _check(self, found: list[zipfile.ZipInfo]) -> None:
        if len({i.filename for i in found}) != len(found):
            raise FileError(f"{self.path} holds two arrays of one name.")
        unfolded = sum(i.file_size for i in found)
        if unfolded > RATIO * self.path.stat().st_size + BLOCK_BYTES:
            raise FileError(f"{self.path} would unfold to {unfolded / 1e9:,.1f} GB: no activations pack so small.")


def npy_source(path: Path, *, names: Names = None, model: Any = None) -> Source:
    """Rows of NumPy arrays of one length. Arrays of floats become activations; "sample", "pos" and "token" are theirs.

    A single .npy is a column named after its file, or as names={stem: site} says. Without "sample" each row is a
    sample of its own. Raises: FileError for damaged files, pickles, arrays of unlike lengths.
    """
    arrays = Arrays(path)
    known = described_in(arrays.about, str(path))
    index = [n for n in INDEX if n in arrays.heads and len(arrays.heads[n][0]) == 1]
    if any(arrays.heads[n][1].kind == "f" for n in index):
        raise FileError(f"{path}: {', '.join(index)} must be integers.")
    ours = {c.name for c in known.columns} if known is not None else set()
    chosen = [
        n for n, (_, d) in arrays.heads.items() if n not in INDEX and (d.kind == "f" or n.endswith(BITS) or n in ours)
    ]
    lengths = {n: arrays.heads[n][0][0] for n in (*index, *chosen)}
    if not chosen or len(set(lengths.values())) > 1:
        said = ", ".join(f"{n} {arrays.heads[n][0]}" for n in arrays.heads)
        raise FileError(f"{path} holds {said}: {'arrays of unlike lengths' if chosen else 'no array of floats'}.")
    columns = [_column(n, arrays.heads[n], names, model, known) for n in chosen]
    row_bytes = sum(c.row_bytes for c in columns) + 16
    size, n_rows = max(1, BLOCK_BYTES // row_bytes), lengths[chosen[0]]

    def numbers() -> Iterator[np.ndarray]:
        if "sample" in index:
            return (b.long().numpy() for b in arrays.rows("sample", 1 << 20))
        return (np.arange(a, min(a + (1 << 20), n_rows)) for a in range(0, n_rows, 1 << 20))

    starts, n, unit = unit_starts(numbers, row_bytes, str(path))

    def rows(start: int) -> Iterator[Block]:
        at = start
        for parts in zip(*(arrays.rows(n, size, start) for n in (*index, *chosen)), strict=True):
            block = dict(zip((*index, *chosen), parts, strict=True))
            count = len(parts[-1])
            yield indices(block, at, count) | {c.name: block[n] for c, n in zip(columns, chosen, strict=True)}
            at += count

    left = [n for n in arrays.heads if n not in chosen and n not in index]
    notes = (f"left out: {', '.join(left)}",) if left else ()
    about = description(columns, n, unit, fingerprint_of(arrays.files), "numpy", model=model, known=known, notes=notes)
    return Source(about, starts, rows, str(path))


def _column(name: str, head: Head, names: Names, model: Any, known: Description | None) -> Column:
    shape, dtype = head
    theirs = name.removesuffix(BITS)
    kind = "bfloat16" if name.endswith(BITS) else str(dtype)
    was = next((c for c in known.columns if c.name == theirs), None) if known is not None else None
    if was is not None and (names is None or theirs not in names):
        return Column(name=theirs, dtype=kind, shape=shape[1:], site=was.site, keep=was.keep)
    ours = site_of(theirs, names, model)
    return Column(name=ours, dtype=kind, shape=shape[1:], site=ours)
