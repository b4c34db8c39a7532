"""Many edited runs over a few base runs, computing only what their edits can reach.

Four ways, the first that this model and these edits allow:
1. packed: restart at the layer and column of each run's first edit, all runs as stretches of one sequence;
2. rows: restart at the layer, all runs as rows of a batch;
3. batched: the whole model, all runs as rows of a batch;
4. one by one: `run`, once a cell.
The first two are tried on the model itself before they are believed: a run with noise in the middle of the stream must
end as an ordinary run does. All give the same numbers up to the rounding of other matrix shapes.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import EditError, InputError, InscapeError, SiteError
from inscape.core.progress import Progress, tell
from inscape.core.step import Step
from inscape.engine import growing
from inscape.engine.blocks import Blocks, CannotReenter, catch
from inscape.engine.forward import run
from inscape.engine.inputs import Inputs, prepare
from inscape.engine.parts import Batched, Dispatch, Keep, Packed, Part, Row, first_column, never
from inscape.engine.planning import Read, reads_of, tasks_of
from inscape.engine.tail import Tail, tail_of
from inscape.engine.whole import batched, one_by_one
from inscape.models.model import Model

WAYS = ("packed", "rows", "batched", "one by one")
PACK = 768  # tokens of a packed sequence beside its rows: more keys than this cost more than larger products save
BATCH = 4096  # tokens of a batch
STREAMS = 256 * 2**20  # bytes of the rows' streams that are kept, layer by layer
TRIED = {torch.float64: 1e-6, torch.float32: 1e-3}  # how far a tried way may be off, of the largest value

Measure = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Cell:
    """One edited run: these edits, in order, on this row of the inputs. Edits see a batch of that row alone."""

    edits: tuple[Edit, ...]
    row: int = 0


@dataclass(eq=False)
class Cells(Mapping[str, Any]):
    """What many edited runs gave. Maps a read name to [cell, ...]; `base` the same of the unedited rows, [row, ...].

    measured: one value a cell; base_measured: one a row. how, why: which way it went, and why no faster one.
    work: token-layers that were run, what one run a cell would have taken, and the seconds that were predicted once the
    rows' own run was timed. seconds: wall time.
    """

    values_: dict[str, Any]
    base: dict[str, Any]
    measured: Tensor | None
    base_measured: Tensor | None
    how: str
    why: str = ""
    work: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def __getitem__(self, name: str) -> Any:
        if str(name) not in self.values_:
            raise SiteError(f"these runs have no {str(name)!r}; they kept {', '.join(self.values_) or 'nothing'}.")
        return self.values_[str(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


@dataclass(eq=False)
class Plan:
    """The rows, the cells' edits at concrete sites, what is kept and what is measured."""

    model: Model
    prepared: Inputs
    rows: list[Row]
    cells: list[Part]
    keeps: dict[str, dict[str, Keep]]
    labels: list[str]
    measure: Measure | None
    tokens: Tensor | None
    at: str
    progress: Progress = None
    measured: Tensor | None = None
    base_measured: Tensor | None = None
    kept: dict[tuple[str, int | None, int], Tensor] = field(default_factory=dict)
    work: float = 0.0
    predicted_s: float = float("nan")

    def note(self, values: Tensor, parts: Sequence[Part]) -> None:
        """Keep what was measured on these parts."""
        if self.measured is None or self.base_measured is None:
            shape = values.shape[1:]
            self.measured = torch.full((len(self.cells), *shape), torch.nan, dtype=values.dtype)
            self.base_measured = torch.full((len(self.rows), *shape), torch.nan, dtype=values.dtype)
        for value, part in zip(values.detach().cpu(), parts, strict=True):
            if part.cell is None:
                self.base_measured[part.row.number] = value
            else:
                self.measured[part.cell] = value

    def base_part(self, row: Row) -> Part:
        return Part(None, row, row.first)


