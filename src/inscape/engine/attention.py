"""Inside the attention function: q, k, v, scores and pattern of the asked layers only, through transformers' registry.

Each asked attention module gets a shallow copy of its configuration that names our function; masks are made by the
model from its own configuration, so they stay what they were, and every other layer keeps its kernel. Reading scores
or pattern computes them beside the model's own kernel, whose output goes on untouched; editing them computes the
output by hand. The arithmetic: softmax(softcap(q k' * scaling) + bias + mask [, sinks]) v, in float32 or wider.
"""

import copy
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.errors import ModelError
from inscape.core.step import Step
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
            tap = _Tap(session, {t.point.inside: t for t in tasks})
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

    call: Callable = base
    for tap in config._inscape_taps:
        if tap.session.mine():
            call = tap.around(call, module, attention_mask, scaling, kw)
    return call(query, key, value)


class _Tap:
    """One session's reads and edits in one attention call."""

    def __init__(self, session: Session, tasks: dict[str, Task]) -> None:
        self.session, self.tasks = session, tasks

    def around(self, inner: Callable, module: nn.Module, mask: Any, scaling: Any, kw: dict) -> Callable:
        def call(q: Tensor, k: Tensor, v: Tensor) -> Any:
            out = self._run(inner, module, q, k, v, mask, scaling, kw)
            for task in self.tasks.values():
                self.session.seen(task)
            return out

        return call

    def _run(
        self, inner: Callable, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, scaling: Any, kw: dict
    ) -> Any:
        q = self._heads("q", q, q.shape[2])
        k = self._heads("k", k, q.shape[2])
        v = self._heads("v", v, q.shape[2])
        scores_task, pattern_task = self.tasks.get("scores"), self.tasks.get("pattern")
        if scores_task is None and pattern_task is None:
            return inner(q, k, v)
        scores = scores_of(module, q, k, mask, scaling, kw)
        step = self._step(scores_task or pattern_task, q.shape[0], q.shape[2])  # type: ignore[arg-type]
        changed = False
        if scores_task is not None:
            new = self.session.visit(scores_task, scores, step)
            changed, scores = new is not scores, new
        pattern = softmax_of(scores, kw).to(q.dtype)
        if pattern_task is not None:
            new = self.session.visit(pattern_task, pattern, step)
            changed, pattern = changed or new is not pattern, new
        if not changed and not self.session.grad:  # with a graph, scores and pattern must lie on the way to the output
            return inner(q, k, v)
        wide = v.repeat_interleave(q.shape[1] // v.shape[1], 1)
        return (pattern.to(wide.dtype) @ wide).transpose(1, 2).contiguous(), pattern

    def _heads(self, name: str, x: Tensor, n_queries: int) -> Tensor:
        """q, k or v as [batch, pos, head, d_head]; in a cached step keys and values hold the past too.

        Edits see every column the cache holds, so that a cached step gives what one long forward gives (the cache
        itself keeps the unedited values); records keep the new columns only.
        """
        task = self.tasks.get(name)
        if task is None:
            return x
        seen = x.transpose(1, 2)
        total = seen.shape[1]
        step = self._step(task, x.shape[0], n_queries)
        past = total - n_queries
        is_cross = ".cross." in task.point.name  # keys and values are the encoder's: none of them is past
        if name == "q" or past <= 0 or is_cross:
            new = self.session.visit(task, seen, step)
            return x if new is seen else new.transpose(1, 2)
        whole = Step(step.stop - total, step.stop, step.real, None, step.prompt, n_repeats=step.n_repeats)
        reading, task.read = task.read, False
        try:
            new = self.session.visit(task, seen, whole)
        finally:
            task.read = reading
        if reading:
            self.session.record(task, new[:, past:], step)
        return x if new is seen else new.transpose(1, 2)

    def _step(self, task: Task, batch: int, n_queries: int) -> Step:
        x = torch.empty(batch, n_queries, device="meta")
        return self.session.step_of(self.session, task.point.prefix, x)


def scores_of(module: nn.Module, q: Tensor, k: Tensor, mask: Any, scaling: Any, kw: dict) -> Tensor:
    """Attention scores [batch, head, query, key], scaled, soft-capped, biased; -inf where masked."""
    wide = torch.promote_types(q.dtype, torch.float32)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    s = (q @ k.transpose(-1, -2)).to(wide) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if kw.get("softcap") is not None:
        s = torch.tanh(s / kw["softcap"]) * kw["softcap"]
    if kw.get("position_bias") is not None:
        s = s + kw["position_bias"]
    is_causal = kw.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    n_q, n_k = s.shape[-2:]
    if isinstance(mask, Tensor) and mask.ndim == 4:
        mask = mask[..., :n_k]
        if mask.dtype == torch.bool:
            return s.masked_fill(~mask, -torch.inf)
        return (s + mask).masked_fill(mask <= torch.finfo(mask.dtype).min / 2, -torch.inf)
    if isinstance(mask, Tensor) and mask.ndim == 2:  # flash attention: real tokens only
        s = s.masked_fill(~mask[:, None, None, -n_k:].bool(), -torch.inf)
    if is_causal and n_q > 1:
        back = torch.arange(n_k - n_q, n_k, device=s.device)[:, None] - torch.arange(n_k, device=s.device)
        hidden = back < 0
        if (
            kw.get("sliding_window")
            and not isinstance(mask, Tensor)
            and "flash" in str(getattr(module.config, "_inscape_base", ""))
        ):
            hidden = hidden | (back >= kw["sliding_window"])
        s = s.masked_fill(hidden, -torch.inf)
    return s


def softmax_of(scores: Tensor, kw: dict) -> Tensor:
    """Softmax over keys; rows that may look at nothing give zeros; sinks take their share and are dropped."""
    if kw.get("s_aux") is not None:
        sink = kw["s_aux"].reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1).to(scores.dtype)
        return torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    dead = (scores == -torch.inf).all(-1, keepdim=True)
    return scores.masked_fill(dead, 0.0).softmax(-1).masked_fill(dead, 0.0)
