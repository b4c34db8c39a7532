"""One pass over the layers in which every edited run joins where its first edit is.

1. The unedited rows go through the blocks, from the first layer that anything happens at.
2. Before layer l the runs whose first edit lies there join: their stream is the row's, edited. They are never computed
   below that layer.
3. *Packed*, a run brings only the columns from its first edit on: all runs are stretches of one sequence, and a mask
   lets each look at its row's earlier columns and at its own. Only for attention, where columns meet nowhere else.
   *Batched*, a run is a row with all its columns: for recurrences, and where a block builds its own mask.
4. Edits and reads inside blocks go through the one session; those of the stream itself need no hook.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.step import Step
from inscape.engine.blocks import Blocks, CannotReenter
from inscape.engine.parts import Batched, Dispatch, Packed, Part
from inscape.engine.session import Session, Task
from inscape.models.model import Model
from inscape.models.points import Point


@dataclass(frozen=True, eq=False)
class Place:
    """Where a site of the main stack lies: its layer and its point, and whether it is the stream itself there."""

    layer: int
    point: Point
    is_stream: bool


def places(model: Model) -> dict[str, Place]:
    """Every site inside the blocks of the main stack."""
    out: dict[str, Place] = {}
    for i, block in enumerate(model.blocks):
        for short, p in block.points.items():
            bare = p.kind == "module" and p.module is block.module and p.index in (None, 0)
            bare = bare and not (p.part or p.span or p.scale or p.heads or p.rules)
            out[p.name] = Place(i, p, bare and (short, p.side) in (("resid_pre", "in"), ("resid_post", "out")))
    return out


def stream_sites(where: Mapping[str, Place], edits: Mapping[str, Sequence[Edit]]) -> set[str]:
    """Sites whose edits can all act on the stream between two blocks, without a hook."""
    return {s for s, p in where.items() if p.is_stream and all(set(e.needs) <= {"resid_pre"} for e in edits.get(s, ()))}


def joins_at(place: Place, stream: set[str]) -> int:
    """The first layer whose block a run that is edited there has to go through."""
    return place.layer + 1 if place.point.name in stream and place.point.side == "out" else place.layer


class Packs:
    """Arguments of packed blocks: every column's own, and a mask that keeps the runs apart."""

    def __init__(self, caught: Blocks, parts: Sequence[Part], causal: bool, kind: str, dtype: torch.dtype) -> None:
        self.caught, self.parts, self.causal, self.kind, self.dtype = caught, parts, causal, kind, dtype
        row = [torch.full((p.n,), p.row.number) for p in parts]
        column = [torch.arange(p.start, p.row.stop) for p in parts]
        owner = [torch.full((p.n,), i) for i, p in enumerate(parts)]
        start = [torch.full((p.n,), p.start) for p in parts]
        self.rows, self.columns, self.owner, self.start = (torch.cat(x) for x in (row, column, owner, start))
        is_base = torch.tensor([p.cell is None for p in parts])
        same_row = self.rows[:, None] == self.rows[None]
        earlier = is_base[self.owner][None] & same_row & (self.columns[None] < self.start[:, None])
        self.apart = (self.owner[:, None] == self.owner[None]) | earlier
        self._made: dict[Any, Any] = {}

    def of(self, layer: int, n: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of a block for the first n tokens."""
        args, kwargs = self.caught.args[layer], self.caught.kwargs[layer]
        masked = [k for k, v in kwargs.items() if k == "attention_mask" or _is_mask(v, self.caught.n_columns)]
        if masked != ["attention_mask"] or any(_is_mask(a, self.caught.n_columns) for a in args):
            raise CannotReenter("its blocks are given no attention mask of their own")
        made = {k: self._value(v, n) for k, v in kwargs.items() if k != "attention_mask"}
        made["attention_mask"] = self._mask(kwargs["attention_mask"])[:, :, :n, :n]
        return tuple(self._value(a, n) for a in args), made

    def _value(self, value: Any, n: int) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(self._value(v, n) for v in value)
        if not isinstance(value, Tensor) or value.ndim == 0:
            return value
        width, rows = self.caught.n_columns, self.caught.n_rows
        if value.ndim == 1 and len(value) == width:
            return self._once(value, lambda: value[self.columns.to(value.device)])[:n]
        if value.ndim >= 2 and value.shape[0] in (1, rows) and value.shape[1] == width:
            where = self.columns.to(value.device)
            which = self.rows.to(value.device) if value.shape[0] == rows else torch.zeros_like(where)
            return self._once(value, lambda: value[which, where][None])[:, :n]
        raise CannotReenter(f"a block is given a tensor of shape {tuple(value.shape)}, whose columns are unclear")

    def _once(self, key: Any, make: Any) -> Any:
        """Blocks share most of their arguments: each is cut once. The key is held, so that its id stays its own."""
        if id(key) not in self._made:
            self._made[id(key)] = (key, make())
        return self._made[id(key)][1]

    def _mask(self, mask: Any) -> Tensor:
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 4 and mask.shape[1] == 1):
            raise CannotReenter("its attention mask is not one of queries and keys alone")
        return self._once(mask, lambda: self._masked(mask))

    def _masked(self, mask: Tensor | None) -> Tensor:
        if mask is None:
            seen = self.columns[None] <= self.columns[:, None] if self.causal else torch.ones_like(self.apart)
            seen = seen & self.apart
            if self.kind == "sdpa":
                return seen[None, None]
            return torch.zeros(seen.shape, dtype=self.dtype).masked_fill(~seen, torch.finfo(self.dtype).min)[None, None]
        which = self.rows if mask.shape[0] > 1 else torch.zeros_like(self.rows)
        where = [x.to(mask.device) for x in (which, self.columns)]
        taken = mask[where[0][:, None], 0, where[1][:, None], where[1][None]]
        apart = self.apart.to(mask.device)
        if mask.dtype == torch.bool:
            return (taken & apart)[None, None]
        return taken.masked_fill(~apart, torch.finfo(mask.dtype).min)[None, None]


def _is_mask(value: Any, width: int) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[-2:] == (width, width)


class Rows:
    """Arguments of batched blocks: for every entry of the batch, those of the row it belongs to."""

    def __init__(self, caught: Blocks, rows: Sequence[int]) -> None:
        self.caught = caught
        self.rows = torch.tensor(list(rows))

    def of(self, layer: int, n: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args = tuple(self._value("", a, n) for a in self.caught.args[layer])
        return args, {k: self._value(k, v, n) for k, v in self.caught.kwargs[layer].items()}

    def _value(self, name: str, value: Any, n: int) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(self._value(name, v, n) for v in value)
        if not isinstance(value, Tensor) or value.ndim < 2:
            return value
        rows, which = self.caught.n_rows, self.rows[:n].to(value.device)
        if name == "alibi":  # BLOOM and Falcon fold rows and heads into one axis
            return value.unflatten(0, (rows, -1))[which].flatten(0, 1)
        if value.shape[0] == rows:
            return value[which]
        return value.expand(n, *value.shape[1:]) if value.shape[0] == 1 else value


def is_causal(caught: Blocks) -> bool:
    """Does no column look at later ones, in any layer?"""
    for module, kwargs in zip(caught.modules, caught.kwargs, strict=True):
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 4:
            seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
            if bool(torch.triu(seen, 1).any()):
                return False
        elif any(getattr(m, "is_causal", None) is False for m in module.modules()):
            return False
    return True


def grow(
    model: Model,
    caught: Blocks,
    layout: Packed | Batched,
    bases: Sequence[Part],
    cells: Sequence[Part],
    dispatch: Dispatch,
    where: Mapping[str, Place],
    stream: set[str],
    arguments: Packs | Rows,
) -> Tensor:
    """The stream as it leaves the last block: [1, tokens, d_model] packed, [parts, pos, d_model] batched.

    cells: sorted by the layer they join at, placed behind the bases. stream: the sites that need no hook.
    """
    n_layers = len(caught.modules)
    start = min([n_layers, *(p.layer for p in cells), *(where[s].layer for s in dispatch.keeps)])
    needs_before = any("resid_pre" in e.needs for p in cells for es in p.edits.values() for e in es)
    start = max((s for s in caught.streams if s <= start - needs_before), default=0)
    x = caught.streams[start]
    if isinstance(layout, Packed):
        x = torch.cat([x[b.row.number, b.start : b.row.stop] for b in bases])[None]
    else:
        x = x[[b.row.number for b in bases]]
    tasks = _tasks(model, dispatch, where, stream)
    step_of = _steps(layout, [*bases, *cells])
    before: Tensor | None = None
    waiting = list(cells)
    session = Session(model.module, tasks, lambda s, prefix, y: step_of(y), allow_nan=True)
    with torch.no_grad(), session:
        for layer in range(start, n_layers + 1):
            dispatch.layer = layer
            new = []
            while waiting and waiting[0].layer == layer:
                new.append(waiting.pop(0))
            if new:
                x = _joined(layout, x, new, bases)
                before = _joined(layout, before, new, bases) if before is not None else None
            for short, of in (("resid_post", layer - 1), ("resid_pre", layer)):
                if not 0 <= of < n_layers:
                    continue
                point = model.blocks[of].points.get(short)
                if point is not None and point.name in stream and dispatch.has_work(point.name):
                    held = {"resid_pre": before} if before is not None else {}
                    x = dispatch.visit(point.name, point.axes, x, step_of(x), held)
            if layer == n_layers:
                break
            if needs_before:
                before = x
            args, kwargs = arguments.of(layer, x.shape[1] if isinstance(layout, Packed) else x.shape[0])
            x = caught.run(layer, x, args, kwargs)
    return x


def _tasks(model: Model, dispatch: Dispatch, where: Mapping[str, Place], stream: set[str]) -> list[Task]:
    """What the session does inside the blocks."""
    tasks: dict[str, Task] = {}
    for site, place in where.items():
        if site in stream or not dispatch.has_work(site):
            continue
        edits = [e for p in dispatch.parts for e in p.edits.get(site, ())]
        tasks.setdefault(site, Task(place.point)).edits.append(dispatch.as_edit(site, place.point.axes))
        for needed in {n for e in edits for n in e.needs}:
            name = f"{site.rsplit('.', 1)[0]}.{needed}"
            tasks.setdefault(name, Task(model.points[name])).hold = True
    order = {name: i for i, name in enumerate(model.points)}
    return sorted(tasks.values(), key=lambda t: order.get(t.point.name, len(order)))


def _joined(layout: Packed | Batched, x: Tensor, new: Sequence[Part], bases: Sequence[Part]) -> Tensor:
    """The tensor with the streams of new runs behind it: those of their rows so far."""
    base = {b.row.number: b for b in bases}
    if isinstance(layout, Packed):
        own = [x[:, base[p.row.number].at + p.start - base[p.row.number].start : base[p.row.number].stop] for p in new]
        return torch.cat([x, *own], 1)
    return torch.cat([x, x[[base[p.row.number].at for p in new]]])


def _steps(layout: Packed | Batched, parts: Sequence[Part]) -> Any:
    """The step of whatever is run: of a packed sequence only its length means something."""
    real = torch.stack([p.row.real[0] for p in parts])
    tokens = [p.row.tokens for p in parts]
    ids = torch.cat([t for t in tokens if t is not None]) if all(t is not None for t in tokens) else None

    def step_of(x: Tensor | None) -> Step:
        has_rows = x is not None and (x.ndim > 2 or x.is_meta)  # else tokens flattened into rows
        if isinstance(layout, Packed):
            return Step.plain(1, x.shape[1 if has_rows else 0] if x is not None else 1)
        width = real.shape[1]
        n = len(parts) if x is None else x.shape[0] if has_rows else x.shape[0] // width
        return Step(0, width, real[:n], ids[:n] if ids is not None else None, width)

    return step_of
