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

from inscape.core.edit import Edit, apply, needed_site
from inscape.core.errors import EditError, NotFiniteError, NotFiredError
from inscape.core.step import Call, Step
from inscape.engine import replay
from inscape.engine.finite import check_finite
from inscape.engine.recurrences import Seen
from inscape.engine.stations import carry_hook, in_hook, out_hook, root_hook
from inscape.engine.views import take, view
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
    hold: bool = False  # keep the value for an edit at a later point
    copies: bool = False  # of a far site: whatever lies between may go on writing into the value
    keeps: dict[str, Callable[[Tensor, Step], Tensor] | None] = field(default_factory=dict)  # by the name of the result
    watch: Callable[[Tensor, Step], None] | None = None  # shown the value, after the edits

    @cached_property
    def is_plain_read(self) -> bool:
        """Nothing but a copy of what a module returns, in the axes it has."""
        only_read = self.read and not (self.edits or self.hold) and list(self.keeps.values()) in ([], [None])
        return self._is_plain and only_read and self.watch is None

    @cached_property
    def is_plain_watch(self) -> bool:
        """Nothing but a look at what a module returns, in the axes it has."""
        return self._is_plain and self.watch is not None and not (self.edits or self.hold or self.read)

    @property
    def _is_plain(self) -> bool:
        p = self.point
        plain = p.kind == "module" and not (p.index or p.part or p.span or p.scale or p.heads or p.rules)
        return plain and len(p.axes) == 3 and "expert" not in p.axes and "choice" not in p.axes


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
    calls: dict[nn.Module, Call] = field(default_factory=dict)
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
                self._put(self.root._forward_pre_hooks, root_hook(self), self.root._forward_pre_hooks_with_kwargs)
            for task in self.tasks:
                if task.point.stream is not None and (task.edits or (self.grad and task.read)):
                    self._put(task.point.stream._forward_hooks, carry_hook(self, task))
            for (module, side), tasks in stations.items():
                if side == "out":
                    self._put(module._forward_hooks, out_hook(self, tasks))
                else:
                    self._put(module._forward_pre_hooks, in_hook(self, tasks), module._forward_pre_hooks_with_kwargs)
            for module in {t.point.module for t in self.tasks if any(e.calls for e in t.edits)}:
                self._put(module._forward_pre_hooks, self._note_call, module._forward_pre_hooks_with_kwargs)
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

    def _note_call(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """After the edits of what the module receives, for edits of what it returns."""
        if self.mine():
            self.calls[module] = Call(module, args, kwargs)

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
        self.calls.clear()

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
                step.held = {n: self._seen(point.name, n, edit) for n in edit.needs}
            step.call = self.calls.get(point.module) if edit.calls else None
            y = apply(edit, x, step, point.axes)
            if y is None:
                continue
            self.edit_fired[id(edit)] = self.edit_fired.get(id(edit), 0) + 1
            if not self.allow_nan:
                check_finite(self, edit, x, y, step, point)
            x = y
        if task.hold:
            self.held[point.name] = x.clone() if task.copies else x
        if task.read:
            x = self.record(task, x, step)
        if task.watch is not None:
            self.fired[point.name] = self.fired.get(point.name, 0) + (not task.read)
            task.watch(x, step)
        return x

    def _seen(self, site: str, name: str, edit: Edit) -> Tensor:
        """The value of another site that an edit here asked for."""
        wanted = needed_site(site, name)
        if wanted not in self.held:
            raise EditError(
                f"the edit {edit!r} at {site} looks at {wanted}, which has not happened yet in this forward pass.\n"
                "  an edit can look at sites before its own; move it, or what it looks at."
            )
        return self.held[wanted]

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

    def finish(self) -> None:
        """Raise for whatever was asked and never happened."""
        for total, edit, step in self.flags:
            if not math.isfinite(float(total)):
                raise NotFiniteError(
                    f"the edit {edit!r} made NaN or infinity at {edit.site} (columns {step.start}-{step.stop - 1})."
                )
        for task in self.tasks:
            point = task.point
            if (task.read or task.watch) and not self.fired.get(point.name):
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
