"""Statistics of a store that are read when they are there, extended when rows were added, computed when not.

For each statistic asked for:
1. Its file, and the parts that writers took while recording, are used when all their rows are listed now and no two
   hold the same rows. A file of rows that are gone, or a damaged one, counts as not there.
2. The rows that none of them holds are read, in one pass for all statistics that lack the same.
3. What was added to is written in place of the file, and parts that went into it are removed.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from inscape.core.errors import FileError, InputError
from inscape.core.progress import Progress, tell
from inscape.store.statistics.contract import Statistic
from inscape.store.statistics.files import Covered, covered_by, load_statistic, parts_of, path_of, save_statistic
from inscape.store.statistics.one_pass import Key, one_pass
from inscape.store.store import Store


@dataclass(eq=False)
class _Job:
    """One statistic on its way: filled so far, of which rows, from which files."""

    at: Key
    filled: Any
    covered: Covered
    parts: list[Path] = field(default_factory=list)
    missing: Covered = frozenset()


def statistics_of(
    store: Store, wanted: Mapping[Key, Any], *, save: bool = True, device: str | torch.device = "cpu",
    progress: Progress = None,
) -> dict[Key, Any]:  # fmt: skip
    """Statistics of all rows of a store; see `Store.statistics`."""
    there = covered_by(store.segments)
    jobs: dict[Key, list[_Job]] = {}
    for at, asked in wanted.items():
        jobs[at] = [_found(store, at, empty, there, progress) for empty in _several(at, asked)]
    lacking: dict[Covered, dict[Key, list[Any]]] = {}
    for job in (j for found in jobs.values() for j in found):
        if job.missing or not there:  # an empty store is passed over too: the columns are checked
            lacking.setdefault(job.missing, {}).setdefault(job.at, []).append(job.filled)
    for missing, columns in lacking.items():
        left = [s for s in store.segments if (s.listed.sha256, s.unit) in missing]
        one_pass(store, columns, segments=left, device=device, progress=progress)
    for job in (j for found in jobs.values() for j in found):
        if save and job.filled.n and (job.missing or job.parts):
            save_statistic(path_of(store.path, job.at, job.filled.kind), job.at, job.filled, there)
            for part in job.parts:
                with contextlib.suppress(OSError):  # another reader took it first
                    part.unlink()
    return {at: [j.filled for j in found] if _is_several(wanted[at]) else found[0].filled for at, found in jobs.items()}


def _several(at: Key, asked: Any) -> list[Statistic]:
    found = list(asked) if _is_several(asked) else [asked]
    filled = next((s for s in found if s.n), None)
    if filled is not None:
        raise InputError(f"the {filled.kind} asked for of {at!r} holds {filled.n:,} rows already: pass an empty one.")
    kinds = [s.kind for s in found]
    if len(set(kinds)) != len(kinds):
        raise InputError(f"two statistics of {at!r} are the same: {', '.join(kinds)}.")
    return found


def _is_several(asked: Any) -> bool:
    return isinstance(asked, Sequence)


def _found(store: Store, at: Key, empty: Statistic, there: Covered, progress: Progress) -> _Job:
    """What files hold of a statistic, merged."""
    job = _Job(at, empty.fresh(), frozenset())
    whole = path_of(store.path, at, empty.kind)
    for path in ([whole] if whole.exists() else []) + parts_of(store.path, at, empty.kind):
        try:
            saved = load_statistic(path, at, empty)
        except FileError as error:
            tell(progress, f"{str(error).splitlines()[0]} It is made again.")
            continue
        if saved.covered <= there and not saved.covered & job.covered:
            job.filled.merge(saved.statistic)
            job.covered |= saved.covered
            if path != whole:
                job.parts.append(path)
    job.missing = there - job.covered
    return job
