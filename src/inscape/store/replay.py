"""Recorded sites back into the engine: `store.trace([3, 7])` is a trace that edits take values from."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import InputError, ModelError
from inscape.core.trace import Trace
from inscape.store.column import LazyColumn
from inscape.store.store import Store


def trace(
    store: Store, samples: Sequence[int] | int, columns: Sequence[str] | str | None = None, *, model: Any = None
) -> Trace:
    """Samples as one run would record them: {site: [batch, pos, ...]}, padded on the right, with tokens and mask.

    `ins.patch(site, store.trace([3, 7]))` puts them in place of a run's own values, position by real position, in `run`
    and `generate`; `trace.tokens` and `trace.mask` run the same samples again. Values are as stored: float32 stores
    give back the recorded bits, narrower ones what was left of them.
    columns: some of the stored sites; every one that was stored whole when left out. model: refuse unless the store was
    recorded with exactly these weights.
    Cost: reads these samples alone. Raises: ModelError for another model, or one that cannot be checked; InputError for
    samples that are not whole in the store, and for columns that hold less than the site's value.
    """
    if model is not None:
        check_model(store, model)
    numbers = [samples] if isinstance(samples, int) else [int(s) for s in samples]
    if not numbers:
        raise InputError("trace([]): say which samples, store.trace([3, 7]).")
    chosen = _columns(store, columns)
    rows = [store.rows_of(s) for s in numbers]
    for sample, span in zip(numbers, rows, strict=True):
        _check_whole(store, sample, store["pos"][span])
    lengths = [span.stop - span.start for span in rows]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    values = {c.about.site: _padded(c, rows, max(lengths)) for c in chosen}
    tokens = _padded(store["token"], rows, max(lengths)).long() if "token" in store else None
    if tokens is not None and bool((tokens[mask] < 0).any()):
        tokens = None
    return Trace(values, tokens=tokens, mask=mask.long())


def check_model(store: Store, model: Any) -> None:
    """Raise ModelError unless the store was recorded with exactly this model's weights."""
    there = store.about.model
    if not there:
        raise ModelError(
            f"{store.path} does not say which model it was recorded with, so it cannot be checked.\n"
            "  leave out model=, or import it again with model= when you know."
        )
    if there != model.fingerprint:
        raise ModelError(
            f"{store.path} was recorded with another model ({there}); this one is {model.fingerprint}.\n"
            "  record again with this model; leave out model= to compare models on purpose."
        )


def _columns(store: Store, asked: Sequence[str] | str | None) -> list[LazyColumn]:
    names = store.sites if asked is None else [asked] if isinstance(asked, str) else list(asked)
    found = [store[str(n)] for n in names]
    partial = {c.name: c.about.keep for c in found if c.about.keep or not c.about.site}
    whole = [c for c in found if c.name not in partial]
    if (asked is not None and partial) or not whole:
        said = ", ".join(f"{n} ({keep or 'no site'})" for n, keep in partial.items()) or "nothing"
        raise InputError(
            f"{store.path} holds less than the site's value in {said}: it cannot be put back into a model.\n"
            "  record the site whole, without top_k, project or 'norm'."
        )
    doubled = {c.about.site for c in whole if sum(d.about.site == c.about.site for d in whole) > 1}
    if doubled:
        raise InputError(f"several columns hold {', '.join(sorted(doubled))}: say which one with columns=.")
    return whole


def _check_whole(store: Store, sample: int, pos: Tensor) -> None:
    """Only a sample with every position from the first on can be matched by position."""
    if not len(pos):
        raise InputError(f"sample {sample} of {store.path} has no rows: there is nothing to put back into a run.")
    if torch.equal(pos.long(), torch.arange(len(pos))):
        return
    how = store.about.job.get("reduce")
    kept = "its rows have no position" if bool((pos < 0).any()) else f"it holds the positions {pos.tolist()[:6]} alone"
    raise InputError(
        f"sample {sample} of {store.path} cannot be put back into a run: {kept}"
        + (f" (recorded with reduce={how!r}).\n" if how else ".\n")
        + "  record every position (reduce=None), or use its rows with ins.replace(site, row, at=...)."
    )


def _padded(column: LazyColumn, rows: Sequence[slice], width: int) -> Tensor:
    out = torch.zeros((len(rows), width, *column.about.shape), dtype=column.dtype)
    for i, span in enumerate(rows):
        out[i, : span.stop - span.start] = column[span]
    return out
