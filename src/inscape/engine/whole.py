"""Many edited runs through the whole model: as rows of a batch, or one after the other."""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inscape.core.edit import ELSEWHERE, needed_site
from inscape.core.errors import ModelError
from inscape.core.progress import tell
from inscape.engine.blocks import CannotReenter
from inscape.engine.forward import eager, last_logits, one_call
from inscape.engine.inputs import Inputs
from inscape.engine.parts import Batched, Dispatch, Part
from inscape.engine.planning import point_of
from inscape.engine.session import Session, Stop, Task
from inscape.models.model import Model

if TYPE_CHECKING:
    from inscape.engine.runs import Plan


def batched(plan: "Plan", batch_tokens: int) -> None:
    """Every cell a row of a batch, through the whole model. Raises CannotReenter where rows cannot be put together."""
    model, n_rows = plan.model, len(plan.rows)
    sites = {s for p in plan.cells for s in p.edits} | set(plan.keeps)
    points = {s: point_of(model, s) for s in sites}
    if any(p.axes[0] != "batch" or p.kind == "state" for p in points.values()):
        raise CannotReenter("a site has no rows")
    parts = [*(plan.base_part(r) for r in plan.rows), *plan.cells]
    for part in parts:
        part.layer = 0
    width = plan.prepared.mask.shape[1] if plan.prepared.mask is not None else 64
    each = max(1, batch_tokens // width)
    for start in range(0, len(parts), each):
        group = parts[start : start + each]
        layout = Batched()
        layout.place(group, 0)
        inputs = rows_of(plan.prepared, [p.row.number for p in group], n_rows)
        dispatch = Dispatch(layout, group, plan.keeps)
        logits = _forward(plan, model, inputs, dispatch, points)
        plan.kept |= dispatch.kept
        plan.work += len(group) * width * model.n_layers
        if plan.measure is not None and logits is not None:
            _measure(plan, logits, group)
        tell(
            plan.progress,
            f"{min(start + each, len(parts))} of {len(parts)} runs",
            min(1.0, (start + each) / len(parts)),
        )


def _forward(plan: "Plan", model: Model, inputs: Inputs, dispatch: Dispatch, points: dict[str, Any]) -> Tensor | None:
    tasks: dict[str, Task] = {}
    for site, point in points.items():
        if not dispatch.has_work(site):
            continue
        tasks.setdefault(site, Task(point)).edits.append(dispatch.as_edit(site, point.axes))
        for needed in tasks[site].edits[-1].needs:
            name = needed_site(site, needed)
            tasks.setdefault(name, Task(model.points[name])).hold = True
            tasks[name].copies |= needed.startswith(ELSEWHERE)
    order = {name: i for i, name in enumerate(model.points)}
    ordered = sorted(tasks.values(), key=lambda t: order.get(t.point.name, len(order)))
    columns = one_call(model, inputs)
    wanted = plan.measure is not None
    session = Session(model.module, ordered, columns, allow_nan=True, may_stop=not wanted and bool(ordered))
    few = (
        wanted
        and isinstance(plan.at, str)
        and plan.at == "last"
        and "logits" in model.points
        and inputs.mask is not None
    )
    out: Any = None
    only = last_logits(model, inputs) if few else contextlib.nullcontext()
    with torch.no_grad(), eager(model, True), session, only, contextlib.suppress(Stop):
        out = model.module(*inputs.args, **inputs.kwargs)
    if not wanted:
        return None
    return logits_of(model, out)


def logits_of(model: Model, out: Any) -> Tensor:
    """The scores in a model's own output."""
    logits = out if isinstance(out, Tensor) else getattr(out, "logits", None)
    if not isinstance(logits, Tensor):
        raise ModelError(f"the output of {type(model.module).__name__} has no logits to measure; read a site instead.")
    return logits


def _measure(plan: "Plan", logits: Tensor, parts: Sequence[Part]) -> None:
    assert plan.measure is not None
    rows = torch.tensor([p.row.number for p in parts])
    if isinstance(plan.at, Tensor):
        for x, part in zip(logits, parts, strict=True):
            x, row = x[part.row.first : part.row.stop].float(), part.row.number
            columns = plan.at[row, : len(x)].nonzero().flatten()
            values = plan.measure(x[columns.to(x.device)], torch.full_like(columns, row), columns)
            plan.note((values.sum() / max(1, len(columns)))[None], [part])
        return
    if plan.at == "all":
        for x, part in zip(logits, parts, strict=True):
            x = x[part.row.first : part.row.stop].float()
            plan.note(plan.measure(x[None], torch.tensor([part.row.number])), [part])
        return
    if logits.ndim == 3:
        logits = (
            logits[:, -1]
            if logits.shape[1] == 1
            else torch.stack([x[p.row.stop - 1] for x, p in zip(logits, parts, strict=True)])
        )
    logits = logits.float()
    if plan.tokens is not None:
        logits = logits.gather(-1, plan.tokens[rows].to(logits.device))
    plan.note(plan.measure(logits, rows), parts)


def one_by_one(plan: "Plan") -> None:
    """One run a cell: of its row alone, or where rows cannot be told apart (patches in one heap), of all of them."""
    sites = {s for p in plan.cells for s in p.edits} | set(plan.keeps)
    points = {s: point_of(plan.model, s) for s in sites}
    parts = [*(plan.base_part(r) for r in plan.rows), *plan.cells]
    for number, part in enumerate(parts):
        part.layer = 0
        try:
            inputs, at = rows_of(plan.prepared, [part.row.number], len(plan.rows)), 0
        except CannotReenter:
            inputs, at = rows_of(plan.prepared, range(len(plan.rows)), len(plan.rows)), part.row.number
        layout = Batched()
        layout.place([part], at)
        dispatch = Dispatch(layout, [part], plan.keeps)
        logits = _forward(plan, plan.model, inputs, dispatch, points)
        plan.kept |= dispatch.kept
        plan.work += part.row.stop * plan.model.n_layers
        if logits is not None:
            _measure(plan, logits[at : at + 1], [part])
        tell(plan.progress, f"{number + 1} of {len(parts)} runs", (number + 1) / len(parts))


def rows_of(prepared: Inputs, rows: Sequence[int], n_rows: int) -> Inputs:
    """The inputs of these rows, in this order."""
    which = list(rows)
    if which == list(range(n_rows)):  # as it is: some arguments have one entry a patch, not a row
        return Inputs(prepared.args, dict(prepared.kwargs), prepared.tokens, prepared.mask)

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == n_rows:
            return value[which]
        if isinstance(value, (list, tuple)) and value and all(isinstance(v, Tensor) for v in value):
            return type(value)(cut(v) for v in value)
        return value

    kwargs = {k: cut(v) for k, v in prepared.kwargs.items()}
    if any(isinstance(v, Tensor) and v.ndim and v.shape[0] not in (1, len(which)) for v in kwargs.values()):
        odd = next(
            k for k, v in kwargs.items() if isinstance(v, Tensor) and v.ndim and v.shape[0] not in (1, len(which))
        )
        raise CannotReenter(f"{odd} does not hold one entry a row")
    return Inputs(
        tuple(cut(a) for a in prepared.args), kwargs,
        prepared.tokens[which] if prepared.tokens is not None else None,
        prepared.mask[which] if prepared.mask is not None else None,
    )  # fmt: skip
