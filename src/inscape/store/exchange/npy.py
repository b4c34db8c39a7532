"""NumPy files: a folder of `.npy`, or one `.npz`, an array a column. bfloat16 goes as it is, as uint16 with a name.

NumPy has no bfloat16: `layers.3.resid_post` of that type is written as the array `layers.3.resid_post.bfloat16`, whose
uint16 are its bits: `torch.from_numpy(a).view(torch.bfloat16)`. With widen=True it is float32 under its own name.
"""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inscape.core.errors import FileError
from inscape.core.progress import Progress, tell
from inscape.store.column import LazyColumn
from inscape.store.exchange.arriving import exported_json
from inscape.store.exchange.outgoing import Outgoing, outgoing, plain, widened
from inscape.store.exchange.target import Exported, size_of, whole
from inscape.store.store import Store

BITS = ".bfloat16"  # ends the name of an array of uint16 that are bfloat16
ABOUT = "inscape.json"


def export_npy(
    store: Store, to: Path, *, columns: Sequence[str] | str | None = None, widen: bool = False,
    progress: Progress = None,
) -> Exported:  # fmt: skip
    """A folder with an `.npy` a column, which numpy can map into memory, and `inscape.json`.

    Cost: a pass over each column; memory: a block. Raises: FileError when `to` exists.
    """
    out = outgoing(store, columns)
    with whole(to, folder=True) as folder:
        for column in out.columns:
            with open(folder / f"{_file_name(column, widen)}.npy", "wb") as file:
                _array(file, column, out, widen, progress)
        (folder / ABOUT).write_text(exported_json(store.about))
    return Exported(to, len(store), size_of(to), _notes(out, widen))


def export_npz(
    store: Store, to: Path, *, columns: Sequence[str] | str | None = None, widen: bool = False,
    progress: Progress = None,
) -> Exported:  # fmt: skip
    """One uncompressed `.npz` for `numpy.load`, an array a column, and `inscape.json`; else as `export_npy`."""
    out = outgoing(store, columns)
    with whole(to, folder=False) as path, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for column in out.columns:
            with archive.open(f"{_name(column, widen)}.npy", "w", force_zip64=True) as file:
                _array(file, column, out, widen, progress)
        archive.writestr(ABOUT, exported_json(store.about))
    return Exported(to, len(store), size_of(to), _notes(out, widen))


def _array(file: Any, column: LazyColumn, out: Outgoing, widen: bool, progress: Progress) -> None:
    """One column as the bytes of an .npy file, a block at a time."""
    kind = _bits(column[:0], widen).dtype
    head = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": column.shape}
    np.lib.format.write_array_header_2_0(file, head)
    for start in range(0, len(column), out.block_rows):
        file.write(np.ascontiguousarray(_bits(column[start : start + out.block_rows], widen)).data)
        tell(progress, f"{column.name}: {start:,} of {len(column):,} rows", start / len(column))


def _bits(values: Tensor, widen: bool) -> np.ndarray:
    if values.dtype == torch.bfloat16 and not widen:
        return values.contiguous().view(torch.uint16).numpy()
    return plain(values).numpy()


def _name(column: LazyColumn, widen: bool) -> str:
    return column.name + (BITS if column.dtype == torch.bfloat16 and not widen else "")


def _file_name(column: LazyColumn, widen: bool) -> str:
    name = _name(column, widen)
    if "/" in name or name.startswith(".") or len(name) > 240:
        raise FileError(f"{name!r} is no file name, so the column cannot be an .npy of its own: export an npz instead.")
    return name


def _notes(out: Outgoing, widen: bool) -> tuple[str, ...]:
    if widen:
        return (*out.notes, *widened(out.columns))
    bits = [_name(c, widen) for c in out.columns if c.dtype == torch.bfloat16]
    return (*out.notes, *([f"bfloat16 is written as uint16 with the same bits: {', '.join(bits)}"] if bits else []))


def header(file: Any, where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an .npy; nothing is unpickled. Raises FileError for anything but plain numbers in C order."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, TypeError, EOFError, OSError, SyntaxError) as error:
        raise FileError(f"{where} is no .npy file: {str(error).splitlines()[0]}") from None
    if dtype.hasobject or dtype.kind not in "fiu" or not dtype.isnative or fortran or not shape:
        order = " in Fortran order" if fortran else ""
        raise FileError(f"{where} holds {dtype} of shape {shape}{order}: only rows of plain numbers are read.")
    return shape, dtype


def blocks(
    file: Any, shape: tuple[int, ...], dtype: np.dtype[Any], where: str, rows: int, first: int = 0
) -> Iterator[Tensor]:
    """Rows from `first` on, `rows` at a time, of an .npy whose header has been read."""
    row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    file.seek(first * row, 1)
    for start in range(first, shape[0], rows):
        n = min(rows, shape[0] - start)
        try:
            data = file.read(n * row)
        except (OSError, zipfile.BadZipFile, EOFError, ValueError) as error:
            raise FileError(f"{where} is damaged: {error}.") from None
        if len(data) != n * row:
            raise FileError(f"{where} ends at row {start:,} of {shape[0]:,}: it was cut.")
        yield torch.from_numpy(np.frombuffer(bytearray(data), dtype).reshape(n, *shape[1:]))
