"""Hugging Face datasets of rows: one record a row of the store, with its sample, position and token."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inscape.core.errors import FileError
from inscape.core.progress import Progress, tell
from inscape.store.exchange import arrow
from inscape.store.exchange.arriving import (
    Names,
    described_in,
    description,
    exported_json,
    fingerprint_of,
    site_of,
    unit_starts,
)
from inscape.store.exchange.arrow_writer import Writer
from inscape.store.exchange.landing import Block, Source
from inscape.store.exchange.outgoing import INDEX, outgoing, plain, widened
from inscape.store.exchange.target import Exported, size_of, whole
from inscape.store.schema import Column
from inscape.store.store import Store


def export_datasets(
    store: Store, to: Path, *, columns: Sequence[str] | str | None = None, progress: Progress = None
) -> Exported:
    """A folder for `datasets.load_from_disk`: a record a row, {site, sample, pos, token}.

    bfloat16 becomes float32. The description of the store travels in the schema, so that an import knows its model.
    Texts stay behind. Cost: one pass; memory: a block. Raises: FileError when `to` exists.
    """
    out = outgoing(store, columns)
    types = {c.name: (str(_wide(c.dtype)).removeprefix("torch."), c.about.shape) for c in out.columns}
    with whole(to, folder=True) as folder, Writer(folder, types, exported_json(store.about)) as writer:
        done = 0
        for block in out.blocks():
            writer.add({name: plain(x) for name, x in block.items()})
            done += len(next(iter(block.values())))
            tell(progress, f"{done:,} of {len(store):,} rows", done / len(store))
    return Exported(to, len(store), size_of(to), (*out.notes, *widened(out.columns)))


def datasets_source(folder: Path, *, names: Names = None, model: Any = None) -> Source:
    """Rows of a saved dataset. Columns of floats become activations; without `sample` each row is a sample of its own.

    Raises: FileError for what is no dataset of numbers.
    """
    paths = arrow.files_of(folder)
    schema = arrow.schema_of(paths[0])
    known = described_in((schema.metadata or {}).get(b"inscape"), str(folder))
    first = next(arrow.batches(paths, _numbers(schema)), None)
    if first is None:
        raise FileError(f"{folder} holds no rows.")
    chosen, left = _chosen(first, schema.names, known)
    if not chosen:
        raise FileError(f"{folder} has no column of floats; it has {', '.join(schema.names)}.")
    columns = [_column(n, first[n], names, model, known) for n in chosen]
    index = [n for n in INDEX if n in first and first[n].ndim == 1 and not first[n].is_floating_point()]
    counts = (lambda: (b["sample"].numpy() for b in arrow.batches(paths, ["sample"]))) if "sample" in index else None
    row_bytes = sum(c.row_bytes for c in columns) + 16
    starts, n, unit = unit_starts(counts or (lambda: _counted(paths, chosen[0])), row_bytes, str(folder))
    notes = (f"left out: {', '.join(left)}",) if left else ()

    def rows(start: int) -> Iterator[Block]:
        at = start
        for block in arrow.batches(paths, [*chosen, *index], start):
            size = len(block[chosen[0]])
            values = {c.name: block[n].to(getattr(torch, c.dtype)) for c, n in zip(columns, chosen, strict=True)}
            _same_shape(values, columns, str(folder))
            yield indices(block, at, size) | values
            at += size

    about = description(columns, n, unit, fingerprint_of(paths), "datasets", model=model, known=known, notes=notes)
    return Source(about, starts, rows, str(folder))


def indices(block: Block, at: int, size: int) -> Block:
    """sample, pos and token of a block, made up where they are missing: a row is a sample, with no place or token."""
    none = torch.full((size,), -1, dtype=torch.int32)
    return {
        "sample": block["sample"].long() if "sample" in block else torch.arange(at, at + size),
        "pos": block["pos"].int() if "pos" in block else none,
        "token": block["token"].int() if "token" in block else none.clone(),
    }


def _numbers(schema: Any) -> list[str]:
    """Columns that may hold numbers: anything but text, bytes, booleans, times and structures."""
    found = []
    for field in schema:
        kind = field.type.storage_type if hasattr(field.type, "storage_type") else field.type
        while hasattr(kind, "value_type"):
            kind = kind.value_type
        if str(kind) in ("float", "double", "halffloat") or str(kind).startswith(("int", "uint")):
            found.append(field.name)
    return found


def _chosen(first: Block, every: Sequence[str], known: Any) -> tuple[list[str], list[str]]:
    ours = {c.name for c in known.columns} if known is not None else set()
    chosen = [n for n, x in first.items() if n not in INDEX and (x.is_floating_point() or n in ours)]
    return chosen, [n for n in every if n not in chosen and n not in INDEX]


def _column(name: str, x: torch.Tensor, names: Names, model: Any, known: Any) -> Column:
    dtype, shape = str(x.dtype).removeprefix("torch."), tuple(x.shape[1:])
    was = next((c for c in known.columns if c.name == name), None) if known is not None else None
    if was is not None and (names is None or name not in names):
        return Column(name=name, dtype=dtype, shape=shape, site=was.site, keep=was.keep)
    ours = site_of(name, names, model)
    return Column(name=ours, dtype=dtype, shape=shape, site=ours)


def _same_shape(values: Block, columns: Sequence[Column], where: str) -> None:
    for c in columns:
        if tuple(values[c.name].shape[1:]) != c.shape:
            raise FileError(
                f"{where}: {c.name} has rows of {tuple(values[c.name].shape[1:])}, the first had {c.shape}."
            )


def _counted(paths: Sequence[Path], name: str) -> Iterator[np.ndarray]:
    at = 0
    for block in arrow.batches(paths, [name]):
        yield np.arange(at, at + len(block[name]))
        at += len(block[name])


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.bfloat16 else dtype
