"""Into attention through transformers' registry of attention functions, at the asked layers only.

Each asked attention module gets a shallow copy of its configuration that names our function; masks are made by the
model from its own configuration, so they stay what they were, and every other layer keeps its kernel.
"""

import copy
import sys
import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from inscape.core.errors import ModelError
from inscape.engine.attention import Tap, by_hand, heads, maps, scores_of, softmax_of
from inscape.engine.session import Session, Task

NAME = "inscape"  # a name with "sdpa", "flash" or "/" in it is treated specially by transformers
_LOCK = threading.Lock()
_HELD: dict[nn.Module, tuple[Any, list[Any]]] = {}  # module -> its own config, taps in force (several sessions)


def tapped(session: Session, wanted: dict[nn.Module, list[Task]]) -> Callable[[], None]:
    """Put the session's taps into force; returns what takes them away again."""
    _register()
    entered: list[tuple[nn.Module, Any]] = []
    with _LOCK:
        for module, tasks in wanted.items():
            if getattr(module, "config", None) is None or not hasattr(module.config, "_attn_implementation"):
                raise ModelError(
                    f"{tasks[0].point.name}: {tasks[0].point.path} does not use transformers' attention interface."
                )
            tap = Tap(session, tasks)
            if module not in _HELD:
                own: Any = copy.copy(module.config)
                own._inscape_base = own._attn_implementation
                own._inscape_taps = []
                own._attn_implementation_internal = NAME
                _HELD[module] = (module.config, own._inscape_taps)
                module.config = own
            _HELD[module][1].append(tap)
            entered.append((module, tap))

    def leave() -> None:
        with _LOCK:
            for module, tap in entered:
                config, taps = _HELD[module]
                taps.remove(tap)
                if not taps:
                    module.config = config
                    del _HELD[module]

    return leave


_registered: list[bool] = []


def _register() -> None:
    """Make our function known to transformers, once; it does nothing unless a module's configuration names it."""
    if not _registered:
        from transformers.modeling_utils import AttentionInterface

        AttentionInterface.register(NAME, _dispatch)
        _registered.append(True)


def _dispatch(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    scaling: Any = None,
    **kw: Any,
) -> Any:
    config: Any = module.config
    kind = config._inscape_base

    def base(q: Tensor, k: Tensor, v: Tensor) -> Any:
        if kind == "eager":
            return sys.modules[type(module).__module__].eager_attention_forward(
                module, q, k, v, attention_mask, scaling=scaling, **kw
            )
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        return ALL_ATTENTION_FUNCTIONS[kind](module, q, k, v, attention_mask, scaling=scaling, **kw)

    taps = [tap for tap in config._inscape_taps if tap.session.mine()]
    q, k, v = (heads(taps, name, x, query.shape[2]) for name, x in (("q", query), ("k", key), ("v", value)))
    pattern = maps(
        taps, lambda: scores_of(module, q, k, attention_mask, scaling, kw), lambda s, _: softmax_of(s, kw).to(q.dtype)
    )
    if pattern is None:
        out = base(q, k, v)
    else:
        out = by_hand(pattern, v, kw.get("dropout", 0.0)).transpose(1, 2).contiguous(), pattern
    for tap in taps:
        tap.seen()
    return out
