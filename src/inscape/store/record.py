"""`ins.record`: activations of any data into a folder that many jobs can write, be killed in, and go on with."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from inscape.core.costs import peak_bytes
from inscape.core.errors import InputError
from inscape.core.positions import Span, check_at
from inscape.core.progress import Progress, tell
from inscape.engine.planning import names_of
from inscape.models.fingerprint import tokenizer_fingerprint
from inscape.models.model import Model
from inscape.store import manifest, samples
from inscape.store.claim import DESCRIPTION, claim
from inscape.store.data import Data, data_of
from inscape.store.harvest import FLOATS, Harvest
from inscape.store.keep import checked
from inscape.store.outcome import keep_outcome
from inscape.store.schema import Column, Description, parse_description
from inscape.store.statistics.watch import Watch
from inscape.store.store import Store
from inscape.store.writer import SHARD_BYTES, Unit, Writer

UNIT_SAMPLES = 64
INDICES = ("sample", "pos", "token")


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

    def todo(self, worker: int = 0, workers: int = 1) -> list[int]:
        """Work units of this worker that nobody has listed."""
        done = manifest.done_units(self.to)
        return [u for u in range(worker, self.about.n_units, workers) if u not in done]

    def watch(self, writer: str) -> Watch | None:
        """The statistics that one writer takes on the way."""
        if not self.statistics:
            return None
        wanted = {at: [statistic.fresh() for statistic in several] for at, several in self.statistics.items()}
        return Watch(self.to, writer, self.about.columns, wanted)

    def unit(self, number: int) -> Unit:
        """Compute one work unit."""
        start = number * self.about.unit_samples
        stop = min(start + self.about.unit_samples, self.data.n)
        found = self.data.get(start, stop)
        values, lengths = self.harvest.unit(start, [value for value, _ in found])
        kept = [
            {"sample": start + i, "tokens": n} | (about if self.keep_text else {})
            for i, ((_, about), n) in enumerate(zip(found, lengths, strict=True))
        ]
        columns = {c.name: values[c.name] for c in self.about.columns}
        return Unit(number, len(values["sample"]), columns, kept)


def record(
    model: Model,
    data: Any,
    sites: Any,
    to: str | Path,
    *,
    reduce: Any = None,
    dtype: str | torch.dtype | None = None,
    engine: str = "local",
    field: str | None = None,
    max_length: int | None = None,
    batch_tokens: int = 4096,
    batch_rows: int = 32,
    unit_samples: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    overflow: str = "refuse",
    allow_nan: bool = False,
    keep_text: bool = True,
    worker: tuple[int, int] = (0, 1),
    workers: int = 2,
    statistics: Mapping[Any, Any] | None = None,
    plan: Any = None,
    progress: Progress = None,
) -> Store:
    """Record sites over data into a folder, and give it as a `Store`. Run it again after a kill: it goes on.

    data: texts, token ids, a .txt or .jsonl file, a dataset, a folder of images, anything with a length.
    sites: a pattern, patterns, or {column: site} or {column: (site, what to store of a row)} with `ins.top_k`,
        `ins.project` or "norm". reduce: which rows: None, every real token; "last", "first", positions, a slice (every
        k-th: slice(None, None, k)), `ins.span(text)`; or "mean" over a sample's tokens, one row a sample.
    dtype: stored type, the model's own when left out. overflow: values beyond float16's range are refused, or with
        "scale" divided by a power of two a row, kept beside them and undone on reading. Infinities are never stored.
    field: of JSON lines or dataset records. max_length: cut samples to so many tokens. batch_tokens: padded tokens a
        forward; batch_rows: samples a forward where there are no tokens. unit_samples: samples that are computed and
        listed together. shard_bytes: size of a file.
    worker: (i, n), this process takes every n-th work unit: start n of them on one folder, no locks are needed.
    engine: "local", or "ray" with so many `workers` on the cluster that is there.
    statistics: {column: statistic or [statistics]} of `inscape.store.statistics`, taken on the way, so that
        `store.statistics` need not read the rows again.
    plan: what `ins.plan` predicted, to be kept beside the outcome.
    A killed or failed record loses the shards not yet listed and nothing else. What is in the folder must have been
    recorded with the same model, data, sites and settings, else FileError shows the differences.
    Cost: the blocks up to the last site (no unembedding), plus a copy; the disk works in a second thread. Memory: three
    shards. Predicted by `ins.plan(model, data, "record", sites=...)`.
    Raises: FileError, InputError, SiteError, NotFiniteError with site and token.
    """
    if engine not in ("local", "ray"):
        raise InputError(f"engine={engine!r}: it can be 'local' or 'ray'.")
    worker = _worker(worker)
    if statistics and allow_nan:
        raise InputError("statistics= and allow_nan=True exclude each other: NaN would be in every sum.")
    job = prepare(
        model, data, sites, to, reduce=reduce, dtype=dtype, field=field, max_length=max_length,
        batch_tokens=batch_tokens, batch_rows=batch_rows, unit_samples=unit_samples, shard_bytes=shard_bytes,
        overflow=overflow, allow_nan=allow_nan, keep_text=keep_text,
    )  # fmt: skip
    several = {at: list(s) if isinstance(s, (list, tuple)) else [s] for at, s in (statistics or {}).items()}
    job = replace(job, statistics=several)
    job.watch("")  # wrong columns are known now
    if engine == "ray":
        from inscape.store.on_ray import run_on_ray

        run_on_ray(job, workers, progress)
    else:
        write(job, *worker, plan=plan, progress=progress)
    return Store(job.to)


def prepare(
    model: Model, data: Any, sites: Any, to: str | Path | None, *, reduce: Any = None, dtype: Any = None,
    field: str | None = None, max_length: int | None = None, batch_tokens: int = 4096, batch_rows: int = 32,
    unit_samples: int | None = None, shard_bytes: int = SHARD_BYTES, overflow: str = "refuse", allow_nan: bool = False,
    keep_text: bool = True,
) -> Job:  # fmt: skip
    """Everything of a record that is decided before it runs; makes the folder or checks the one that is there.

    to: None to plan alone, which touches no folder.
    """
    model.check_ready()
    if overflow not in ("refuse", "scale"):
        raise InputError(f"overflow={overflow!r}: it can be 'refuse' or 'scale'.")
    if min(batch_tokens, batch_rows, shard_bytes, unit_samples or 1, max_length or 1) < 1:
        raise InputError("batch_tokens, batch_rows, unit_samples, shard_bytes and max_length must be at least 1.")
    reduce = reduce if reduce == "mean" else check_at(reduce)
    samples_, folder = data_of(data, field), Path(to or "").expanduser()
    harvest = Harvest(
        model, _sites(model, sites), reduce, _dtype(dtype), max_length, batch_tokens, batch_rows, overflow, allow_nan
    )
    is_there = to is not None and (folder / DESCRIPTION).exists()
    harvest.check()
    there = parse_description(folder / DESCRIPTION) if is_there else None
    per_unit = unit_samples or (there.unit_samples if there is not None else UNIT_SAMPLES)
    about = _described(harvest, samples_, per_unit)
    job = Job(harvest, samples_, folder, about, keep_text, shard_bytes)
    if to is not None:
        claim(job.to, job.about)
    return job


def write(
    job: Job, worker: int = 0, workers: int = 1, *, units: Sequence[int] | None = None, plan: Any = None,
    progress: Progress = None,
) -> None:  # fmt: skip
    """Compute this worker's work units and write them; `units` when somebody else has dealt them."""
    todo = job.todo(worker, workers) if units is None else list(units)
    name = f"w{worker}-{os.getpid():x}-{time.time_ns():x}"
    start, rows = time.perf_counter(), 0
    with Writer(job.to, name, job.about.columns, shard_bytes=job.shard_bytes, watch=job.watch(name)) as writer:
        for i, number in enumerate(todo):
            unit = job.unit(number)
            writer.put(unit)
            rows += unit.rows
            wall_s = time.perf_counter() - start
            left_s = wall_s / (i + 1) * (len(todo) - i - 1)
            tell(
                progress,
                f"{rows:,} rows, {rows / wall_s:,.0f} a second, {rows * job.about.row_bytes / 1e6:,.1f} MB, "
                f"{left_s:,.0f} s left",
                (i + 1) / len(todo),
            )
    if todo:
        took = {"seconds": time.perf_counter() - start, "units": len(todo), "rows": writer.rows, "bytes": writer.bytes}
        keep_outcome(job.to, name, plan, took | {"peak_bytes": peak_bytes()})
    complete(job)


