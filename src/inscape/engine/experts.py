"""Single experts of a stack, through transformers' experts registry: they are parameters now, not modules.

The asked experts are run alone on the rows routed to them; the module's own function then gives the output, and an
edited expert adds `weight * (edited - own)` to it. Reading changes nothing, bit for bit.
"""

import copy
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.errors import ModelError
from inscape.engine.session import Session, Task

NAME = "inscape"
_LOCK = threading.Lock()
_HELD: dict[nn.Module, tuple[Any, list]] = {}
_registered: list[bool] = []


def tapped_experts(session: Session, wanted: dict[nn.Module, list[Task]]) -> Callable[[], None]:
    """Put the session's taps on stacked experts into force; returns what takes them away again."""
    if not _registered:
        from transformers.integrations.moe import ExpertsInterface

        ExpertsInterface.register(NAME, _dispatch)
        _registered.append(True)
    entered = []
    with _LOCK:
        for module, tasks in wanted.items():
            config = getattr(module, "config", None)
            if config is None or not hasattr(type(module).forward, "__wrapped__"):
                raise ModelError(
                    f"{tasks[0].point.name}: {tasks[0].point.path} does not use transformers' experts interface."
                )
            entry = (session, tasks)
            if module not in _HELD:
                own = copy.copy(config)
                own._inscape_base = own._experts_implementation
                own._inscape_taps = []
                own._experts_implementation_internal = NAME
                _HELD[module] = (config, own._inscape_taps)
                module.config = own
            _HELD[module][1].append(entry)
            entered.append((module, entry))

    def leave() -> None:
        with _LOCK:
            for module, entry in entered:
                config, taps = _HELD[module]
                taps.remove(entry)
                if not taps:
                    module.config = config
                    del _HELD[module]

    return leave


def _dispatch(module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor, **kw: Any) -> Tensor:
    out = _own(module, hidden_states, top_k_index, top_k_weights)
    for session, tasks in module.config._inscape_taps:
        if not session.mine():
            continue
        for task in tasks:
            step = session.step_of(session, task.point.prefix, None)
            e = task.point.index
            row, slot = torch.where(top_k_index == e)
            alone = one_expert(module, hidden_states[row], e)
            own = torch.zeros_like(hidden_states).index_put((row,), alone.to(hidden_states.dtype))
            seen = own.unflatten(0, (step.batch, -1)) if hidden_states.ndim == 2 else own
            base = seen
            if session.grad:  # beside the path to the output, like the parts of the heads
                base = seen.detach()
                seen = base.clone().requires_grad_()
            new = session.visit(task, seen, step)
            if new is not seen or session.grad:
                moved = (new - base).reshape(own.shape)[row] * top_k_weights[row, slot][:, None]
                out = out.index_add(0, row, moved.to(out.dtype)) if out.ndim == 2 else out
            session.seen(task)
    return out


def _own(module: Any, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    kind = module.config._inscape_base
    if kind in (None, "eager"):
        return type(module).forward.__wrapped__(module, x, index, weights)
    return ALL_EXPERTS_FUNCTIONS[kind](module, x, index, weights)


def one_expert(module: Any, x: Tensor, expert: int) -> Tensor:
    """Rows through one expert, unweighted; any of the stacked layouts."""
    if not len(x):
        return x
    index = torch.full((len(x), 1), expert, device=x.device)
    return type(module).forward.__wrapped__(module, x, index, torch.ones_like(index, dtype=x.dtype))
