"""GGUF for small files of vectors: what llama.cpp's control vectors are kept in, read and written without its package.

"GGUF", version u32 (2 or 3), number of tensors u64, number of pairs u64
pair:    key (u64 length, UTF-8), type u32, value; strings as keys are, arrays as type u32, count u64, values
tensor:  name, number of axes u32, length of each axis u64 (fastest first), type u32, offset u64 into the data
padding to `general.alignment` (32), then the data: here float32, little-endian
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inscape.core.durable import disk_errors, written
from inscape.core.errors import FileError

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
LARGEST_HEAD = 1 << 24  # bytes before the data; a control vector has a few thousand
ARCHITECTURE = "general.architecture"
_U32, _STRING, _ARRAY, _F32 = 4, 8, 9, 0
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


def write_gguf(path: str | Path, architecture: str, about: Mapping[str, str | int], tensors: Mapping[str, Tensor]):
    """Write float32 tensors and a description of strings and whole numbers (u32), whole under the name or not at all.

    Raises: FileError when the folder is not there, is read-only or full; an older file of that name is then as it was.
    """
    head = struct.pack("<4sIQQ", MAGIC, VERSION, len(tensors), len(about) + 1)
    for key, value in {ARCHITECTURE: architecture, **about}.items():
        kind, packed = (_U32, struct.pack("<I", value)) if isinstance(value, int) else (_STRING, _text(value))
        head += _text(key) + struct.pack("<I", kind) + packed
    data = b""
    for name, tensor in tensors.items():
        axes = tuple(reversed(tensor.shape))
        head += _text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, _F32, len(data))
        data += _padded(tensor.detach().float().cpu().contiguous().numpy().astype("<f4").tobytes())
    with (
        disk_errors(str(path), lambda: "choose a folder that is there and has room."),
        written(Path(path), replace=True) as file,
    ):
        file.write(_padded(head) + data)


def read_gguf(path: str | Path, architecture: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of a GGUF file of this architecture, whose tensors are float32. Arrays come as None.

    Nothing in the file is believed: memory stays within the size of the file, which is not read where it is a model's.
    Raises: FileError for a file that is not there, is no GGUF, is of another kind or version, is cut off or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"there is no file {str(path)!r}.")
    with path.open("rb") as file:
        head = _Head(str(path), file.read(LARGEST_HEAD), path.stat().st_size)
        n_tensors, n_pairs = head.start()
        about = head.pairs(n_pairs, architecture)
        places = head.tensors(n_tensors)
        start = head.data_start(about)
        tensors: dict[str, Tensor] = {}
        left = head.size - start
        for name, (axes, offset) in places.items():
            count = 4 * int(np.prod(axes, dtype=object))
            left -= count  # tensors over one another would give more than the file has
            if offset + count > head.size - start or left < 0:
                raise head.damaged(f"{name!r} would reach past the end of the file")
            file.seek(start + offset)
            values = np.frombuffer(file.read(count), "<f4")
            if values.nbytes != count:
                raise head.damaged(f"{name!r} could not be read whole")
            tensors[name] = torch.from_numpy(values.astype(np.float32).reshape(axes))
    return about, tensors


class _Head:
    """The bytes before the data, read from front to back; every length is checked against what is there."""

    def __init__(self, path: str, data: bytes, size: int) -> None:
        self.path, self.data, self.size, self.at = path, data, size, 0

    def damaged(self, what: str) -> FileError:
        return FileError(f"{self.path!r} is damaged: {what}.\n  write or download it again.")

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            if self.size > len(self.data):
                raise self.damaged(f"its description is longer than {LARGEST_HEAD >> 20} MB")
            raise self.damaged(f"it is cut off after {self.size:,} bytes")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        try:
            return self.take(self.number("<Q")).decode()
        except UnicodeDecodeError as error:
            raise self.damaged("a name in it is no text") from error

    def start(self) -> tuple[int, int]:
        """Numbers of tensors and of pairs."""
        if self.data[:4] != MAGIC:
            raise FileError(f"{self.path!r} is no GGUF file: it starts with {self.data[:4]!r}, not {MAGIC!r}.")
        self.at = 4
        version = self.number("<I")
        if version not in (2, VERSION):
            swapped = int.from_bytes(struct.pack(">I", version), "little") in (2, VERSION)
            what = "of a big-endian machine" if swapped else f"of version {version}"
            raise FileError(f"{self.path!r} is a GGUF file {what}; little-endian files of versions 2 and 3 are read.")
        return self.number("<Q"), self.number("<Q")

    def pairs(self, count: int, architecture: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):  # ends with the file at the latest: every pair takes bytes
            key = self.text()
            if key in found:
                raise self.damaged(f"{key!r} is described twice")
            found[key] = self.value(self.number("<I"))
            if key == ARCHITECTURE and found[key] != architecture:
                raise FileError(
                    f"{self.path!r} is a GGUF file of kind {found[key]!r}, not a {architecture}.\n"
                    "  a model in GGUF format is opened with ins.open(path)."
                )
        if ARCHITECTURE not in found:
            raise FileError(
                f"{self.path!r} does not say what it is: {ARCHITECTURE} is missing; {architecture} belongs there."
            )
        return found

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY or depth > 3:
            raise self.damaged(f"a value of unknown type {kind}")
        inner, count = self.number("<I"), self.number("<Q")
        if inner in _NUMBERS:
            self.take(count * struct.calcsize(_NUMBERS[inner]))
        else:
            for _ in range(count):
                self.value(inner, depth + 1)
        return None

    def tensors(self, count: int) -> dict[str, tuple[tuple[int, ...], int]]:
        """By name: axes, slowest first, and where the data begins."""
        found: dict[str, tuple[tuple[int, ...], int]] = {}
        for _ in range(count):
            name, n_axes = self.text(), self.number("<I")
            if name in found:
                raise self.damaged(f"there are two tensors {name!r}")
            if not 1 <= n_axes <= 4:
                raise self.damaged(f"{name!r} has {n_axes} axes")
            axes = tuple(self.number("<Q") for _ in range(n_axes))
            kind, offset = self.number("<I"), self.number("<Q")
            if kind != _F32:
                raise FileError(
                    f"{self.path!r} holds {name!r} as GGUF type {kind}; only float32 (type {_F32}) is read."
                )
            found[name] = (tuple(reversed(axes)), offset)
        return found

    def data_start(self, about: Mapping[str, Any]) -> int:
        step = about.get("general.alignment", ALIGNMENT)
        if type(step) is not int or step <= 0 or step & (step - 1) or step > LARGEST_HEAD:
            raise self.damaged(f"{step!r} is no alignment")
        return -(-self.at // step) * step


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
