"""Data to record from, in one shape: numbered samples that can be had again by number.

A list, a file of text (one sample a line) or JSON lines (a field each), a Hugging Face dataset, a folder of images, or
any iterable with a length. A sample's number is its place in the data, and stays the same when a job is resumed.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from inscape.core.errors import FileError, InputError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
Sample = tuple[Any, dict[str, Any]]
FIELDS = ("text", "prompt", "content", "messages", "image")


@dataclass(frozen=True, eq=False)
class Data:
    """Samples by number. get: (start, stop) -> [(what the model reads, what is remembered: text or path, labels)].

    fingerprint: changes when the data do.
    """

    n: int
    get: Callable[[int, int], list[Sample]]
    fingerprint: str
    name: str = ""


def data_of(source: Any, field: str | None = None) -> Data:
    """Data from whatever holds samples.

    field: of each record, for JSON lines and datasets; the first of text, prompt, content, messages, image if left out.
    Raises: InputError for what has no length, FileError for files that cannot be read.
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
    if hasattr(source, "column_names") and hasattr(source, "features") and hasattr(source, "__len__"):
        return _dataset(source, field)
    if isinstance(source, Mapping):
        raise InputError(
            f"the data are a {type(source).__name__} of {', '.join(map(str, source))[:80]}: give one of them."
        )
    if not hasattr(source, "__len__"):
        raise InputError(
            f"the data are a {type(source).__name__} without a length, so a stopped job could not go on where it was.\n"
            "  give a list, or an object with __len__ and __getitem__ (or __iter__ in a fixed order)."
        )
    if not len(source):
        raise InputError("the data are empty.")
    if hasattr(source, "__getitem__"):
        return _sequence(source, field)
    return _iterable(source, field)


def _sequence(source: Sequence[Any], field: str | None) -> Data:
    pick = _picker(source[0], field)
    digest = hashlib.sha256()
    for i in range(len(source)):
        _update(digest, pick(source[i])[0])
    name = type(source).__name__
    return Data(len(source), lambda a, b: [pick(source[i]) for i in range(a, b)], digest.hexdigest()[:16], name)


def _iterable(source: Any, field: str | None) -> Data:
    first = next(iter(source))
    pick = _picker(first, field)
    digest = hashlib.sha256()
    for item in islice(iter(source), 64):
        _update(digest, pick(item)[0])
    at: list[Any] = [0, iter(source)]

    def get(start: int, stop: int) -> list[Sample]:
        if start < at[0]:
            at[:] = [0, iter(source)]
        found = [pick(x) for x in islice(at[1], start - at[0], stop - at[0])]
        at[0] = stop
        return found

    return Data(len(source), get, f"{len(source)}-{digest.hexdigest()[:16]}", type(source).__name__)


def _dataset(source: Any, field: str | None) -> Data:
    names = list(source.column_names)
    chosen = field or next((f for f in FIELDS if f in names), None)
    if chosen is None or chosen not in names:
        raise InputError(f"the dataset has no column {field or FIELDS!r}; there are {', '.join(names)}: pass field=.")

    def get(start: int, stop: int) -> list[Sample]:
        rows = source[start:stop]
        records = [{n: rows[n][i] for n in names} for i in range(len(rows[chosen]))]
        return [(r[chosen], _kept(r, r[chosen], chosen)) for r in records]

    name = getattr(source, "_fingerprint", "") or str(len(source))
    return Data(len(source), get, f"{name}-{chosen}", "dataset")


def _lines(path: Path, field: str | None) -> Data:
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

    def get(start: int, stop: int) -> list[Sample]:
        found = []
        with open(path, "rb") as file:
            for number in range(start, stop):
                file.seek(offsets[number])
                line = file.readline().decode("utf-8", "replace").rstrip("\r\n")
                found.append(_of_json(line, path, number, field) if is_json else (line, {"text": line}))
        return found

    return Data(len(offsets), get, digest.hexdigest()[:16] + (f"-{field}" if is_json and field else ""), path.name)


def _of_json(line: str, path: Path, number: int, field: str | None) -> Sample:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise FileError(f"{path}, sample {number}: not JSON ({error}).") from None
    return _picker(record, field)(record)


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


def _picker(first: Any, field: str | None) -> Callable[[Any], Sample]:
    """From a record to what the model reads: texts, chats and tensors are it already."""
    if not isinstance(first, dict) or "input_ids" in first or "role" in first or "pixel_values" in first:
        return lambda x: (x, {"text": x} if isinstance(x, str) else {})
    chosen = field or next((f for f in FIELDS if f in first), None)
    if chosen is None or chosen not in first:
        raise InputError(
            f"a record has the fields {', '.join(map(str, first))}: say which one holds the text with field=."
        )
    return lambda x: (x[chosen], _kept(x, x[chosen], chosen))


def _kept(record: dict[str, Any], value: Any, chosen: str) -> dict[str, Any]:
    """The text and whatever else of a record is a plain value: labels, names, numbers."""
    reserved = ("sample", "tokens", "text", chosen)
    plain = {k: v for k, v in record.items() if k not in reserved and isinstance(v, (str, int, float, bool))}
    return ({"text": value} if isinstance(value, str) else {}) | plain


def _update(digest: Any, sample: Any) -> None:
    if isinstance(sample, str):
        digest.update(sample.encode("utf-8", "surrogatepass") + b"\0")
    elif hasattr(sample, "numpy"):
        digest.update(sample.detach().cpu().numpy().tobytes())
    elif hasattr(sample, "tobytes"):
        digest.update(sample.tobytes())
    elif isinstance(sample, Mapping):
        for key in sorted(sample, key=str):
            digest.update(f"{key}=".encode())
            _update(digest, sample[key])
    elif isinstance(sample, (list, tuple)) and not all(isinstance(x, int) for x in sample):
        for item in sample:
            _update(digest, item)
    else:
        digest.update(repr(sample).encode() + b"\0")
