"""Small stores written without a model, and rows from a seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from inscape.store import manifest, samples
from inscape.store.claim import DESCRIPTION
from inscape.store.schema import Column, Description
from inscape.store.store import Store
from inscape.store.writer import Unit, Writer

ROWS = 3  # of a sample
SAMPLES = 2  # of a unit


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def described(values: Mapping[str, Tensor], scaled: Mapping[str, str] | None = None, n_units: int = 0) -> Description:
    """A store of these columns. Raw values are given; `scaled` names the column of factors of one."""
    index = [Column(name=name, dtype="int64") for name in ("sample", "pos")]
    sites = [
        Column(
            name=name, dtype=str(x.dtype).removeprefix("torch."), shape=tuple(x.shape[1:]),
            site="" if name.endswith(".scale") else name, scaled_by=(scaled or {}).get(name, ""),
        )
        for name, x in values.items()
    ]  # fmt: skip
    return Description(columns=(*index, *sites), n_samples=n_units * SAMPLES, unit_samples=SAMPLES)


def units_of(values: Mapping[str, Tensor]) -> list[Unit]:
    """Rows cut into work units of two samples of three rows; the last may be shorter."""
    n, each = len(next(iter(values.values()))), ROWS * SAMPLES
    rows = torch.arange(n)
    columns = {"sample": rows // ROWS, "pos": rows % ROWS, **values}
    return [
        Unit(u, min(each, n - u * each), {k: x[u * each : (u + 1) * each].contiguous() for k, x in columns.items()})
        for u in range(-(-n // each))
    ]


def claim(path: Path, about: Description) -> Path:
    for inner in ("", manifest.FOLDER, manifest.SHARDS, samples.FOLDER):
        (path / inner).mkdir(parents=True, exist_ok=True)
    (path / DESCRIPTION).write_text(about.model_dump_json())
    return path


def write(path: Path, about: Description, units: Sequence[Unit], writer: str = "w0", shard_bytes: int = 1000) -> None:
    with Writer(path, writer, about.columns, shard_bytes=shard_bytes) as out:
        for unit in units:
            out.put(unit)


def store_of(path: Path, values: Mapping[str, Tensor], scaled: Mapping[str, str] | None = None) -> Store:
    """All rows, written by one writer into several shards."""
    units = units_of(values)
    about = described(values, scaled, len(units))
    write(claim(path, about), about, units)
    return Store(path)
