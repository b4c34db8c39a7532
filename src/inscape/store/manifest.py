"""The manifests are the truth: a shard without a line does not exist, and a work unit without one is not done."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from inscape.core.durable import append
from inscape.core.errors import FileError
from inscape.store.schema import NAME, Listed, parse_listed

FOLDER = "manifest"
SHARDS = "shards"


@dataclass(frozen=True)
class Segment:
    """Rows of one work unit in one shard: [start, stop)."""

    unit: int
    listed: Listed
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


def add_line(store: Path, writer: str, listed: Listed) -> None:
    """List a finished shard, durably. Raises OSError."""
    append(store / FOLDER / f"{writer}.jsonl", (listed.model_dump_json(exclude_defaults=True) + "\n").encode())


def lines(store: Path) -> Iterator[tuple[str, Listed]]:
    """Every (writer, line), writers by name. A torn last line is no line; any other that cannot be read is an error."""
    folder = store / FOLDER
    for path in sorted(folder.glob("[!.]*.jsonl")) if folder.is_dir() else ():
        if NAME.fullmatch(path.stem) is None:
            raise FileError(f"{path} is not named like a manifest of this store; take it out of the folder.")
        text = path.read_bytes()
        whole, _, _torn = text.rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
            try:
                decoded = line.decode()
            except UnicodeDecodeError:
                decoded = repr(line)
            yield path.stem, parse_listed(decoded, f"{path}, line {number}")


def segments(found: Sequence[Listed]) -> list[Segment]:
    """Every work unit once, in order. Two writers may both have done one (equal rows): the first listing counts."""
    first: dict[int, Segment] = {}
    for listed in found:
        for unit, start, stop in listed.units:
            first.setdefault(unit, Segment(unit, listed, start, stop))
    return [first[u] for u in sorted(first)]


def done_units(store: Path) -> dict[int, str]:
    """Work units that are listed by anybody, with the digest of their samples where one was kept."""
    found: dict[int, str] = {}
    for _, listed in lines(store):
        for i, (unit, _, _) in enumerate(listed.units):
            found.setdefault(unit, listed.digests[i] if listed.digests else "")
    return found


def torn(store: Path) -> list[Path]:
    """Manifests whose last line was cut by a kill."""
    folder = store / FOLDER
    return [p for p in sorted(folder.glob("[!.]*.jsonl")) if (t := p.read_bytes()) and not t.endswith(b"\n")]


def readable(line: bytes) -> bool:
    try:
        parse_listed(line.decode(), "")
    except (FileError, UnicodeDecodeError, json.JSONDecodeError):
        return False
    return True
