"""What a store says of itself: `store.json`, the lines of the manifests, and nothing else.

`docs/format.md` is the specification. Everything that is read from disk goes through these models: unknown fields,
wrong types, paths that leave the folder and impossible numbers are refused before anything is opened.
"""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from inscape.core.errors import FileError

VERSION = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # of writers; shards are NAME-000017.safetensors
SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}-\d{6,9}\.safetensors")
DTYPES = {  # safetensors' name of each type that a column may have, and its bytes
    "float64": ("F64", 8), "float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2),
    "int64": ("I64", 8), "int32": ("I32", 4), "int16": ("I16", 2), "int8": ("I8", 1), "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
}  # fmt: skip

Count = Annotated[int, Field(ge=0, le=2**62)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Column(Strict):
    """One named value of every row: a site's activation, or an index such as "sample".

    shape: of one row. site, keep: where it was read and what was made of it, empty for indices. scaled_by: the column
    of factors that rows are multiplied with on reading, where they did not fit their type.
    """

    name: Annotated[str, Field(min_length=1, max_length=300)]
    dtype: str
    shape: tuple[Annotated[int, Field(ge=1, le=2**40)], ...] = ()
    site: str = ""
    keep: str = ""
    scaled_by: str = ""

    @field_validator("dtype")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in DTYPES:
            raise ValueError(f"unknown dtype {value!r}; there are {', '.join(DTYPES)}")
        return value

    @property
    def row_bytes(self) -> int:
        size = DTYPES[self.dtype][1]
        for n in self.shape:
            size *= n
        return size


class Description(Strict):
    """`store.json`: what the rows are, and of which model and data. Two writers of one folder must agree on all of it.

    job: settings that decide which rows there are and how they were computed (token budget, reduction, lengths).
    n_samples: None while data that pass by have not come to their end.
    """

    version: Literal[1] = VERSION
    columns: tuple[Column, ...]
    model: str = ""
    tokenizer: str = ""
    data: str = ""
    n_samples: Count | None = 0
    unit_samples: Annotated[int, Field(ge=1, le=2**40)] = 1
    job: dict[str, str | int | float | bool | None] = Field(default_factory=dict)

    @field_validator("columns")
    @classmethod
    def _distinct(cls, value: tuple[Column, ...]) -> tuple[Column, ...]:
        names = [c.name for c in value]
        if len(set(names)) != len(names):
            raise ValueError("two columns share a name")
        return value

    def column(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)

    @property
    def row_bytes(self) -> int:
        return sum(c.row_bytes for c in self.columns)

    @property
    def n_units(self) -> int | None:
        """Work units in all; None while nobody knows."""
        return None if self.n_samples is None else -(-self.n_samples // self.unit_samples)

    def is_complete(self, done: int) -> bool:
        """Are so many work units all of them?"""
        return done == self.n_units

    def missing(self, done: Collection[int]) -> list[int]:
        """Work units that are not among these; of those before the last one while the end is not known."""
        n = self.n_units if self.n_units is not None else max(done, default=-1) + 1
        return [u for u in range(n) if u not in done]


class Listed(Strict):
    """One line of a manifest: a finished shard. units: (work unit, first row, end row) inside it, in row order.

    digests: of each unit's samples, where the data are known only as they pass.
    """

    shard: str
    rows: Count
    bytes: Count
    data: Annotated[int, Field(ge=8, le=2**32)]  # where the tensors begin in the file
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    units: tuple[tuple[Count, Count, Count], ...]
    digests: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")], ...] = ()

    @field_validator("shard")
    @classmethod
    def _inside(cls, value: str) -> str:
        if not SHARD.fullmatch(value):
            raise ValueError(f"{value!r} is no name of a shard in this folder")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Listed":
        at = 0
        for _, start, stop in self.units:
            if start != at or stop < start:
                raise ValueError("the rows of its units do not follow one another")
            at = stop
        if at != self.rows:
            raise ValueError(f"its units have {at} rows, the shard {self.rows}")
        if len({unit for unit, _, _ in self.units}) != len(self.units):
            raise ValueError("it lists a work unit twice")
        if self.digests and len(self.digests) != len(self.units):
            raise ValueError(f"it has {len(self.digests)} digests of {len(self.units)} work units")
        return self


def parse_description(path: Path) -> Description:
    """The description of a store. Raises FileError for a missing, damaged or newer one."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise FileError(
            f"{path.parent} is no activation store: {path.name} cannot be read ({error.strerror})."
        ) from None
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise FileError(f"{path} is damaged: {error}.\n  it is written once, whole; restore it from a copy.") from None
    if isinstance(raw, dict) and isinstance(raw.get("version"), int) and raw["version"] > VERSION:
        raise FileError(f"{path} has format version {raw['version']}; this inscape reads {VERSION}. Upgrade inscape.")
    try:
        return Description.model_validate_json(text)
    except ValidationError as error:
        raise FileError(f"{path} does not describe a store: {_first(error)}.") from None


def parse_listed(line: str, where: str) -> Listed:
    """One manifest line. Raises FileError when it is not one."""
    try:
        return Listed.model_validate_json(line)
    except ValidationError as error:
        raise FileError(
            f"{where}: {_first(error)}.\n  `inscape store repair` drops lines that cannot be read."
        ) from None


def differences(here: Description, there: Description) -> list[str]:
    """What two descriptions disagree on, a line each: 'dtype: float16 in the store, bfloat16 asked for'.

    The end of data that pass by may be known to one of them alone.
    """
    unsaid = {"n_samples"} if None in (here.n_samples, there.n_samples) else set()
    a, b = (_flat(x.model_dump(mode="json", exclude=unsaid)) for x in (here, there))
    return [
        f"{key}: {a.get(key, 'nothing')} in the store, {b.get(key, 'nothing')} asked for"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}{key}.").items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {
            k: v for i, inner in enumerate(value) for k, v in _flat(inner, f"{prefix}{inner.get('name', i)}.").items()
        }
    return {prefix.removesuffix("."): value}


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    where = ".".join(str(p) for p in found["loc"])
    return f"{where}: {found['msg']}" if where else str(found["msg"])
