"""What is remembered of every sample: its text or path, its label, how many rows it has.

While a store is recorded each writer appends lines to `samples/<writer>.jsonl`, before it lists the shard they belong
to. When the last work unit is listed they become one `samples.parquet` (with pyarrow, extra `store`), by number.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from inscape.core.durable import append, disk_errors, written
from inscape.core.errors import FileError, InputError
from inscape.core.extra import package
from inscape.store.schema import NAME

FOLDER, TABLE = "samples", "samples.parquet"


def add(store: Path, writer: str, found: Iterable[dict[str, Any]]) -> None:
    """Append samples, {"sample": number, ...} each, durably. Raises OSError."""
    text = "".join(json.dumps(s, ensure_ascii=False, separators=(",", ":")) + "\n" for s in found)
    if text:
        append(store / FOLDER / f"{writer}.jsonl", text.encode("utf-8", "surrogatepass"))


def table(store: Path) -> list[dict[str, Any]]:
    """Every sample by number, once."""
    if (store / TABLE).exists():
        return _parquet().read_table(_checked(store / TABLE)).to_pylist()
    return _from_lines(store)


def text(store: Path, sample: int) -> str:
    """The text of one sample. Raises InputError when there is none."""
    found: dict[str, Any] | None = None
    if (store / TABLE).exists():
        found = _one(store / TABLE, sample)
    else:
        found = next((s for s in _from_lines(store) if s["sample"] == sample), None)
    if found is None or found.get("text") is None:
        raise InputError(f"sample {sample} of {store} has no text: {'it is not recorded' if found is None else found}.")
    return str(found["text"])


def finish(store: Path, n_samples: int) -> bool:
    """One table of all samples, once every one is there; False when some are missing or pyarrow is."""
    if (store / TABLE).exists():
        return True
    found = _from_lines(store)
    if len(found) != n_samples:
        return False
    try:
        import pyarrow as pa
    except ImportError:
        return False
    names = list(dict.fromkeys(name for s in found for name in s))
    columns = {name: pa.array(_alike([_plain(s.get(name)) for s in found])) for name in names}
    said = "all rows are recorded; run the same record again for its table."
    with disk_errors(f"the table of samples of {store}", lambda: said), written(store / TABLE, replace=True) as file:
        _parquet().write_table(pa.table(columns), file, row_group_size=4096, compression="zstd")
    return True


def _from_lines(store: Path) -> list[dict[str, Any]]:
    by_number: dict[int, dict[str, Any]] = {}
    folder = store / FOLDER
    for path in sorted(folder.glob("[!.]*.jsonl")) if folder.is_dir() else ():
        if NAME.fullmatch(path.stem) is None:
            raise FileError(f"{path} is not named like a list of samples; take it out of the folder.")
        whole, _, _torn = path.read_bytes().rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
            try:
                found = json.loads(line.decode("utf-8", "surrogatepass"))
                by_number.setdefault(int(found["sample"]), found)
            except (ValueError, TypeError, KeyError) as error:
                raise FileError(f"{path}, line {number}: no sample ({error}).") from None
    return [by_number[n] for n in sorted(by_number)]


def _one(path: Path, sample: int) -> dict[str, Any] | None:
    """One row, reading the row group that holds it alone."""
    with _parquet().ParquetFile(_checked(path)) as file:
        at = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if sample < at + rows:
                found = file.read_row_group(group).slice(sample - at, 1).to_pylist()
                return found[0] if found else None
            at += rows
    return None


def _checked(path: Path) -> Path:
    try:
        _parquet().read_metadata(path)
    except (OSError, ValueError) as error:
        raise FileError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    return path


def _alike(values: list[Any]) -> list[Any]:
    """One type a column: labels of several kinds become JSON text."""
    kinds = {type(v) for v in values if v is not None}
    if len(kinds) <= 1 or kinds == {int, float}:
        return values
    return [None if v is None else json.dumps(v) for v in values]


def _plain(value: Any) -> Any:
    if isinstance(value, str):  # half a surrogate pair is no Unicode, and Parquet holds nothing else
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return value if value is None or isinstance(value, (str, int, float, bool)) else json.dumps(value)


def _parquet() -> Any:
    package("pyarrow", "store", "reading samples.parquet")
    import pyarrow.parquet

    return pyarrow.parquet
