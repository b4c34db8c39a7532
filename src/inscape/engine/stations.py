"""The callables that a session puts into modules: they take a site's tensor out of a call and put back what changed."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from inscape.core.errors import EditError, ShapeError
from inscape.engine.at_point import at_point
from inscape.engine.routing import is_router, rerouted
from inscape.engine.views import take, view

if TYPE_CHECKING:
    from inscape.engine.session import Session, Task


def root_hook(session: "Session") -> Callable:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return session.before(session, args, kwargs) if session.mine() else None  # type: ignore[misc]

    hook.session = session  # type: ignore[attr-defined] - so that `editing.in_force` finds it
    return hook


def out_hook(session: "Session", tasks: "list[Task]") -> Callable:
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

    if len(tasks) == 1 and not session.grad and tasks[0].is_plain_watch:
        task, name = tasks[0], tasks[0].point.name
        look, fired = task.watch, session.fired
        assert look is not None

        def watch_only(module: nn.Module, args: Any, out: Any) -> None:  # as short, for every step of a generation
            if get_ident() != owner and not session.mine():
                return
            x = out if isinstance(out, Tensor) else out[0]
            step = session.step_of(session, task.point.prefix, x)
            look(x if x.ndim > 2 else view(task.point, x, step), step)
            fired[name] = fired.get(name, 0) + 1
            session.seen(task)

        return watch_only

    def hook(module: nn.Module, args: Any, out: Any) -> Any:
        if not session.mine():
            return None
        changed = False
        for task in tasks:
            x = take(task.point, out)
            new = at_point(session, task, x)
            if new is not x:
                chose = task.point.name.endswith("router.logits") and is_router(out)
                site = task.point.name
                out = rerouted(module, args, out, new, site) if chose else _with(out, task.point.index or 0, new)
                changed = True
            session.seen(task)
        return out if changed else None

    return hook


def in_hook(session: "Session", tasks: "list[Task]") -> Callable:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if not session.mine():
            return None
        changed = False
        for task in tasks:
            x = take(task.point, args, kwargs)
            new = at_point(session, task, x)
            if new is not x:
                args, kwargs = _with_input(args, kwargs, task.point.index or 0, new)
                changed = True
                if task.point.stream is not None:
                    session.held[task.point.name + ":moved"] = new - x
            session.seen(task)
        return (args, kwargs) if changed else None

    return hook


def carry_hook(session: "Session", task: "Task") -> Callable:
    """The residual branch goes past the norm where the middle of the stream is met: the block's output changes too."""

    def hook(module: nn.Module, args: Any, out: Any) -> Any:
        moved = session.held.pop(task.point.name + ":moved", None) if session.mine() else None
        if moved is None:
            return None
        x = out if isinstance(out, Tensor) else out[0]
        return _with(out, 0, x + moved.reshape(x.shape))

    return hook


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
