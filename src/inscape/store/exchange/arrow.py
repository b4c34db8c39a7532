"""Hugging Face `datasets` folders, read with pyarrow alone: Arrow streams listed in a small JSON file.

Nothing in them is believed: names that leave the folder, offsets that leave their buffer, compression that could
unfold to anything, nulls and rows of unlike lengths are refused.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inscape.core.errors import FileError
from inscape.core.extra import package

END = b"\xff\xff\xff\xff\0\0\0\0"  # closes a stream; without it rows may be missing and nothing else would tell
STATE, INFO = "state.json", "dataset_info.json"


def pyarrow() -> Any:
    """pyarrow. Raises MissingExtraError without it."""
    package("pyarrow", "store", "Hugging Face datasets files")
    import pyarrow

    return pyarrow


def files_of(folder: Path) -> list[Path]:
    """The Arrow files of a datasets folder, in order. Raises FileError for anything else."""
    if (folder / "dataset_dict.json").exists():
        inner = sorted(p.name for p in folder.iterdir() if (p / STATE).exists())
        raise FileError(f"{folder} holds splits ({', '.join(inner)}): give the folder of one, {folder / 'train'}.")
    try:
        state = json.loads((folder / STATE).read_bytes())
        names = [str(f["filename"]) for f in state["_data_files"]]
    except OSError as error:
        raise FileError(f"{folder} is no folder of `datasets`: {STATE} cannot be read ({error.strerror}).") from None
    except (ValueError, TypeError, KeyError) as error:
        raise FileError(f"{folder / STATE} is damaged: {error!r}.") from None
    for name in names:
        if Path(name).name != name or name in ("", ".", "..") or not name.endswith(".arrow"):
            raise FileError(f"{folder / STATE} names {name!r}, which is no Arrow file in this folder.")
        if not (folder / name).is_file():
            raise FileError(f"{folder / name} is listed in {STATE} and missing.")
    if not names or state.get("_indices_data_files"):
        raise FileError(f"{folder} holds {'indices into its rows' if names else 'no data'}: save it flattened.")
    return [folder / n for n in names]


def schema_of(path: Path) -> Any:
    """The schema of an Arrow stream."""
    pa = pyarrow()
    with _damage(pa, path), pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        return stream.schema


def _closed(path: Path) -> None:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - len(END)))
        if file.read() != END:
            raise FileError(f"{path} is damaged or no Arrow stream: it has no end, so it was cut.")


def batches(paths: Sequence[Path], columns: Sequence[str], first: int = 0) -> Iterator[dict[str, Tensor]]:
    """Rows from `first` on, a record batch at a time. Raises FileError for whatever is no plain column of numbers."""
    pa = pyarrow()
    for path in paths:
        with _damage(pa, path), pa.memory_map(str(path)) as file:
            _closed(path)
            messages = pa.ipc.MessageReader.open_stream(file)
            schema = pa.ipc.read_schema(messages.read_next_message())
            while (message := _next(messages)) is not None:
                if _is_compressed(message):
                    raise FileError(f"{path} is compressed inside, which `datasets` does not write: it is not read.")
                batch = pa.ipc.read_record_batch(message, schema)
                if first >= batch.num_rows:
                    first -= batch.num_rows
                    continue
                yield {n: values_of(batch.column(n), n, path)[first:] for n in columns}
                first = 0


def _next(messages: Any) -> Any:
    try:
        return messages.read_next_message()
    except StopIteration:
        return None


def values_of(array: Any, name: str, where: Any) -> Tensor:
    """A column as [rows, ...]: lists of one length all through, without nulls."""
    pa = pyarrow()
    array.validate(full=True)  # offsets that leave their buffer would be read
    rows, shape = len(array), []
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        if array.null_count:
            raise FileError(f"{where}: {name} holds empty places (null).")
        if pa.types.is_fixed_size_list(array.type):
            size = array.type.list_size
        else:
            lengths = np.diff(array.offsets.to_numpy())
            size = int(lengths[0]) if len(lengths) else 0
            if (lengths != size).any():
                raise FileError(f"{where}: the rows of {name} have unlike lengths, {size} and others.")
        shape.append(size)
        array = array.flatten()
    is_number = pa.types.is_floating(array.type) or pa.types.is_integer(array.type)
    if array.null_count or not is_number:
        raise FileError(f"{where}: {name} holds {array.type}{' with null' if array.null_count else ''}, not numbers.")
    return torch.from_numpy(array.to_numpy(zero_copy_only=False).copy().reshape(rows, *shape))


class _damage:
    """Turns pyarrow's errors into ours."""

    def __init__(self, pa: Any, path: Any) -> None:
        self.pa, self.path = pa, path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, FileError) or error is None:
            return
        if isinstance(error, (self.pa.ArrowException, OSError, ValueError, KeyError, TypeError)):
            said = str(error).splitlines()[0] if str(error) else repr(error)
            raise FileError(f"{self.path} is damaged or no Arrow stream: {said}") from None


def _is_compressed(message: Any) -> bool:
    """Does this record batch say that its buffers are compressed? Then its size says nothing of what it unfolds to.

    The metadata are a flatbuffer: Message (header at slot 2) -> RecordBatch (compression at slot 3).
    """
    if message.type != "record batch":
        raise FileError(f"an Arrow {message.type} where a record batch belongs")
    data = message.metadata.to_pybytes()

    def slot(table: int, number: int) -> int:
        vtable = table - struct.unpack_from("<i", data, table)[0]
        size = struct.unpack_from("<H", data, vtable)[0]
        at = 4 + 2 * number
        return struct.unpack_from("<H", data, vtable + at)[0] if at + 2 <= size else 0

    try:
        root = struct.unpack_from("<I", data, 0)[0]
        header = root + slot(root, 2)
        return slot(header + struct.unpack_from("<I", data, header)[0], 3) != 0
    except struct.error:
        raise FileError("an Arrow message whose metadata are cut") from None