def run_cells(
    model: Model,
    inputs: Any,
    cells: Sequence[Any],
    *,
    read: Read = None,
    reduce: Any = None,
    measure: Measure | None = None,
    tokens: Tensor | None = None,
    at: str = "last",
    way: str | None = None,
    batch_tokens: int | None = None,
    padding_side: str | None = None,
    progress: Progress = None,
) -> Cells:
    """Run every `Cell`: what `run` gives for its row with its edits, together and without what they share.

    read, reduce: as in `run`; values of every cell, [cell, ...]. measure: a function (logits, rows) -> [n] of the
    logits at each row's last real token, [n, vocab], or with at="all" at all its real positions, [1, pos, vocab];
    `rows` says whose they are. tokens: [rows, k], the only columns of the logits to compute.
    way: one of "packed", "rows", "batched", "one by one"; the fastest that is right here when left out.
    batch_tokens: tokens that are run at once.
    Cost: of a run, the layers from its first edit on, at the columns from there on, in products of many rows.
    Raises: what `run` raises; NotFiredError for an edit whose positions its row does not have.
    """
    begun = time.perf_counter()
    if way not in (None, *WAYS):
        raise InputError(f"way={way!r}: it can be {', '.join(WAYS)}.")
    if at not in ("last", "all"):
        raise InputError(f"at={at!r}: logits are measured at 'last', each row's last real token, or at 'all'.")
    model.check_ready()
    plan = _planned(model, inputs, cells, read, reduce, padding_side)
    plan.measure, plan.tokens, plan.at, plan.progress = measure, tokens, at, progress
    reasons: list[str] = []
    name = ""
    for name in WAYS if way is None else (way,):
        try:
            if name in ("packed", "rows"):
                _restarted(plan, name, batch_tokens, trust=way is not None)
            elif name == "batched":
                batched(plan, batch_tokens or BATCH)
            else:
                one_by_one(plan)
            break
        except CannotReenter as error:
            if way is not None:
                raise InputError(f"way={way!r} is not possible on {type(model.module).__name__}: {error}.") from error
            reasons.append(f"not {name}: {error}")
            plan.measured = plan.base_measured = None
            plan.kept.clear()
    for part in plan.cells:
        part.check_fired()
    loop = float(sum(p.row.stop for p in plan.cells) * model.n_layers)
    work = {"token_layers": plan.work, "one_by_one": loop, "predicted_s": plan.predicted_s}
    values, base = _gathered(plan)
    return Cells(
        values, base, plan.measured, plan.base_measured, name, "; ".join(reasons), work, time.perf_counter() - begun
    )


def _planned(model: Model, inputs: Any, cells: Sequence[Any], read: Read, reduce: Any, side: str | None) -> Plan:
    prepared = prepare(model, inputs, side=side)
    rows = _rows(prepared)
    keeps: dict[str, dict[str, Keep]] = {}
    reads = reads_of(model, read, reduce)
    for label, (site, keep) in reads.items():
        keeps.setdefault(site, {})[label] = keep
    known: dict[tuple[int, int], list[tuple[str, Edit]]] = {}
    parts = []
    for number, cell in enumerate(cells):
        if not isinstance(cell, Cell):
            raise EditError(f"cells are Cell(edits, row); got {type(cell).__name__}.")
        if not 0 <= cell.row < len(rows):
            raise InputError(f"cell {number} is on row {cell.row}; the inputs have {len(rows)} rows.")
        edits: dict[str, list[Edit]] = {}
        for edit in cell.edits:
            key = (id(edit), cell.row)
            if key not in known:  # the same edit in many cells is resolved once
                known[key] = _at_sites(model, edit, prepared, cell.row, len(rows))
            for site, concrete in known[key]:
                edits.setdefault(site, []).append(concrete)
        parts.append(Part(number, rows[cell.row], rows[cell.row].first, edits=edits))
    return Plan(model, prepared, rows, parts, keeps, list(reads), None, None, "last")


