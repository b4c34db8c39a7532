"""Statistics on disk: `stats/<column>.<kind>.safetensors`, each saying of which rows it is.

The rows are named by their shards' checksums and work units, so that a file is never taken for statistics of other
rows: not after more was recorded, not after a shard was lost and recorded again.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote

import torch
from pydantic import Field, ValidationError
from safetensors.torch import save
from torch import Tensor

from inscape.core.durable import disk_errors, written
from inscape.core.errors import FileError, InscapeError
from inscape.core.tensor_file import read_tensors
from inscape.store.manifest import Segment
from inscape.store.schema import Listed, Strict
from inscape.store.statistics.contract import Statistic
from inscape.store.statistics.one_pass import Key, columns_of

FOLDER = "stats"
VERSION = 1
LONGEST = 120  # bytes of a name; longer ones are cut and told apart by a digest
Covered = frozenset[tuple[str, int]]  # (checksum of a shard, work unit in it)
UNITS = 1 << 26  # work units a file may name; a small file could else ask for any amount of memory
Whole = Annotated[int, Field(ge=0, lt=2**31)]
Number = Annotated[int, Field(ge=-(2**100), le=2**100)]
S = TypeVar("S", bound=Statistic)


class About(Strict):
    """The header of a statistics file. units: {checksum of a shard: [first, last] of the work units in it, in runs}."""

    kind: Literal["statistics"] = "statistics"
    version: Literal[1] = VERSION
    columns: tuple[str, ...]
    statistic: str
    settings: dict[str, Number]
    units: dict[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], tuple[tuple[Whole, Whole], ...]]
    sha256: str


@dataclass(frozen=True, eq=False)
class Saved:
    """A statistic read from a file, and the rows it is of."""

    statistic: Any
    covered: Covered
    path: Path


def covered_by(segments: Iterable[Segment]) -> Covered:
    """The rows of segments, as a file names them."""
    return frozenset((s.listed.sha256, s.unit) for s in segments)


def covered_in(listed: Listed) -> Covered:
    """All rows of one shard."""
    return frozenset((listed.sha256, unit) for unit, _, _ in listed.units)


def path_of(store: Path, at: Key, kind: str, writer: str = "") -> Path:
    """Where a statistic of these columns lies; `writer` for the part that one writer took while recording."""
    name = "+".join(_short(quote(c, safe="")) for c in columns_of(at)) + f".{kind}"
    return store / FOLDER / f"{name}{f'@{writer}' if writer else ''}.safetensors"


def parts_of(store: Path, at: Key, kind: str) -> list[Path]:
    """Files of writers for this statistic."""
    path = path_of(store, at, kind)
    start = path.name.removesuffix(".safetensors") + "@"
    found = path.parent.glob("*.safetensors") if path.parent.is_dir() else ()
    return sorted(p for p in found if p.name.startswith(start))


def save_statistic(path: Path, at: Key, statistic: Statistic, covered: Covered) -> None:
    """Write a statistic with the rows it is of: whole under its name, or not at all. Raises FileError."""
    tensors, settings = statistic.state()
    tensors = {name: x.cpu().contiguous() for name, x in tensors.items()}
    about = About(
        columns=columns_of(at), statistic=statistic.kind, settings=dict(settings), units=_runs(covered),
        sha256=_digest(tensors),
    )  # fmt: skip
    data = save(tensors, metadata={"inscape": about.model_dump_json()})
    with disk_errors(f"statistics in {path.parent}", lambda: "pass save=False to have them without a file."):
        path.parent.mkdir(exist_ok=True)
        with written(path, replace=True) as file:
            file.write(data)


def load_statistic(path: Path, at: Key, like: S) -> Saved:
    """Read what `save_statistic` wrote. Raises FileError for damage, another version, other columns or settings."""
    advice = "delete it: it is made again from the rows."
    try:
        tensors, raw = read_tensors(path, "statistics", VERSION)
        about = About.model_validate_json(json.dumps(raw))
        if about.columns != columns_of(at) or about.statistic != like.kind:
            said = f"{about.statistic} of {', '.join(about.columns)}, not {like.kind} of {', '.join(columns_of(at))}"
            raise FileError(f"{path} holds {said}.")
        if about.sha256 != _digest(tensors):
            raise FileError(f"{path} is damaged: its numbers are not those that were written.")
        if sum(b - a + 1 for runs in about.units.values() for a, b in runs) > UNITS:
            raise FileError(f"{path} names more than {UNITS:,} work units.")
        made = type(like).from_state(tensors, about.settings)
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"]))
        raise FileError(f"{path} is no statistics file: {where}: {found['msg']}.\n  {advice}") from None
    except InscapeError as error:
        said = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise FileError(f"{said}\n  {advice}") from None
    except (OSError, TypeError) as error:
        raise FileError(f"{path} cannot be read: {error}.\n  {advice}") from None
    if made.kind != like.kind:
        raise FileError(f"{path} says it is {like.kind} and holds {made.kind}.\n  {advice}")
    units = ((sha, u) for sha, runs in about.units.items() for a, b in runs for u in range(a, b + 1))
    return Saved(made, frozenset(units), path)


def _runs(covered: Covered) -> dict[str, tuple[tuple[int, int], ...]]:
    by_shard: dict[str, list[list[int]]] = {}
    for sha, unit in sorted(covered):
        runs = by_shard.setdefault(sha, [])
        if runs and runs[-1][1] == unit - 1:
            runs[-1][1] = unit
        else:
            runs.append([unit, unit])
    return {sha: tuple((a, b) for a, b in runs) for sha, runs in by_shard.items()}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].contiguous()
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy().data if x.numel() else b"")
    return digest.hexdigest()


def _short(name: str) -> str:
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 17]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
