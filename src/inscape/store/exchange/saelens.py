"""SAELens' activation cache: a datasets folder, a record a context, `Array2D[context, d]` by hook name and `token_ids`.

What `ActivationsStore` reads of it: `state.json`, `dataset_info.json` and the Arrow files, whose column is the hook's
TransformerLens name with exactly (context_size, d_in), and `token_ids` (int32, optional). `cached_activations_path` is
the folder. `cache_activations_runner_cfg.json`, which its runner adds on the Hub, is read by nothing and not written.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inscape.core.errors import FileError, InputError, SiteError
from inscape.core.progress import Progress, tell
from inscape.models.names import aliases
from inscape.store.column import LazyColumn
from inscape.store.exchange import arrow
from inscape.store.exchange.arriving import INDICES, Names, description, fingerprint_of, site_of, unit_samples
from inscape.store.exchange.arrow_writer import Writer
from inscape.store.exchange.landing import Block, Source
from inscape.store.exchange.outgoing import BLOCK_BYTES, plain, widened
from inscape.store.exchange.target import Exported, size_of, whole
from inscape.store.schema import Column
from inscape.store.store import Store


def export_saelens(
    store: Store, to: Path, *, columns: Sequence[str] | str | None = None, context: int | None = None,
    progress: Progress = None,
) -> Exported:  # fmt: skip
    """A folder for SAELens' `cached_activations_path`.

    context: rows of each record. Longer samples give their first rows, shorter ones are left out, and both are counted
    in the notes; left out, all samples must be equally long. Heads are joined to one width, as SAELens does.
    bfloat16 becomes float32. Raises: SiteError for a site that TransformerLens has no name for, InputError for unlike
    lengths, FileError when `to` exists.
    """
    chosen = _named(store, columns)
    spans, notes = _spans(store, context)
    length = spans[0][1] if spans else 0
    types = {name: (_float(c), (length, _width(c))) for name, c in chosen.items()}
    per = max(1, BLOCK_BYTES // max(1, length * sum(c.about.row_bytes for c in chosen.values())))
    with whole(to, folder=True) as folder, Writer(folder, types | {"token_ids": ("int32", (length,))}) as writer:
        for i in range(0, len(spans), per):
            rows = np.concatenate([np.arange(s, s + length) for s, _ in spans[i : i + per]])
            block = {n: plain(c[rows]).reshape(-1, length, _width(c)) for n, c in chosen.items()}
            writer.add(block | {"token_ids": store["token"][rows].int().reshape(-1, length)})
            tell(progress, f"{min(i + per, len(spans)):,} of {len(spans):,} contexts", min(1.0, (i + per) / len(spans)))
    return Exported(to, len(spans) * length, size_of(to), (*notes, *widened(list(chosen.values()))))


def saelens_source(folder: Path, *, names: Names = None, model: Any = None) -> Source:
    """Rows of a SAELens cache. Its models are opened without folding norms unless somebody asked for it; then the
    numbers are of another model than the published one, and nothing in the files tells.

    Raises: FileError for what is no cache, SiteError for a hook that is none of our sites.
    """
    paths = arrow.files_of(folder)
    hooks = [n for n in arrow.schema_of(paths[0]).names if n != "token_ids"]
    tokens = ["token_ids"] if "token_ids" in arrow.schema_of(paths[0]).names else []
    first = next(arrow.batches(paths, [*hooks, *tokens]), None)
    if first is None or not hooks:
        raise FileError(f"{folder} holds {'no rows' if hooks else 'no activations'}.")
    shapes = {n: tuple(first[n].shape[1:]) for n in hooks}
    odd = next((n for n in hooks if len(shapes[n]) != 2 or not first[n].is_floating_point()), None)
    if odd is not None or len({s[0] for s in shapes.values()}) > 1:
        raise FileError(f"{folder}: {shapes} are not activations of [context, d] each: this is no SAELens cache.")
    length = shapes[hooks[0]][0]
    columns = [_arriving(n, first[n], names, model) for n in hooks]
    sizes = [len(b[hooks[0]]) for b in arrow.batches(paths, hooks[:1])]
    n, unit = sum(sizes), unit_samples(length * sum(c.row_bytes for c in (*INDICES, *columns)))
    starts = np.minimum(np.arange(-(-n // unit) + 1) * unit, n) * length

    def rows(start: int) -> Iterator[Block]:
        at = start // length
        for block in arrow.batches(paths, [*hooks, *tokens], at):
            size = len(block[hooks[0]])
            if any(tuple(block[n].shape[1:]) != shapes[n] for n in hooks):
                raise FileError(f"{folder}: the contexts have unlike sizes.")
            ids = block["token_ids"] if tokens else torch.full((size, length), -1)
            if ids.shape != (size, length):
                raise FileError(f"{folder}: token_ids has the shape {tuple(ids.shape)}, the contexts {(size, length)}.")
            yield {
                "sample": torch.arange(at, at + size).repeat_interleave(length),
                "pos": torch.arange(length, dtype=torch.int32).repeat(size),
                "token": ids.reshape(-1).int(),
            } | {c.name: block[n].flatten(0, 1) for c, n in zip(columns, hooks, strict=True)}
            at += size

    about = description(columns, n, unit, fingerprint_of(paths), "SAELens cache", model=model)
    return Source(about, starts, rows, str(folder))


def is_cache(folder: Path) -> bool:
    """Does this datasets folder look like a SAELens cache: TransformerLens names, or token_ids?"""
    names = arrow.schema_of(arrow.files_of(folder)[0]).names
    return "sample" not in names and any("hook_" in n for n in names)


def _named(store: Store, columns: Sequence[str] | str | None) -> dict[str, LazyColumn]:
    asked = [columns] if isinstance(columns, str) else columns
    found: dict[str, LazyColumn] = {}
    for column in [store[n] for n in (store.sites if asked is None else asked)]:
        theirs = aliases(column.about.site).get("transformer_lens")
        if theirs is None or column.about.keep:
            why = f"stores its {column.about.keep}" if column.about.keep else "has no TransformerLens name"
            raise SiteError(f"{column.name} {why}, so SAELens cannot read it.\n  choose others with columns=.")
        found[theirs] = column
    return found


def _spans(store: Store, context: int | None) -> tuple[list[tuple[int, int]], list[str]]:
    """(first row, rows) of every sample that is exported, and what to say of the others."""
    if "token" not in store or not len(store):
        raise InputError(f"{store.path} holds no tokens: a SAELens cache is made of contexts.")
    starts, lengths, last = [], [], -1
    for at in range(0, len(store), 1 << 20):
        numbers = store["sample"][at : at + (1 << 20)].numpy()
        cuts = np.flatnonzero(np.diff(numbers, prepend=last)) + at
        starts.append(cuts)
        last = int(numbers[-1])
    first = np.concatenate(starts)
    lengths = np.diff(np.append(first, len(store)))
    if context is None and (lengths != lengths[0]).any():
        raise InputError(
            f"the samples have {int(lengths.min())} to {int(lengths.max())} rows; a SAELens cache needs one length.\n"
            "  say context=n: longer samples are cut, shorter ones left out."
        )
    size = context if context is not None else int(lengths[0])
    fits = lengths >= size
    if size < 1 or not fits.any():
        raise InputError(f"context={size}: the longest sample has {int(lengths.max())} rows.")
    notes = [f"{int((~fits).sum()):,} samples shorter than {size} are left out"] if not fits.all() else []
    notes += [f"{int((lengths > size).sum()):,} samples are cut to {size} rows"] if (lengths > size).any() else []
    return [(int(s), size) for s in first[fits]], notes


def _arriving(name: str, x: torch.Tensor, names: Names, model: Any) -> Column:
    site = site_of(name, names, model)
    joined = "heads joined" if site.endswith((".z", ".q", ".k", ".v")) else ""
    dtype = str(x.dtype).removeprefix("torch.")
    return Column(name=site, dtype=dtype, shape=tuple(x.shape[2:]), site=site, keep=joined)


def _width(column: LazyColumn) -> int:
    return int(np.prod(column.about.shape, dtype=np.int64))


def _float(column: LazyColumn) -> str:
    return "float32" if column.dtype == torch.bfloat16 else str(column.dtype).removeprefix("torch.")