def complete(job: Job) -> None:
    """When the last work unit is listed, gather what is kept of the samples."""
    if len(manifest.done_units(job.to)) == job.about.n_units:
        samples.finish(job.to, job.data.n)


def _sites(model: Model, sites: Any) -> dict[str, tuple[str, Any]]:
    """column -> (site, what to store of a row)"""
    if not isinstance(sites, Mapping):
        return {name: (name, None) for name in names_of(model, sites)}
    found: dict[str, tuple[str, Any]] = {}
    reserved = [c for c in sites if str(c) in INDICES or str(c).endswith((".scale", ".units"))]
    if reserved:
        raise InputError(f"a column cannot be called {reserved[0]!r}: the store uses that name itself.")
    for column, wanted in sites.items():
        site, keep = wanted if isinstance(wanted, tuple) else (wanted, None)
        names = names_of(model, site)
        for name in names:
            found[str(column) if len(names) == 1 else f"{column}/{name}"] = (name, checked(keep))
    return found


def _dtype(dtype: Any) -> torch.dtype | None:
    name = str(dtype).removeprefix("torch.") if dtype is not None else None
    if name is not None and name not in FLOATS:
        raise InputError(f"dtype={dtype!r}: activations can be stored as {', '.join(FLOATS)}.")
    return getattr(torch, name) if name is not None else None


