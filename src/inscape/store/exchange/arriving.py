"""What an import makes of foreign names and sizes: sites, columns, work units and a description."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from inscape.core.errors import FileError, SiteError
from inscape.models.fingerprint import tokenizer_fingerprint
from inscape.models.names import canonical
from inscape.store.schema import Column, Description

UNIT_BYTES = 8 << 20
INDICES = (
    Column(name="sample", dtype="int64"), Column(name="pos", dtype="int32"), Column(name="token", dtype="int32"),
)  # fmt: skip
UNKNOWN = "the model is not known: its fingerprint is left empty, and trace(model=...) cannot check it"
Names = Mapping[str, str] | None


def site_of(name: str, names: Names, model: Any) -> str:
    """Our name for a foreign column. Raises SiteError where it could mean two tensors, or none of this model."""
    if names is not None and name in names:
        return names[name]
    if model is None and name.endswith(("attn.hook_q", "attn.hook_k")):
        raise SiteError(
            f"{name} is our attn.{name[-1]} only on models without rotary embeddings.\n"
            f"  pass model=, which tells, or names={{{name!r}: ...}}."
        )
    try:
        site = canonical(name, model)
    except SiteError as error:
        raise SiteError(f"{error}\n  names={{{name!r}: 'a name'}} imports it under a name of yours.") from None
    if model is not None and site not in model.points:
        raise SiteError(
            f"{name!r} is no site of this model.\n  say which with names={{{name!r}: 'layers.0.resid_post'}}."
        )
    return site


def description(
    columns: Iterable[Column], n_samples: int, unit_samples: int, data: str, kind: str, *, model: Any = None,
    known: Description | None = None, notes: Sequence[str] = (),
) -> Description:  # fmt: skip
    """`store.json` of an import. known: what the file says of itself when it is an export of ours."""
    print_ = model.fingerprint if model is not None else known.model if known is not None else ""
    told = [*notes] if print_ else [*notes, UNKNOWN]
    try:
        return Description(
            columns=(*INDICES, *columns), model=print_, data=data, n_samples=n_samples, unit_samples=unit_samples,
            tokenizer=tokenizer_fingerprint(model.tokenizer) if model is not None else known.tokenizer if known else "",
            job=(dict(known.job) if known is not None else {}) | {"imported": kind, "notes": "; ".join(told)},
        )  # fmt: skip
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"]))
        raise FileError(f"what is imported makes no store: {where}: {found['msg']}.") from None


def described_in(text: str | bytes | None, where: str) -> Description | None:
    """The description that our exports carry along. Raises FileError when there is one that cannot be read."""
    if text is None:
        return None
    try:
        return Description.model_validate_json(text)
    except (ValidationError, ValueError):
        raise FileError(
            f"{where}: what it says of the store it was exported from is damaged.\n"
            "  take 'inscape' out of it to import the numbers alone."
        ) from None


def exported_json(about: Description) -> str:
    """The description as exports carry it."""
    return json.dumps(about.model_dump(mode="json"), separators=(",", ":"))


def unit_starts(numbers: Callable[[], Iterable[np.ndarray]], row_bytes: int, where: str) -> tuple[np.ndarray, int, int]:
    """First row of every work unit, how many samples there are, and how many make a unit, from the sample numbers.

    numbers: gives them in row order, twice: a pass to check them, a pass to count. Raises: FileError unless they
    count up.
    """
    last, rows = -1, 0
    for block in numbers():
        if len(block) and (int(block[0]) < max(last, 0) or bool((np.diff(block) < 0).any())):
            raise FileError(f"{where}: the rows of a sample do not lie together; sort by its column 'sample' first.")
        last, rows = int(block[-1]) if len(block) else last, rows + len(block)
    if last > 1_000_000 + 1000 * rows:  # a number that would only fill memory
        raise FileError(f"{where}: sample {last:,} in {rows:,} rows: its column 'sample' is damaged.")
    if not rows:
        raise FileError(f"{where} holds no rows.")
    size = unit_samples(row_bytes * rows // (last + 1))
    starts = np.zeros(-(-(last + 1) // size) + 1, np.int64)
    for block in numbers():
        if len(block):
            np.add.at(starts, block // size + 1, 1)
    return np.cumsum(starts), last + 1, size


def unit_samples(sample_bytes: int) -> int:
    """Samples a work unit, so that one is some megabytes."""
    return max(1, min(4096, UNIT_BYTES // max(1, sample_bytes)))


def fingerprint_of(paths: Sequence[Path]) -> str:
    """Changes when the files do: their names, sizes, and first and last 64 KB."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with open(path, "rb") as file:
                digest.update(file.read(1 << 16))
                file.seek(max(0, size - (1 << 16)))
                digest.update(file.read(1 << 16))
        except OSError as error:
            raise FileError(f"{path} cannot be read: {error.strerror}.") from None
    return digest.hexdigest()[:16]
