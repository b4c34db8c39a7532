"""What is remembered of every sample: its text or path, its label, how many rows it has.

While a store is recorded each writer appends lines to `samples/<writer>.jsonl`, before it lists the shard they belong
to. When the last work unit is listed they become one `samples.parquet`, by number (`sample_table`).
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inscape.core.durable import append
from inscape.core.errors import FileError, InputError
from inscape.core.extra import package
from inscape.store.schema import NAME

FOLDER, TABLE = "samples", "samples.parquet"


class Line(NamedTuple):
    """One line about one sample, and where it lies."""

    path: Path
    number: int
    at: int
    text: bytes

    def sample(self) -> dict[str, Any]:
        """What it says. Raises FileError when it is no sample."""
        try:
            found = json.loads(self.text.decode("utf-8", "surrogatepass"))
            if int(found["sample"]) < 0:
                raise ValueError(f"sample {found['sample']}")
        except (ValueError, TypeError, KeyError) as error:
            raise FileError(
                f"{self.path}, line {self.number}: no sample ({error}).\n"
                "  `inscape store repair` drops lines that cannot be read."
            ) from None
        return found


def add(store: Path, writer: str, found: Iterable[dict[str, Any]]) -> None:
    """Append samples, {"sample": number, ...} each, durably. Raises OSError."""
    text = "".join(json.dumps(s, ensure_ascii=False, separators=(",", ":")) + "\n" for s in found)
    if text:
        append(store / FOLDER / f"{writer}.jsonl", text.encode("utf-8", "surrogatepass"))


def files(store: Path) -> list[Path]:
    """The writers' lists, by name: of two lines about one sample the first counts."""
    folder = store / FOLDER
    found = sorted(folder.glob("[!.]*.jsonl")) if folder.is_dir() else []
    for path in found:
        if NAME.fullmatch(path.stem) is None:
            raise FileError(f"{path} is not named like a list of samples; take it out of the folder.")
    return found


def lines(path: Path) -> Iterator[Line]:
    """One writer's lines, one in memory at a time; a last one without its newline was cut by a kill and is none."""
    at = 0
    with open(path, "rb") as file:
        for number, text in enumerate(file, 1):
            if text.endswith(b"\n"):
                yield Line(path, number, at, text)
            at += len(text)


def table(store: Path) -> list[dict[str, Any]]:
    """Every sample by number, once."""
    if (store / TABLE).exists():
        return parquet().read_table(checked(store / TABLE)).to_pylist()
    by_number: dict[int, dict[str, Any]] = {}
    for path in files(store):
        for line in lines(path):
            found = line.sample()
            by_number.setdefault(int(found["sample"]), found)
    return [by_number[n] for n in sorted(by_number)]


def text(store: Path, sample: int) -> str:
    """The text of one sample. Raises InputError when there is none."""
    found = _row(store / TABLE, sample) if (store / TABLE).exists() else _first(store, sample)
    if found is None or found.get("text") is None:
        raise InputError(f"sample {sample} of {store} has no text: {'it is not recorded' if found is None else found}.")
    return str(found["text"])


def add_missing(store: Path, writer: str, n_samples: int, about: Callable[[int], dict[str, Any]]) -> int:
    """List the samples of which no line tells, `about` tells of one by number; gives how many there were."""
    lost = missing(store, n_samples)
    for start in range(0, len(lost), 1024):
        add(store, writer, (about(number) for number in lost[start : start + 1024].tolist()))
    return len(lost)


def missing(store: Path, n_samples: int) -> np.ndarray:
    """Numbers of the samples that no line tells of; all lines are read. Memory: a byte a sample."""
    there = np.zeros(n_samples, bool)
    for path in files(store):
        for line in lines(path):
            number = int(line.sample()["sample"])
            if number < n_samples:
                there[number] = True
    return np.flatnonzero(~there)


def _first(store: Path, sample: int) -> dict[str, Any] | None:
    """The first line about a sample. Lines that do not even hold its digits are passed over unread."""
    digits = str(sample).encode()
    said = (line.sample() for path in files(store) for line in lines(path) if digits in line.text)
    return next((s for s in said if s["sample"] == sample), None)


def _row(path: Path, sample: int) -> dict[str, Any] | None:
    """One row, reading the row group that holds it alone."""
    with parquet().ParquetFile(checked(path)) as file:
        at = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if sample < at + rows:
                found = file.read_row_group(group).slice(sample - at, 1).to_pylist()
                return found[0] if found else None
            at += rows
    return None


def checked(path: Path) -> Path:
    """The table's path. Raises FileError when it is no Parquet file."""
    try:
        parquet().read_metadata(path)
    except (OSError, ValueError) as error:
        raise FileError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    return path


def parquet() -> Any:
    """pyarrow's Parquet, or which extra brings it."""
    package("pyarrow", "store", "reading samples.parquet")
    import pyarrow.parquet

    return pyarrow.parquet
