"""Data to record from, in one shape: numbered samples that can be had again by number.

A list, a file of text (one sample a line) or JSON lines (a field each), a Hugging Face dataset, a folder of images, or
anything that can be gone through again from its start. A sample's number is its place in the data, and stays the same
when a job is resumed.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inscape.core.errors import FileError, InputError
from inscape.store.fields import Field, Sample, digest_into, picker
from inscape.store.passing import Passing

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class Data:
    """Samples by number. get: (start, stop) -> [(what the model reads, what is remembered: text or path, labels)].

    n: how many; None while nobody has gone through them: then `get` gives fewer than asked at the end. fingerprint:
    changes when the data do. digest: a checksum of some samples, where data are only known as they pass; it is kept
    with every work unit, so that a resumed job sees whether these are the same data.
    """

    n: int | None
    get: Callable[[int, int], list[Sample]]
    fingerprint: str
    name: str = ""
    digest: Callable[[Sequence[Sample]], str] | None = None


def data_of(source: Any, field: Field = None) -> Data:
    """Data from whatever holds samples.

    field: of each record, for JSON lines and datasets; the first of text, prompt, content, messages, image if left out.
    Raises: InputError for what can be gone through only once, FileError for files that cannot be read.
    """
    if isinstance(source, Data):
        return source
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if path.is_dir():
            return _folder(path)
        if path.suffix in (".jsonl", ".ndjson", ".txt", ".text") or path.is_file():
            return _lines(path, field)
        raise InputError(
            f"{str(source)[:80]!r} is no file or folder to record from.\n"
            "  give texts as a list, a .txt or .jsonl file, a folder of images, or a dataset."
        )
    if isinstance(source, Mapping):
        raise InputError(
            f"the data are a {type(source).__name__} of {', '.join(map(str, source))[:80]}: give one of them."
        )
    if hasattr(source, "__len__"):
        if not len(source):
            raise InputError("the data are empty.")
        if hasattr(source, "column_names") and hasattr(source, "features"):
            return _dataset(source, field)
        if hasattr(source, "__getitem__"):
            return _sequence(source, field)
    return _passing(source, field)


def _sequence(source: Sequence[Any], field: Field) -> Data:
    pick = picker(source[0], field)
    digest = hashlib.sha256()
    for i in range(len(source)):
        digest_into(digest, pick(source[i])[0])
    name = type(source).__name__
    return Data(len(source), lambda a, b: [pick(source[i]) for i in range(a, b)], digest.hexdigest()[:16], name)


def _passing(source: Any, field: Field) -> Data:
    passing = Passing(source, field)
    return Data(passing.n, passing.get, "as it passes", type(source).__name__, passing.digest)


def _dataset(source: Any, field: Field) -> Data:
    pick = picker(source[0], field)

    def get(start: int, stop: int) -> list[Sample]:
        columns = source[start:stop]
        return [pick(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]

    name = getattr(source, "_fingerprint", "") or str(len(source))
    return Data(len(source), get, f"{name}-{_said(field)}".rstrip("-"), "dataset")


def _lines(path: Path, field: Field) -> Data:
    """Lines by byte offset, so that any of them can be had without reading those before."""
    digest, offsets, at = hashlib.sha256(), [], 0
    try:
        with open(path, "rb") as file:
            for line in file:
                if b"\0" in line:
                    raise InputError(f"{path} is no text: give .txt, .jsonl, a folder of images, or a dataset.")
                if line.strip():
                    offsets.append(at)
                at += len(line)
                digest.update(line)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}.") from None
    if not offsets:
        raise InputError(f"{path} holds no line of text.")
    is_json = path.suffix in (".jsonl", ".ndjson")

    def records(start: int, stop: int) -> Iterator[Any]:
        with open(path, "rb") as file:
            for number in range(start, stop):
                file.seek(offsets[number])
                line = file.readline().decode("utf-8", "replace").rstrip("\r\n")
                try:
                    yield json.loads(line) if is_json else line
                except ValueError as error:
                    raise FileError(f"{path}, sample {number}: not JSON ({error}).") from None

    pick = picker(next(records(0, 1)), field)

    def get(start: int, stop: int) -> list[Sample]:
        return [pick(record) for record in records(start, stop)]

    said = f"-{_said(field)}" if is_json and field else ""
    return Data(len(offsets), get, digest.hexdigest()[:16] + said, path.name)


def _folder(path: Path) -> Data:
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES)
    if not files:
        raise InputError(f"{path} holds no image ({', '.join(IMAGES)}).")
    digest = hashlib.sha256()
    for p in files:
        digest.update(f"{p.relative_to(path)} {p.stat().st_size}\n".encode())

    def get(start: int, stop: int) -> list[Sample]:
        from PIL import Image

        found = []
        for p in files[start:stop]:
            try:
                with Image.open(p) as image:
                    loaded = image.convert("RGB")
            except OSError as error:
                raise FileError(f"{p} is no image that can be read: {error}.") from None
            name = str(p.relative_to(path))
            label = str(Path(name).parent)
            found.append((loaded, {"path": name, "label": None if label == "." else label}))
        return found

    return Data(len(files), get, digest.hexdigest()[:16], path.name)


def _said(field: Field) -> str:
    return "" if field is None else field if isinstance(field, str) else "+".join(field)
