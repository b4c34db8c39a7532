"""The only hooks in the package: one session reads and edits during the forward passes of one thread.

How a session works:
1. Names become points, points become *stations*: one per module and side, each with its tasks in forward order.
2. Entering puts one callable per station into the module's own hook tables and, for the attention and expert
   functions, a tap into those modules' configurations (or, where a module computes attention itself, a watch over
   the torch calls of its forward); leaving takes exactly these away, also on error.
3. At a station the tensor is taken out of what the module takes or gives, viewed as the site's axes, edited, recorded
   (as a copy, after the edits), and put back only when something changed.
4. When the last thing asked for has happened and nobody wants the output, the forward is stopped.

The callables go into `_forward_hooks` directly: registering through handles costs twice the rest (measured: 9 of 18 us
a site). A session acts only in its own thread (and in autograd's, which re-runs blocks under gradient checkpointing).
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.edit import Edit, apply
from inscape.core.errors import EditError, NotFiniteError, NotFiredError, ShapeError
from inscape.core.step import Step
from inscape.engine import replay
from inscape.engine.recurrences import Seen
from inscape.engine.views import take, unview, view
from inscape.models.points import Point

_KEY = iter(range(1 << 62, 1 << 63))  # ids that torch's own counter does not reach


class Stop(Exception):
    """Raised inside a forward when all that was asked for has been seen."""


@dataclass(eq=False)
class Task:
    """What happens at one point: edits in order, then the record."""

    point: Point
    edits: list[Edit] = field(default_factory=list)
    read: bool = False
    hold: bool = False  # keep the value for an edit at a later point of the same layer
    keeps: dict[str, Callable[[Tensor, Step], Tensor] | None] = field(default_factory=dict)  # by the name of the result

    @cached_property
    def is_plain_read(self) -> bool:
        return _is_plain_read(self)


@dataclass(eq=False)
class Session:
    """Reads and edits that are in force on one module, in one thread."""

    root: nn.Module
    tasks: Sequence[Task]
    step_of: Callable[["Session", str, Tensor | None], Step]
    device: torch.device | None = None
    allow_nan: bool = False
    may_stop: bool = False
    grad: bool = False
    many: bool = False  # several forwards: values are lists, one entry a call
    values: dict[str, Any] = field(default_factory=dict)
    graph: dict[str, Tensor] = field(default_factory=dict)
    fired: dict[str, int] = field(default_factory=dict)
    edit_fired: dict[int, int] = field(default_factory=dict)
    held: dict[str, Tensor] = field(default_factory=dict)
    replays: dict[str, Seen] = field(default_factory=dict)
    before: Callable[..., Any] | None = None  # called with (args, kwargs) before every forward of the root

    def __post_init__(self) -> None:
        self.owner = threading.get_ident()
        self.open_tasks = len(self.tasks)
        self.flags: list[tuple[Tensor, Edit, Step]] = []
        self._undo: list[tuple[dict, int]] = []
        self._exits: list[Callable[[], None]] = []

    # -- entering and leaving ------------------------------------------------------------------------------------

    def __enter__(self) -> "Session":
        stations: dict[tuple[nn.Module, str], list[Task]] = {}
        taps: dict[nn.Module, list[Task]] = {}
        watched: dict[nn.Module, list[Task]] = {}
        experts: dict[nn.Module, list[Task]] = {}
        for task in self.tasks:
            point = task.point
            if point.kind == "attention" and point.calls:
                watched.setdefault(point.module, []).append(task)
            elif point.kind == "attention":
                taps.setdefault(point.module, []).append(task)
            elif point.kind == "expert":
                experts.setdefault(point.module, []).append(task)
            else:
                stations.setdefault((point.module, point.side), []).append(task)
        try:
            if self.before is not None:
                self._put(self.root._forward_pre_hooks, _root_hook(self), self.root._forward_pre_hooks_with_kwargs)
            for task in self.tasks:
                if task.point.stream is not None and (task.edits or (self.grad and task.read)):
                    self._put(task.point.stream._forward_hooks, _carry_hook(self, task))
            for (module, side), tasks in stations.items():
                if side == "out":
                    self._put(module._forward_hooks, _out_hook(self, tasks))
                else:
                    self._put(module._forward_pre_hooks, _in_hook(self, tasks), module._forward_pre_hooks_with_kwargs)
            if any(t.point.kind == "head_out" for t in self.tasks):
                self._hold_head_outs()
            for task in self.tasks:
                if task.point.kind == "state":
                    replay.watch(self, task.point)
            if taps:
                from inscape.engine.attention_registry import tapped

                self._exits.append(tapped(self, taps))
            for module, tasks in watched.items():
                self._watch(module, tasks)
            if experts:
                from inscape.engine.experts import tapped_experts

                self._exits.append(tapped_experts(self, experts))
        except BaseException:
            self.__exit__()
            raise
        return self

    def _watch(self, module: nn.Module, tasks: list[Task]) -> None:
        """Last in and first out of the module's hooks, so that no other hook's own arithmetic is seen."""
        from inscape.engine.attention_calls import Watch

        watch = Watch(self, module, tasks)
        self._exits.append(watch.abandon)
        self._put(module._forward_pre_hooks, watch.before, module._forward_pre_hooks_with_kwargs)
        self._put(module._forward_hooks, watch.after, module._forward_hooks_always_called, first=True)

    def _hold_head_outs(self) -> None:
        """What reading each head's part of the stream needs: z, and the output projection's own output."""
        for task in self.tasks:
            if task.point.kind == "head_out":
                z = task.point.after[0]

                def keep_z(module: nn.Module, args: Any, kwargs: Any, z: Point = z) -> None:
                    if self.mine():
                        x = take(z, args, kwargs)
                        self.held[z.name] = view(z, x, self.step_of(self, z.prefix, x))

                def keep_raw(module: nn.Module, args: Any, out: Any, z: Point = z) -> None:
                    if self.mine():
                        self.held[z.name + ":raw"] = out if isinstance(out, Tensor) else out[0]

                self._put(z.module._forward_pre_hooks, keep_z, z.module._forward_pre_hooks_with_kwargs)
                self._put(z.module._forward_hooks, keep_raw, first=True)

    def _put(self, table: dict, hook: Callable, marks: dict | None = None, first: bool = False) -> None:
        """marks: torch's second table, which says that this hook takes keywords or is always called."""
        key = next(_KEY)
        table[key] = hook
        if first:
            table.move_to_end(key, last=False)  # type: ignore[attr-defined] - torch's tables are OrderedDicts
        self._undo.append((table, key))
        if marks is not None:
            marks[key] = True
            self._undo.append((marks, key))

    def __exit__(self, *exc: object) -> None:
        for table, key in self._undo:
            table.pop(key, None)
        self._undo.clear()
        while self._exits:
            self._exits.pop()()
        self.held.clear()
        self.replays.clear()

    def mine(self) -> bool:
        """Is this call in the session's thread, or in one of autograd's own?"""
        if threading.get_ident() == self.owner:
            return True
        return isinstance(threading.current_thread(), threading._DummyThread)

    # -- at a station --------------------------------------------------------------------------------------------

    def visit(self, task: Task, x: Tensor, step: Step) -> Tensor:
        """Edit and record one site's value, in the site's own axes; returns what goes on."""
        point = task.point
        for edit in task.edits:
            if edit.needs:
                layer = point.name.rsplit(".", 1)[0]
                step.held = {n: self.held[f"{layer}.{n}"] for n in edit.needs}
            y = apply(edit, x, step, point.axes)
            if y is None:
                continue
            self.edit_fired[id(edit)] = self.edit_fired.get(id(edit), 0) + 1
            if not self.allow_nan:
                self._check_finite(edit, x, y, step, point)
            x = y
        if task.hold:
            self.held[point.name] = x
        if task.read:
            x = self.record(task, x, step)
        return x

    def record(self, task: Task, x: Tensor, step: Step) -> Tensor:
        name = task.point.name
        self.fired[name] = self.fired.get(name, 0) + 1
        if self.grad:
            if not x.requires_grad and x.is_floating_point():
                x = x.detach().requires_grad_()
            if x.requires_grad and not x.is_leaf:
                x.retain_grad()
            self.graph[name] = x
        for label, keep in (task.keeps or {name: None}).items():
            value = x if keep is None else keep(x, step)
            if not self.grad:
                value = value.to(self.device, copy=True) if self.device is not None else value.clone()
            if self.many:
                self.values.setdefault(label, []).append(value)
            else:
                self.values[label] = value
        return x

    def seen(self, task: Task) -> None:
        """Count a task as done; stops the forward when it was the last and nobody wants more."""
        self.open_tasks -= 1
        if self.may_stop and self.open_tasks == 0:
            raise Stop

    def _check_finite(self, edit: Edit, x: Tensor, y: Tensor, step: Step, point: Point) -> None:
        if not y.is_floating_point():
            return
        if point.inside == "scores":  # masked scores are infinite by right
            total = torch.where(y.detach().isnan().any(), torch.nan, 0.0)
        else:
            total = y.detach().sum(dtype=torch.float32 if y.dtype.itemsize < 4 else None)
        if y.device.type == "cpu":
            if not math.isfinite(float(total)):
                self._not_finite(edit, x, y, step, point)
        else:  # looking at the number now would stall the device; it is looked at when the run ends
            self.flags.append((total, edit, step))

    def _not_finite(self, edit: Edit, x: Tensor, y: Tensor, step: Step, point: Point) -> None:
        wrong = y.isnan() if point.inside == "scores" else ~torch.isfinite(y) & torch.isfinite(x)
        if not bool(wrong.any()):
            return  # the sum overflowed, or the values came in like that
        where = wrong.nonzero()[0].tolist()
        spot = ", ".join(f"{axis} {i}" for axis, i in zip(point.axes, where, strict=False))
        raise NotFiniteError(
            f"the edit {edit!r} made {y[tuple(where)].item()} at {point.name} "
            f"({spot}; {int(wrong.sum())} values in all).\n"
            "  lower its strength, or pass allow_nan=True to go on."
        )

    def finish(self) -> None:
        """Raise for whatever was asked and never happened."""
        for total, edit, step in self.flags:
            if not math.isfinite(float(total)):
                raise NotFiniteError(
                    f"the edit {edit!r} made NaN or infinity at {edit.site} (columns {step.start}-{step.stop - 1})."
                )
        for task in self.tasks:
            point = task.point
            if task.read and not self.fired.get(point.name):
                raise NotFiredError(
                    f"{point.name} was asked for and never happened: {point.path} did not run in this forward pass.\n"
                    "  does this input reach that part of the model? model.verify() withdraws sites that never fire."
                )
        silent = {e: p for t in self.tasks for e in t.edits for p in [t.point] if not self.edit_fired.get(id(e))}
        if silent:
            edit, point = next(iter(silent.items()))
            raise NotFiredError(
                f"the edit {edit!r} at {point.name} never happened"
                + (
                    f": its positions at={edit.at!r} were not among the tokens that ran."
                    if edit.at is not None
                    else "."
                )
                + "\n  nothing was changed there, so the result would have been that of the unedited model."
            )


