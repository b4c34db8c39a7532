"""`ins.record`: activations of any data into a folder that many jobs can write, be killed in, and go on with."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from inscape.core.edit import Edit
from inscape.core.errors import InputError
from inscape.core.positions import Span, check_at
from inscape.core.progress import Progress
from inscape.engine.planning import names_of
from inscape.models.fingerprint import tokenizer_fingerprint
from inscape.models.model import Model
from inscape.store.bucket import is_empty
from inscape.store.claim import DESCRIPTION, claim
from inscape.store.data import Data, data_of
from inscape.store.edited import said_of
from inscape.store.fields import Field
from inscape.store.harvest import FLOATS, Harvest
from inscape.store.items import template_of
from inscape.store.job import Job, write
from inscape.store.keep import checked
from inscape.store.schema import Column, Description, parse_description
from inscape.store.store import Store
from inscape.store.writer import SHARD_BYTES

UNIT_SAMPLES = 64
INDICES = ("sample", "pos", "token")


def record(
    model: Model,
    data: Any,
    sites: Any,
    to: str | Path,
    *,
    reduce: Any = None,
    dtype: str | torch.dtype | None = None,
    engine: str = "local",
    field: Field = None,
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
    edits: Sequence[Edit] | Edit = (),
    progress: Progress = None,
) -> Store:
    """Record sites over data into a folder, and give it as a `Store`. Run it again after a kill: it goes on.

    data: texts, token ids, chats, tokenizers' dicts, a .txt or .jsonl file, a dataset, a folder of images; or what
        passes by in a fixed order: a generator function, anything that `iter` starts again (known by its `ids` if it
        has some). An empty sample has no rows and is listed with tokens=0. For the sites of a decoder beside an
        encoder: pairs, or records with "decoder_text" (read as in training: start token, text, no end) or
        "decoder_input_ids".
    sites: a pattern, patterns, or {column: site} or {column: (site, what to store of a row)} with `ins.top_k`,
        `ins.project` or "norm". reduce: which rows: None, every real token; "last", "first", positions, a slice (every
        k-th: slice(None, None, k)), `ins.span(text)`; or "mean" over a sample's tokens, one row a sample.
    dtype: stored type, the model's own when left out. overflow: values beyond float16's range are refused, or with
        "scale" divided by a power of two a row, kept beside them and undone on reading. Infinities are never stored.
    field: of JSON lines or dataset records, two of them for pairs; their other plain values are kept as labels.
        keep_text=False: labels without the text. max_length: cut samples to so many tokens.
    batch_tokens: padded tokens a forward; batch_rows: samples a forward where there is anything but tokens.
        unit_samples: samples that are computed and listed together. shard_bytes: size of a file.
    worker: (i, n), this process takes every n-th work unit: start n of them on one folder, no locks are needed.
    engine: "local", or "ray" with so many `workers` on the cluster that is there.
    statistics: {column: statistic or [statistics]} of `inscape.store.statistics`, taken on the way, so that
        `store.statistics` need not read the rows again.
    plan: what `ins.plan` predicted, to be kept beside the outcome.
    edits: in force while it runs, the same for every sample; named ones, since the store says which they were. An edit
        without a place in some samples leaves these alone; NotFiredError when a whole record has none. Edits that
        `ins.editing` keeps in force are refused.
    A killed or failed record loses the shards not yet listed and nothing else. What is in the folder must have been
    recorded with the same model, data, sites and settings, else FileError shows the differences.
    Cost: the blocks up to the last site (no unembedding), plus a copy; the disk works in a second thread. Memory: three
    shards. Predicted by `ins.plan(model, data, "record", sites=...)`.
    Raises: FileError, InputError, SiteError, NotFiniteError with site and token, EditError, NotFiredError.
    """
    if engine not in ("local", "ray"):
        raise InputError(f"engine={engine!r}: it can be 'local' or 'ray'.")
    worker = _worker(worker)
    if statistics and allow_nan:
        raise InputError("statistics= and allow_nan=True exclude each other: NaN would be in every sum.")
    found = data_of(data, field)
    if engine == "ray" and found.n is None:
        raise InputError(
            "engine='ray' deals work units out before they are computed and needs to know how many there are.\n"
            "  give data with a length, or ids with one; engine='local' takes data that end somewhere."
        )
    job = prepare(
        model, found, sites, to, reduce=reduce, dtype=dtype, max_length=max_length,
        batch_tokens=batch_tokens, batch_rows=batch_rows, unit_samples=unit_samples, shard_bytes=shard_bytes,
        overflow=overflow, allow_nan=allow_nan, keep_text=keep_text, edits=edits,
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
    field: Field = None, max_length: int | None = None, batch_tokens: int = 4096, batch_rows: int = 32,
    unit_samples: int | None = None, shard_bytes: int = SHARD_BYTES, overflow: str = "refuse", allow_nan: bool = False,
    keep_text: bool = True, edits: Sequence[Edit] | Edit = (),
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
        model, _sites(model, sites), reduce, _dtype(dtype), max_length, batch_tokens, batch_rows, overflow, allow_nan,
        (edits,) if isinstance(edits, Edit) else tuple(edits),
    )  # fmt: skip
    harvest.check()
    is_there = to is not None and (folder / DESCRIPTION).exists()
    there = parse_description(folder / DESCRIPTION) if is_there else None
    per_unit = unit_samples or (there.unit_samples if there is not None else UNIT_SAMPLES)
    about = _described(harvest, samples_, per_unit)
    about = claim(folder, about) if to is not None else about
    return Job(harvest, samples_, folder, about, keep_text, shard_bytes)


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
    """What the store will say of itself; the columns' types and shapes are those of the rows of the first sample that
    is not empty."""
    value = _first(harvest, data)
    short = harvest.reduce is None or isinstance(harvest.reduce, str)  # any few tokens show types and shapes
    short &= not isinstance(value, Mapping)  # what stands beside tokens may not bear being cut
    look = replace(harvest, max_length=min(harvest.max_length or 2, 2)) if short else harvest
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
        "chat_template": template_of(model, value), "edits": said_of(harvest.edits),
    }  # fmt: skip
    return Description(
        columns=tuple(columns), model=model.fingerprint, tokenizer=tokenizer_fingerprint(model.tokenizer),
        data=data.fingerprint, n_samples=data.n, unit_samples=unit_samples, job=job,
    )  # fmt: skip


def _first(harvest: Harvest, data: Data) -> Any:
    """The first sample that has something to read."""
    at = 0
    while found := data.get(at, at + 1) if at != data.n else []:
        (value, _), at = found[0], at + 1
        if not is_empty(*harvest.items([value])):
            return value
    raise InputError(f"all {at:,} samples are empty: there is not one token to run on.")


def _said(reduce: Any) -> str | None:
    return None if reduce is None else repr(reduce) if not isinstance(reduce, (str, Span)) else str(reduce)


def _worker(worker: tuple[int, int]) -> tuple[int, int]:
    i, n = worker
    if not 0 <= i < n:
        raise InputError(f"worker=({i}, {n}): workers count from 0 to n - 1.")
    return i, n
