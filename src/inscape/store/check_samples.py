"""Looking after what is remembered of samples: lines and table, what is wrong with them, and taking it out."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from inscape.core.durable import written
from inscape.core.errors import FileError
from inscape.store import samples
from inscape.store.samples import FOLDER, TABLE, Line

Wrong = tuple[str, int, str]


def unreadable(store: Path, n_samples: int | None) -> list[Wrong]:
    """(file, line number, why) of lines that are no sample of this store, a line in memory at a time."""
    return [
        (f"{FOLDER}/{path.name}", line.number, why)
        for path in _lists(store)
        for line in samples.lines(path)
        if (why := _wrong(line, n_samples))
    ]


def damage_of_table(store: Path, n_samples: int | None) -> str | None:
    """What is wrong with samples.parquet, read a row group at a time; None when it is sound, absent or not for us."""
    path = store / TABLE
    if not path.exists():
        return None
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return None
    at = 0
    try:
        with samples.parquet().ParquetFile(samples.checked(path)) as file:
            for group in range(file.num_row_groups):
                numbers = file.read_row_group(group).column("sample").to_numpy()
                if not np.array_equal(numbers, np.arange(at, at + len(numbers))):
                    return "its samples are not in order"
                at += len(numbers)
    except (FileError, OSError, ValueError, KeyError) as error:
        return str(error).splitlines()[0]
    return None if n_samples in (None, at) else f"it has {at:,} samples of {n_samples:,}"


def drop(store: Path, n_samples: int | None) -> None:
    """Rewrite lists without the lines that are no sample, cut last ones too; each whole, atomically."""
    for path in _lists(store):
        if any(_wrong(line, n_samples) for line in samples.lines(path)) or _is_torn(path):
            with written(path, replace=True) as file:
                file.writelines(line.text for line in _good(path, n_samples))


def _lists(store: Path) -> list[Path]:
    return sorted((store / FOLDER).glob("[!.]*.jsonl"))


def _good(path: Path, n_samples: int | None) -> Iterator[Line]:
    return (line for line in samples.lines(path) if not _wrong(line, n_samples))


def _wrong(line: Line, n_samples: int | None) -> str:
    try:
        number = int(line.sample()["sample"])
    except FileError as error:
        return str(error).splitlines()[0].partition(": ")[2]
    return "" if n_samples is None or number < n_samples else f"sample {number} of {n_samples:,}"


def _is_torn(path: Path) -> bool:
    with open(path, "rb") as file:
        return bool(file.seek(0, 2)) and (file.seek(-1, 2), file.read(1))[1] != b"\n"
