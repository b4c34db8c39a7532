"""Looking after a store: is every shard what its line says, and taking out what is not."""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from inscape.core.durable import TEMPORARY, disk_errors, sha256_of, sync, written
from inscape.core.errors import FileError
from inscape.core.progress import Progress, tell
from inscape.store import check_samples
from inscape.store.claim import DESCRIPTION
from inscape.store.manifest import FOLDER, SHARDS, done_units, readable, torn
from inscape.store.sample_table import finish
from inscape.store.samples import TABLE
from inscape.store.schema import Listed, parse_description, parse_listed
from inscape.store.shard import check_header


@dataclass(frozen=True)
class Checked:
    """What was found in a store's folder.

    good: shards that are what their line says. bad: shard, or the table of samples -> what is wrong with it. unlisted:
    files in shards/ that no line names: left by a kill, or a writer at work. torn: manifests whose last line was cut.
    unreadable: (manifest or list of samples, line number, why). twice: work units that two writers did; the first
    listing counts. missing: work units that are not listed.
    """

    good: tuple[str, ...] = ()
    bad: dict[str, str] = field(default_factory=dict)
    unlisted: tuple[str, ...] = ()
    torn: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, int, str], ...] = ()
    twice: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Nothing listed is wrong (work units may be missing: run the record again)."""
        return not self.bad and not self.unreadable

    def __str__(self) -> str:
        lines = [f"{len(self.good):,} shards are what their lines say"]
        lines += [f"BAD {name}: {why}" for name, why in self.bad.items()]
        lines += [f"UNREADABLE {path}, line {n}: {why}" for path, n, why in self.unreadable]
        if self.torn:
            lines.append(f"{len(self.torn)} manifests end in a cut line, which counts as not written")
        if self.unlisted:
            lines.append(f"{len(self.unlisted):,} files are not listed: left by a kill, or of a writer at work")
        if self.twice:
            lines.append(f"{len(self.twice):,} work units were done twice; the first listing counts")
        if self.missing:
            lines.append(f"{len(self.missing):,} work units are not recorded: run the same record again")
        return "\n".join(lines)


def verify(path: str | Path, *, contents: bool = True, progress: Progress = None) -> Checked:
    """Compare every listed shard with its line: size, header and, with `contents`, checksum. Changes nothing.

    What is remembered of samples is looked at with `contents`: are the lines samples, and the table all of them?
    Cost: with contents every byte is read once (about 1 GB/s); without, one small read a shard.
    Raises: FileError when the folder is no store.
    """
    folder = Path(path).expanduser()
    about = parse_description(folder / DESCRIPTION)
    found, unreadable = _lines(folder)
    good: list[str] = []
    bad: dict[str, str] = {}
    done = 0
    total = sum(listed.bytes for listed in found) or 1
    for listed in found:
        file = folder / SHARDS / listed.shard
        try:
            check_header(file, about.columns, listed)
            if contents and sha256_of(file) != listed.sha256:
                raise FileError("its checksum is not the one it was written with")
            good.append(listed.shard)
        except FileError as error:
            bad[listed.shard] = str(error).splitlines()[0]
        done += listed.bytes
        tell(progress, f"checked {listed.shard}", done / total)
    if contents:
        unreadable += check_samples.unreadable(folder, about.n_samples)
        damage = check_samples.damage_of_table(folder, about.n_samples)
        bad |= {TABLE: damage} if damage else {}
    counts: dict[int, int] = {}
    for listed in found:
        for unit, _, _ in listed.units:
            counts[unit] = counts.get(unit, 0) + 1
    on_disk = {p.name for p in (folder / SHARDS).iterdir()} if (folder / SHARDS).is_dir() else set()
    return Checked(
        tuple(good), bad, tuple(sorted(on_disk - {listed.shard for listed in found})),
        tuple(p.name for p in torn(folder)), tuple(unreadable), tuple(u for u, n in sorted(counts.items()) if n > 1),
        tuple(about.missing(counts)),
    )  # fmt: skip


def repair(path: str | Path, *, progress: Progress = None) -> Checked:
    """Take out of a store what is damaged, so that the next `record` makes it again; gives what was found.

    Lines that cannot be read, cut last lines and lines of bad shards are dropped (each file is rewritten whole,
    atomically); bad and unlisted shard files, a bad table of samples and temporary files are deleted. The table is made
    again of its lines, at once if they are all there; rows are kept where only the line about their sample is lost,
    and the next `record` writes it again without running anything. Only when no writer is at work: its unlisted shard
    would be deleted too. Raises: FileError when the folder is no store or cannot be written to.
    """
    folder = Path(path).expanduser()
    found, about = verify(folder, progress=progress), parse_description(folder / DESCRIPTION)
    with disk_errors(
        f"the store {folder}", lambda: "nothing that is listed was lost; make it writable and run repair again."
    ):
        for manifest in sorted((folder / FOLDER).glob("[!.]*.jsonl")):
            text = manifest.read_bytes()
            kept = [line for line in text.split(b"\n") if line and _keeps(line, found)]
            new = b"".join(line + b"\n" for line in kept)
            if new != text:
                with written(manifest, replace=True) as file:
                    file.write(new)
        for name in (*found.bad, *found.unlisted):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(folder / name if name == TABLE else folder / SHARDS / name)
        check_samples.drop(folder, about.n_samples)
        for inner in ("", FOLDER, SHARDS, "samples"):
            for file in (folder / inner).glob(f"{TEMPORARY}*"):
                file.unlink(missing_ok=True)
        sync(folder / SHARDS)
    if about.is_complete(len(done_units(folder))) and about.n_samples:
        finish(folder, about.n_samples)
    return found


def _lines(folder: Path) -> tuple[list[Listed], list[tuple[str, int, str]]]:
    found: list[Listed] = []
    unreadable: list[tuple[str, int, str]] = []
    for manifest in sorted((folder / FOLDER).glob("[!.]*.jsonl")) if (folder / FOLDER).is_dir() else ():
        whole, _, _cut = manifest.read_bytes().rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
            try:
                found.append(parse_listed(line.decode(), "line"))
            except (FileError, UnicodeDecodeError) as error:
                unreadable.append((manifest.name, number, str(error).splitlines()[0]))
    return found, unreadable


def _keeps(line: bytes, found: Checked) -> bool:
    return readable(line) and parse_listed(line.decode(), "line").shard not in found.bad
