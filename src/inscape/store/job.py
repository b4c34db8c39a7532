"""A record that is ready to run, and one writer of it: work units in, listed shards out."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inscape.core.costs import peak_bytes
from inscape.core.progress import Progress, tell
from inscape.store import manifest
from inscape.store.claim import DESCRIPTION
from inscape.store.data import Data
from inscape.store.fields import Sample
from inscape.store.harvest import Harvest
from inscape.store.outcome import keep_outcome
from inscape.store.sample_table import finish
from inscape.store.schema import Description, parse_description
from inscape.store.shard import no_rows
from inscape.store.statistics.watch import Watch
from inscape.store.work import work
from inscape.store.writer import SHARD_BYTES, Unit, Writer

TEXTS = ("text", "decoder_text")


@dataclass(frozen=True, eq=False)
class Job:
    """A record that is ready to run: how rows are made, of which data, into which folder, described how."""

    harvest: Harvest
    data: Data
    to: Path
    about: Description
    keep_text: bool = True
    shard_bytes: int = SHARD_BYTES
    statistics: Mapping[Any, Sequence[Any]] = field(default_factory=dict)

    @property
    def is_one_row(self) -> bool:
        """Is each sample one row?"""
        return self.harvest.reduce in ("mean", "last", "first") or isinstance(self.harvest.reduce, int)

    def watch(self, writer: str) -> Watch | None:
        """The statistics that one writer takes on the way."""
        if not self.statistics:
            return None
        wanted = {at: [statistic.fresh() for statistic in several] for at, several in self.statistics.items()}
        return Watch(self.to, writer, self.about.columns, wanted)

    def unit(self, number: int, found: Sequence[Sample]) -> Unit:
        """Compute one work unit from its samples."""
        start = number * self.about.unit_samples
        values, read = self.harvest.unit(start, [value for value, _ in found])
        kept = self._kept(start, found, read)
        columns = {c.name: values[c.name] for c in self.about.columns} if values else no_rows(self.about.columns)
        digest = self.data.digest(found) if self.data.digest is not None else ""
        return Unit(number, len(columns["sample"]), columns, kept, digest)

    def sample(self, number: int) -> dict[str, Any]:
        """What is kept of one sample besides its rows, without running anything."""
        found = self.data.get(number, number + 1)
        return self._kept(number, found, self.harvest.told([value for value, _ in found]))[0]

    def _kept(self, start: int, found: Sequence[Sample], read: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {"sample": start + i, "tokens": about["tokens"]}
            | {name: x for name, x in (remembered | about).items() if self.keep_text or name not in TEXTS}
            for i, ((_, remembered), about) in enumerate(zip(found, read, strict=True))
        ]


class Recorder:
    """One writer of a job, in a `with`: `put` computes a work unit and hands it to the thread that writes.

    Leaving it, with an error or without, writes what is whole; without one it keeps what the work has cost.
    """

    def __init__(self, job: Job, worker: int = 0, plan: Any = None) -> None:
        self.job, self.plan, self.units, self.rows = job, plan, 0, 0
        self.name = f"w{worker}-{os.getpid():x}-{time.time_ns():x}"
        self.start = time.perf_counter()

    def __enter__(self) -> "Recorder":
        job = self.job
        self.writer = Writer(
            job.to, self.name, job.about.columns, shard_bytes=job.shard_bytes, watch=job.watch(self.name)
        )
        return self

    def __exit__(self, *exc: Any) -> None:
        self.writer.__exit__(*exc)
        if exc[0] is None and self.units:
            took = {"seconds": self.seconds, "units": self.units, "rows": self.writer.rows, "bytes": self.writer.bytes}
            keep_outcome(self.job.to, self.name, self.plan, took | {"peak_bytes": peak_bytes()})

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def put(self, number: int, found: Sequence[Sample]) -> None:
        """Record one work unit, of these samples."""
        unit = self.job.unit(number, found)
        self.writer.put(unit)
        self.units, self.rows = self.units + 1, self.rows + unit.rows


def write(job: Job, worker: int = 0, workers: int = 1, *, plan: Any = None, progress: Progress = None) -> None:
    """Compute this worker's work units and write them."""
    done = manifest.done_units(job.to)
    missing = job.about.missing(done)
    todo = None if job.about.n_units is None else sum(u % workers == worker for u in missing)
    with Recorder(job, worker, plan) as recorder:
        for number, found in work(job.data, job.about, done, job.to, worker, workers):
            recorder.put(number, found)
            rows, seconds = recorder.rows, recorder.seconds
            left_s = f", {seconds / recorder.units * (todo - recorder.units):,.0f} s left" if todo is not None else ""
            tell(
                progress,
                f"{rows:,} rows, {rows / seconds:,.0f} a second, {rows * job.about.row_bytes / 1e6:,.1f} MB{left_s}",
                recorder.units / todo if todo else None,
            )
    complete(job)
    if workers == 1 and not done:  # whoever computes a part of a record cannot know of the rest
        job.harvest.edited.check()


def complete(job: Job) -> None:
    """When the last work unit is listed, gather what is kept of samples; lost lines (`repair`) are written anew."""
    about = parse_description(job.to / DESCRIPTION)
    if about.n_samples is not None and about.is_complete(len(manifest.done_units(job.to))):
        finish(job.to, about.n_samples, job.sample)