def _root_hook(session: Session) -> Callable:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return session.before(session, args, kwargs) if session.mine() else None  # type: ignore[misc]

    hook.session = session  # type: ignore[attr-defined] - so that `editing.in_force` finds it
    return hook


def _out_hook(session: Session, tasks: list[Task]) -> Callable:
    owner, get_ident = session.owner, threading.get_ident
    if len(tasks) == 1 and not (session.grad or session.many) and tasks[0].is_plain_read:
        task, name = tasks[0], tasks[0].point.name
        (label,) = task.keeps or (name,)
        values, fired, device = session.values, session.fired, session.device

        def read_only(module: nn.Module, args: Any, out: Any) -> None:  # the common case, kept short: ~4 us
            if get_ident() != owner and not session.mine():
                return
            x = out if isinstance(out, Tensor) else out[0]
            if x.ndim == 2:  # tokens flattened into rows
                x = view(task.point, x, session.step_of(session, task.point.prefix, x))
            values[label] = x.clone() if device is None else x.to(device, copy=True)
            fired[name] = fired.get(name, 0) + 1
            session.seen(task)

        return read_only

    def hook(module: nn.Module, args: Any, out: Any) -> Any:
        if not session.mine():
            return None
        changed = False
        for task in tasks:
            x = take(task.point, out)
            new = _at_point(session, task, x)
            if new is not x:
                out, changed = _with(out, task.point.index or 0, new), True
            session.seen(task)
        return out if changed else None

    return hook