def _rows(prepared: Inputs) -> list[Row]:
    mask = prepared.mask
    if mask is None:  # no tokens: as many rows as the first tensor has
        given = [v for v in (*prepared.args, *prepared.kwargs.values()) if isinstance(v, Tensor) and v.ndim]
        n = given[0].shape[0] if given else 1
        return [Row(i, 0, 0, torch.zeros(1, 0, dtype=torch.long), None) for i in range(n)]
    step = Step.of_mask(mask)
    rows = []
    for i in range(mask.shape[0]):
        real = step.real[i : i + 1]
        columns = (real[0] >= 0).nonzero()
        if not len(columns):
            raise InputError(f"row {i} of the inputs has no real token.")
        tokens = prepared.tokens[i : i + 1].cpu() if prepared.tokens is not None else None
        rows.append(Row(i, int(columns[0]), int(columns[-1]) + 1, real, tokens))
    return rows


def _at_sites(model: Model, edit: Edit, prepared: Inputs, row: int, n_rows: int) -> list[tuple[str, Edit]]:
    """An edit at each of its sites, its positions those of one row."""
    found = []
    for task in tasks_of(model, {}, [edit], prepared):
        for concrete in task.edits:
            tables = {n: getattr(concrete, n) for n in ("at", "heads", "units")}
            mine = {n: t[row : row + 1] for n, t in tables.items() if _is_table(t, n_rows)}
            concrete = replace(concrete, **mine)
            if concrete.rows is not None:
                raise EditError(f"the edit {edit!r}: a cell is one row already; leave rows= out.")
            found.append((task.point.name, concrete))
    return found


def _is_table(places: Any, n_rows: int) -> bool:
    """Does it say another thing of every row?"""
    return isinstance(places, Tensor) and places.ndim == 2 and places.shape[0] == n_rows


# -- restarting in the middle ----------------------------------------------------------------------------------------


def _restarted(plan: Plan, name: str, batch_tokens: int | None, trust: bool) -> None:
    model = plan.model
    where = growing.places(model)
    outside = [s for p in plan.cells for s in p.edits if s not in where] + [s for s in plan.keeps if s not in where]
    if outside:
        raise CannotReenter(f"{outside[0]} lies outside the blocks of the main stack")
    special = [
        s for s in _sites(plan) if where[s].point.kind in ("state", "expert") or where[s].point.axes[0] != "batch"
    ]
    if special:
        raise CannotReenter(f"{special[0]} is not seen one token at a time")
    if plan.prepared.mask is None:
        raise CannotReenter("the inputs are no tokens")
    check_way(model, name)
    tail = tail_of(model, plan.prepared, plan.tokens) if plan.measure is not None else None
    if not trust:
        _tried(plan, name, where)
    _pass(plan, name, batch_tokens, tail, where)


def _sites(plan: Plan) -> set[str]:
    return {s for p in plan.cells for s in p.edits} | set(plan.keeps)


def check_way(model: Model, name: str) -> None:
    """What the structure alone rules out."""
    config = model.config
    if any(p.startswith(("decoder.", "encoder.", "vision.")) for p in model.main_prefixes):
        raise CannotReenter("its main stack is not the only one")
    if name == "packed":
        if any(".ssm." in p or p.endswith("ssm_out") for p in model.points):
            raise CannotReenter("it has recurrent layers, whose columns meet outside attention")
        if getattr(config, "_attn_implementation", None) not in ("sdpa", "eager"):
            raise CannotReenter("its attention takes no mask of queries and keys")


def _tried(plan: Plan, name: str, where: Mapping[str, growing.Place]) -> None:
    """Noise in the middle of the stream, this way and by an ordinary run: tried once a model and kind of padding."""
    model = plan.model
    padded = plan.prepared.mask is not None and not bool(plan.prepared.mask.all())
    key = ("restart", name, padded)
    if key not in model.plans:
        model.plans[key] = _off(plan, name, where)
    verdict = model.plans[key]
    if isinstance(verdict, str):
        raise CannotReenter(verdict)


