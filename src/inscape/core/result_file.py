"""A result as one JSON file: written by a run, refused when it is anything else.

The file holds the claims as they stood when it was written, so that a bound that moves afterwards is seen, and a
checksum over all of it, so that a number changed by hand is seen too.
"""

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inscape.core.drawing import Drawing
from inscape.core.durable import disk_errors, written
from inscape.core.errors import FileError, PaperError
from inscape.core.paper import Claim, Paper, Ran, Result

VERSION = 1
Name = Annotated[str, Field(min_length=1, max_length=300)]
Number = float | None  # JSON has no word for NaN and infinity
Row = list[Number]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClaimRecord(Strict):
    name: Name
    text: Name
    at_least: Number = None
    at_most: Number = None
    above: Number = None
    below: Number = None
    control: str = ""


class PaperRecord(Strict):
    name: Name
    title: Name
    authors: Name
    year: int
    link: Name
    claims: tuple[ClaimRecord, ...]
    control: Name
    code: str = ""


class RanRecord(Strict):
    date: Name
    packages: dict[str, str]
    python: Name
    machine: Name
    threads: Annotated[int, Field(ge=1)]
    commit: str
    seconds: Annotated[float, Field(ge=0)]
    quick: bool
    model: str
    settings: dict[str, Any]


class DrawingRecord(Strict):
    kind: Literal["lines", "bars", "dots", "heatmap"]
    show: tuple[str, ...]
    control: tuple[str, ...]
    band: dict[str, tuple[str, str]]
    x: tuple[str | float, ...]
    y: tuple[str | float, ...]
    x_title: str
    y_title: str
    scale: Literal["linear", "log", "symlog"]
    chance: Number
    title: str
    caption: str


class ResultRecord(Strict):
    """The file."""

    version: Literal[1] = VERSION
    paper: PaperRecord
    ran: RanRecord
    seed: int
    measured: dict[str, Number]
    intervals: dict[str, tuple[Number, Number]]
    controls: dict[str, Number]
    verdicts: dict[str, Literal["holds", "failed", "not supported", "not measured"]]
    also: dict[str, Number]
    notes: str
    series: dict[str, list[Number] | list[Row]]
    figure: DrawingRecord | None
    tables: dict[str, list[dict[str, str | int | float | bool | None]]]
    checksum: str


def save_result(path: str | Path, result: Result) -> None:
    """Write a result, whole or not at all; an older file of that name is replaced.

    Raises: PaperError for a result that no run made; FileError when the folder cannot be written.
    """
    if result.ran is None:
        raise PaperError(
            f"this result of {result.paper.name!r} does not say how it came about, so it is not written.\n"
            f"  run the recipe with recipes.catalogue.run, or inscape papers run {result.paper.name}."
        )
    document = {
        "version": VERSION,
        "paper": asdict(result.paper),
        "ran": asdict(result.ran),
        "seed": result.seed,
        "measured": result.measured,
        "intervals": result.intervals,
        "controls": result.controls,
        "verdicts": {verdict.claim.name: verdict.word for verdict in result.verdicts},
        "also": result.also,
        "notes": result.notes,
        "series": result.series,
        "figure": asdict(result.figure) if result.figure else None,
        "tables": result.tables,
        "checksum": "",
    }
    document = ResultRecord.model_validate(_plain(document)).model_dump(mode="json")
    text = json.dumps(document | {"checksum": checksum(document)}, indent=1, ensure_ascii=False, allow_nan=False)
    with (
        disk_errors(str(path), lambda: "choose a folder that is there and has room."),
        written(Path(path), replace=True) as file,
    ):
        file.write(f"{text}\n".encode())


def load_result(path: str | Path) -> Result:
    """The result in a file.

    Raises: FileError when there is no such file, or it is damaged, has fields that are not known, was changed by hand
    or was written by a newer inscape.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise FileError(f"there is no result in {path}: {error.strerror}.") from error
    except ValueError as error:
        raise FileError(f"{path} is damaged or is no result: {error}.\n  run the paper again.") from error
    if isinstance(document, dict) and isinstance(theirs := document.get("version"), int) and theirs > VERSION:
        raise FileError(f"{path} was written by a newer inscape (format {theirs}, known: {VERSION}).")
    try:
        record = ResultRecord.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FileError(
            f"{path} is damaged or is no result: {where}: {first['msg']}.\n  run the paper again."
        ) from error
    if checksum(document) != record.checksum:
        raise FileError(f"{path} was changed after it was written: its checksum differs.\n  run the paper again.")
    try:
        result = _result(record)
    except PaperError as error:
        raise FileError(f"{path} is damaged: {error}") from error
    if {v.claim.name: v.word for v in result.verdicts} != record.verdicts:
        raise FileError(f"{path} tells verdicts that its own numbers do not give.\n  run the paper again.")
    return result


def checksum(document: dict[str, Any]) -> str:
    """Of everything in the file but the checksum itself."""
    rest = {key: value for key, value in document.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _result(record: ResultRecord) -> Result:
    about = record.paper
    claims = tuple(Claim(**claim.model_dump()) for claim in about.claims)
    paper = Paper(**{**about.model_dump(), "claims": claims})
    return Result(
        paper,
        {name: _number(value) for name, value in record.measured.items()},
        controls={name: _number(value) for name, value in record.controls.items()},
        series=record.series,
        tables=record.tables,
        seed=record.seed,
        notes=record.notes,
        also={name: _number(value) for name, value in record.also.items()},
        figure=Drawing(**record.figure.model_dump()) if record.figure else None,
        intervals={name: (_number(low), _number(high)) for name, (low, high) in record.intervals.items()},
        ran=Ran(**record.ran.model_dump()),
    )


def _number(value: Number) -> float:
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    """Only what JSON has."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
