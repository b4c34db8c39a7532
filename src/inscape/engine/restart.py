"""Many runs restarted in the middle of a model: at the layer of their first edit, and packed, at its column too.

A way is tried on the model itself before it is believed: a run with noise in the middle of the stream must end as an
ordinary run does, once a model and kind of padding.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from inscape.core.edit import ELSEWHERE, Edit
from inscape.core.errors import InscapeError
from inscape.core.progress import tell
from inscape.core.step import Step
from inscape.engine import growing
from inscape.engine.blocks import Blocks, CannotReenter, catch
from inscape.engine.forward import run
from inscape.engine.parts import Batched, Dispatch, Packed, Part, first_column, never
from inscape.engine.runs import Cell, Plan, planned
from inscape.engine.tail import Tail, tail_of
from inscape.engine.whole import rows_of
from inscape.models.model import Model

PACK = 768  # tokens of a packed sequence beside its rows: more keys than this cost more than larger products save
BATCH = 4096  # tokens of a batch
STREAMS = 256 * 2**20  # bytes of the rows' streams that are kept, layer by layer
TRIED = {torch.float64: 1e-6, torch.float32: 1e-3}  # how far a tried way may be off, of the largest value


def restarted(plan: Plan, name: str, batch_tokens: int | None, trust: bool) -> None:
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
    far = [
        e for p in plan.cells for es in p.edits.values() for e in es if any(n.startswith(ELSEWHERE) for n in e.needs)
    ]
    if far:
        raise CannotReenter(f"{far[0]!r} looks at a site before the one it changes")
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
        kwargs = rows_of(plan.prepared, [row.number], len(plan.rows)).kwargs
        alone = {k: v for k, v in kwargs.items() if k != "use_cache"}
        small = planned(model, alone, [Cell((edit,))], {"end": last}, None, None)
        _pass(small, name, None, None, where)
        made = small.kept["end", 0, 0]
        trace = run(model, alone, read=last, edits=[edit])
        wanted = trace[last][0, row.first : row.stop]
    except CannotReenter as error:
        return str(error)
    except (InscapeError, RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        return f"its blocks do not run on their own ({str(error).splitlines()[0][:100]})"
    made = made if made.shape == wanted.shape else made[row.first : row.stop]
    off = float((made.float() - wanted.float()).abs().max() / wanted.float().abs().max().clamp(min=1e-9))
    limit = TRIED.get(wanted.dtype, 0.1)
    return None if off <= limit else f"tried on this model it is off by {off:.1e}"


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
        heads = len(size) if plan.at == "last" else sum(size.values())  # rows that go through the head
        plan.predicted_s += took * heads * tail.cost(caught) / (caught.n_rows * caught.n_columns * n_layers)
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
            arguments = growing.Rows(caught, [p.row.number for p in parts])
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
    width = plan.prepared.mask.shape[1] if plan.prepared.mask is not None else 1
    limit = batch_tokens or (max(PACK, 3 * width) if name == "packed" else BATCH)  # the row itself is in every pack
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