def _in_hook(session: Session, tasks: list[Task]) -> Callable:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if not session.mine():
            return None
        changed = False
        for task in tasks:
            x = take(task.point, args, kwargs)
            new = _at_point(session, task, x)
            if new is not x:
                args, kwargs = _with_input(args, kwargs, task.point.index or 0, new)
                changed = True
                if task.point.stream is not None:
                    session.held[task.point.name + ":moved"] = new - x
            session.seen(task)
        return (args, kwargs) if changed else None

    return hook


def _carry_hook(session: Session, task: Task) -> Callable:
    """The residual branch goes past the norm where the middle of the stream is met: the block's output changes too."""

    def hook(module: nn.Module, args: Any, out: Any) -> Any:
        moved = session.held.pop(task.point.name + ":moved", None) if session.mine() else None
        if moved is None:
            return None
        x = out if isinstance(out, Tensor) else out[0]
        return _with(out, 0, x + moved.reshape(x.shape))

    return hook


def _is_plain_read(task: Task) -> bool:
    """Nothing but a copy of what a module returns, in the axes it has."""
    p = task.point
    plain = p.kind == "module" and not (p.index or p.part or p.span or p.scale or p.heads or p.rules)
    fixed = len(p.axes) == 3 and "expert" not in p.axes and "choice" not in p.axes
    return plain and fixed and task.read and not (task.edits or task.hold) and list(task.keeps.values()) in ([], [None])