def _off(plan: Plan, name: str, where: Mapping[str, growing.Place]) -> str | None:
    """Why this way is not to be believed here; None when it is."""
    model, row = plan.model, plan.rows[0]
    blocks = model.blocks
    sites = [s for s in (f"{b.name}.resid_post" for b in blocks) if s in where]
    if not sites:
        return "its stream has no sites"
    middle, last = sites[(len(sites) - 1) // 2], sites[-1]
    position = max(0, (row.stop - row.first) // 2 - 1)

    def shaken(x: Tensor, step: Step) -> Tensor:
        """As large as the value itself, and the same for a column wherever it lies."""
        column = torch.arange(step.start + 1, step.start + 1 + x.shape[1], device=x.device)[:, None]
        wave = torch.cos(column * torch.arange(1, x.shape[-1] + 1, device=x.device))
        return x + (x.float().pow(2).mean(-1, keepdim=True).sqrt() * wave).to(x.dtype)

    edit = Edit(middle, shaken, "noise", at=position, contextual=True)
    try:
        small = _planned(model, _one_row(plan.prepared, row.number), [Cell((edit,))], {"end": last}, None, None)
        _pass(small, name, None, None, where)
        made = small.kept["end", 0, 0]
        trace = run(model, _one_row(plan.prepared, row.number), read=last, edits=[edit])
        wanted = trace[last][0, row.first : row.stop]
    except CannotReenter as error:
        return str(error)
    except (InscapeError, RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        return f"its blocks do not run on their own ({str(error).splitlines()[0][:100]})"
    made = made if made.shape == wanted.shape else made[row.first : row.stop]
    off = float((made.float() - wanted.float()).abs().max() / wanted.float().abs().max().clamp(min=1e-9))
    limit = TRIED.get(wanted.dtype, 0.1)
    return None if off <= limit else f"tried on this model it is off by {off:.1e}"


def _one_row(prepared: Inputs, row: int) -> dict[str, Any]:
    n = prepared.mask.shape[0] if prepared.mask is not None else 1
    cut = lambda v: v[row : row + 1] if isinstance(v, Tensor) and v.ndim and v.shape[0] == n else v  # noqa: E731
    return {k: cut(v) for k, v in prepared.kwargs.items() if k != "use_cache"}


def _pass(
    plan: Plan, name: str, batch_tokens: int | None, tail: Tail | None, where: Mapping[str, growing.Place]
) -> None:
    """Group the cells, and let each group grow through the layers."""
    model = plan.model
    edits: dict[str, list[Edit]] = {}
    for part in plan.cells:
        for site, several in part.edits.items():
            edits.setdefault(site, []).extend(several)
    stream = growing.stream_sites(where, edits)
    begun = time.perf_counter()
    caught = _caught(plan)
    took = time.perf_counter() - begun
    n_layers = len(caught.modules)
    causal = name == "packed" and growing.is_causal(caught)
    for part in plan.cells:
        part.layer = min((growing.joins_at(where[s], stream) for s in part.edits), default=n_layers)
        part.start = _start(part) if causal else part.row.first
    groups = list(_groups(plan, name, batch_tokens))
    size = {p: p.n if name == "packed" else caught.n_columns for group in groups for p in (*group[0], *group[1])}
    work = sum(n * (n_layers - p.layer) for p, n in size.items())
    plan.predicted_s = took * (1 + work / (caught.n_rows * caught.n_columns * n_layers))
    if tail is not None and tail.tokens is None:
        plan.predicted_s += took * len(size) * tail.cost(caught) / (caught.n_rows * caught.n_columns * n_layers)
    plan.work += work
    for number, (bases, group) in enumerate(groups):
        layout = Packed({b.row.number: b for b in bases}) if name == "packed" else Batched()
        layout.place(group, layout.place(bases, 0))
        parts = [*bases, *group]
        dispatch = Dispatch(layout, parts, plan.keeps)
        if isinstance(layout, Packed):
            kind = getattr(model.config, "_attn_implementation", "sdpa")
            arguments: Any = growing.Packs(caught, parts, causal, kind, next(iter(caught.streams.values())).dtype)
        else:
            arguments = growing.Rows(caught, parts)
        x = growing.grow(model, caught, layout, bases, group, dispatch, where, stream, arguments)
        plan.kept |= dispatch.kept
        if tail is not None:
            tail.measure(plan, [layout.whole(x, p, ("batch", "pos"))[0] for p in parts], parts)
        tell(plan.progress, f"{number + 1} of {len(groups)} groups of runs", (number + 1) / len(groups))


def _caught(plan: Plan) -> Blocks:
    """The rows' own run; every layer's stream is kept where that is little."""
    n_layers = plan.model.n_layers
    first = plan.prepared.mask
    width = int(getattr(plan.model.config, "hidden_size", 4096) or 4096)
    each = first.numel() * width * 4 if first is not None else 0
    all_fit = each * n_layers <= STREAMS
    return catch(plan.model, plan.prepared, lambda layer: layer == 0 or (all_fit and layer < n_layers))


def _start(part: Part) -> int:
    firsts = []
    for site, edits in part.edits.items():
        for edit in edits:
            column = first_column(edit, part.row)
            if column is None:
                raise never(edit, site, part.row.number)
            firsts.append(column)
    return min(firsts, default=part.row.stop - 1)


def _groups(plan: Plan, name: str, batch_tokens: int | None) -> Iterator[tuple[list[Part], list[Part]]]:
    """(base rows, cells) that fit one pass; cells of one row or of neighbouring rows, by the layer they join at.

    Rows without a cell come alone, so that what is read and measured there is known too.
    """
    limit = batch_tokens or (PACK if name == "packed" else BATCH)
    width = plan.prepared.mask.shape[1] if plan.prepared.mask is not None else 1
    alone = sorted({r.number for r in plan.rows} - {p.row.number for p in plan.cells})
    bases: dict[int, Part] = {}
    group: list[Part] = []
    total = 0
    for part in [None] * bool(alone) + sorted(plan.cells, key=lambda p: (p.row.number, p.layer)):
        rows = alone if part is None else [part.row.number]
        new = [plan.base_part(plan.rows[i]) for i in rows if i not in bases]
        size = sum(p.n if name == "packed" else width for p in (*new, *([part] if part else [])))
        if group and total + size > limit:
            yield list(bases.values()), sorted(group, key=lambda p: p.layer)
            bases, group, total = {}, [], 0
            new = [plan.base_part(plan.rows[i]) for i in rows]
            size = sum(p.n if name == "packed" else width for p in (*new, *([part] if part else [])))
        bases |= {b.row.number: b for b in new}
        group += [part] if part is not None else []
        total += size
    if group or bases:
        yield list(bases.values()), sorted(group, key=lambda p: p.layer)


def _gathered(plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads by name: every cell's, where it had not yet joined its row's."""
    values: dict[str, Any] = {}
    base: dict[str, Any] = {}
    for label in plan.labels:
        rows = [plan.kept.get((label, None, r.number)) for r in plan.rows]
        own = [plan.kept.get((label, p.cell, p.row.number)) for p in plan.cells]
        found = [x if x is not None else rows[p.row.number] for x, p in zip(own, plan.cells, strict=True)]
        values[label] = _stacked([x for x in found if x is not None])
        base[label] = _stacked([x for x in rows if x is not None])
    return values, base


def _stacked(values: list[Tensor]) -> Any:
    return torch.stack(values) if len({v.shape for v in values}) == 1 else values