def _described(harvest: Harvest, data: Data, unit_samples: int) -> Description:
    """What the store will say of itself; the columns' types and shapes are those of the first sample's rows."""
    value, _ = data.get(0, 1)[0]
    short = harvest.reduce is None or isinstance(harvest.reduce, str)  # any few tokens show types and shapes
    look = replace(harvest, max_length=min(harvest.max_length or 8, 8)) if short else harvest
    values, _ = look.unit(0, [value])
    origin = {c: harvest.sites[c] for c in harvest.sites}
    columns = []
    for name, x in values.items():
        site, keep = origin.get(name, ("", None))
        scale = f"{name}.scale" if f"{name}.scale" in values else ""
        columns.append(
            Column(
                name=name, dtype=str(x.dtype).removeprefix("torch."), shape=tuple(x.shape[1:]), site=site,
                keep=str(keep) if keep is not None else "", scaled_by=scale,
            )
        )  # fmt: skip
    model = harvest.model
    job = {
        "reduce": _said(harvest.reduce), "max_length": harvest.max_length, "batch_tokens": harvest.batch_tokens,
        "batch_rows": harvest.batch_rows, "overflow": harvest.overflow, "computed_in": str(model.dtype),
    }  # fmt: skip
    return Description(
        columns=tuple(columns), model=model.fingerprint, tokenizer=tokenizer_fingerprint(model.tokenizer),
        data=data.fingerprint, n_samples=data.n, unit_samples=unit_samples, job=job,
    )  # fmt: skip


def _said(reduce: Any) -> str | None:
    return None if reduce is None else repr(reduce) if not isinstance(reduce, (str, Span)) else str(reduce)


def _worker(worker: tuple[int, int]) -> tuple[int, int]:
    i, n = worker
    if not 0 <= i < n:
        raise InputError(f"worker=({i}, {n}): workers count from 0 to n - 1.")
    return i, n