def _at_point(session: Session, task: Task, x: Tensor) -> Tensor:
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


def _apart(session: Session, task: Task, x: Tensor) -> Tensor:
    """With a graph the record is no copy, and a model may go on in place (Falcon adds attention to the MLP's)."""
    return x.clone() if session.grad and task.read else x


def _in_two_places(session: Session, task: Task, x: Tensor, seen: Tensor, step: Step) -> Tensor:
    """With a graph, a view of the stream before a norm: a leaf carries its changes into the norm and past it."""
    base = seen.detach()
    new = session.visit(task, base.clone().requires_grad_(), step)
    return x + unview(task.point, new - base, x)


def _at_head_out(session: Session, task: Task, x: Tensor, step: Step) -> Tensor:
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


def _with(out: Any, index: int, x: Tensor) -> Any:
    if isinstance(out, Tensor):
        return x
    if isinstance(out, (tuple, list)):
        items = [*out[:index], x, *out[index + 1 :]]
        return type(out)(*items) if hasattr(out, "_fields") else type(out)(items)
    if hasattr(out, "keys"):
        key = list(out.keys())[index]
        out[key] = x
        return out
    raise EditError(f"the module returned {type(out).__name__}, whose tensors cannot be replaced.")


def _with_input(args: tuple, kwargs: dict, index: int, x: Tensor) -> tuple[tuple, dict]:
    if index < len(args):
        return (*args[:index], x, *args[index + 1 :]), kwargs
    tensors = [k for k, v in kwargs.items() if isinstance(v, Tensor)]
    if index - len(args) >= len(tensors):
        raise ShapeError("the module did not receive a tensor there.")
    return args, kwargs | {tensors[index - len(args)]: x}
