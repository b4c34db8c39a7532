"""One site, from the tensor that a module takes or gives to the site's axes and back, with a graph or without."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inscape.core.step import Step
from inscape.engine import replay
from inscape.engine.views import unview, view

if TYPE_CHECKING:
    from inscape.engine.session import Session, Task


def at_point(session: "Session", task: "Task", x: Tensor) -> Tensor:
    point = task.point
    step = session.step_of(session, point.prefix, x)
    if point.kind == "head_out":
        return _at_head_out(session, task, x, step)
    if point.kind == "state":
        session.visit(task, replay.states(session, point), step)
        return x
    seen = view(point, x, step)
    if session.grad and point.side == "in" and point.stream is None and seen is x:
        seen = x.view_as(x)  # others may read the same tensor; the site's gradient is of what passes here
    if session.grad and point.stream is not None and seen is not x:
        return _in_two_places(session, task, x, seen, step)
    new = session.visit(task, seen, step)
    if new is not seen or (session.grad and seen is not x):  # with a graph, what was recorded must lie on the path
        back = unview(point, new, x)
        is_same = new is seen and (point.scale is not None or point.rules)
        # undoing a rule would round the output
        return x.detach() + (back - back.detach()) if is_same else _apart(session, task, back)
    return _apart(session, task, x)


def _apart(session: "Session", task: "Task", x: Tensor) -> Tensor:
    """With a graph the record is no copy, and a model may go on in place (Falcon adds attention to the MLP's)."""
    return x.clone() if session.grad and task.read else x


def _in_two_places(session: "Session", task: "Task", x: Tensor, seen: Tensor, step: Step) -> Tensor:
    """With a graph, a view of the stream before a norm: a leaf carries its changes into the norm and past it."""
    base = seen.detach()
    new = session.visit(task, base.clone().requires_grad_(), step)
    return x + unview(task.point, new - base, x)


def _at_head_out(session: "Session", task: "Task", x: Tensor, step: Step) -> Tensor:
    """Each head's part of what attention adds: z_h W_O,h, times what a post-norm or multiplier made of the sum."""
    point = task.point
    z = session.held.pop(point.after[0].name)
    raw = session.held.pop(point.after[0].name + ":raw")
    projection = point.after[0].module
    weight: Any = projection.weight
    if weight.shape[0] != raw.shape[-1] or type(projection).__name__ == "Conv1D":  # GPT-2's Conv1D is (in, out)
        weight = weight.T
    per_head = weight.unflatten(1, (z.shape[2], z.shape[3])).to(z.dtype)
    parts = torch.einsum("bphd,ohd->bpho", z, per_head)
    raw = raw.reshape(*z.shape[:2], -1)
    whole = (x * point.scale if point.scale is not None else x).reshape(*z.shape[:2], -1)
    if whole.shape == raw.shape and not torch.equal(whole, raw):
        parts = parts * torch.where(raw != 0, whole / raw, torch.zeros_like(raw))[:, :, None, :]
    base = parts
    if session.grad:  # the parts lie beside the path from x to the output: a leaf puts them on it, once
        base = parts.detach()
        parts = base.clone().requires_grad_()
    new = session.visit(task, parts, step)
    if new is parts and not session.grad:
        return x
    moved = (new - base).sum(2).reshape(x.shape)
    return x + (moved / point.scale if point.scale is not None else moved)
