"""Into attention through the torch calls of modules that compute it themselves, past transformers' registry.

While an asked module's own forward runs, and only then, a `TorchFunctionMode` sees the torch functions it calls:
1. `scaled_dot_product_attention` is all of it: q, k and v are its arguments, the rest is done beside it or by hand.
2. Else the first product of two batched tensors is q k', whatever is added, scaled or masked on the way;
3. the softmax over keys of something as large as a product gets the scores and returns the pattern;
4. the next product whose left side is as large as the pattern is pattern v.
Each tensor is replaced on its way where an edit asks for it; nothing else about the module's computation changes.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from inscape.core.errors import ModelError
from inscape.engine.attention import Tap, by_hand, heads, maps, scores_of, softmax_of
from inscape.engine.session import Session, Task

Place = tuple[int, str]  # of an argument: by position, by keyword
PRODUCTS: dict[Callable, tuple[Place, Place]] = {
    torch.matmul: ((0, "input"), (1, "other")),
    torch.Tensor.matmul: ((0, "self"), (1, "other")),
    torch.bmm: ((0, "input"), (1, "mat2")),
    torch.Tensor.bmm: ((0, "self"), (1, "mat2")),
    torch.baddbmm: ((1, "batch1"), (2, "batch2")),
    torch.Tensor.baddbmm: ((1, "batch1"), (2, "batch2")),
}
SOFTMAX: tuple[Callable, ...] = (F.softmax, torch.softmax, torch.Tensor.softmax)
MASKED = 32  # masks are the dtype's minimum, sometimes divided by sqrt(d_head) after they were added


_RUNNING: dict[tuple[int, nn.Module], "_Calls"] = {}  # by thread: sessions that watch one module share one mode


class Watch:
    """One session's look into one module: its hooks before and after the forward."""

    def __init__(self, session: Session, module: nn.Module, tasks: Sequence[Task]) -> None:
        self.session, self.module, self.tap = session, module, Tap(session, tasks)

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """The pre-hook; the batch is told by what the module receives, since heads may be folded into it."""
        if not self.session.mine():
            return
        key = (threading.get_ident(), self.module)
        if key in _RUNNING:
            _RUNNING[key].taps.append(self.tap)
            return
        given = [x for x in (*args, kwargs.get("hidden_states"), *kwargs.values()) if isinstance(x, Tensor)]
        hidden = next((x for x in given if x.is_floating_point() and x.ndim == 3), None)
        if hidden is not None:
            _RUNNING[key] = _Calls(self.tap, self.module, hidden)
            _RUNNING[key].__enter__()

    def after(self, module: nn.Module, args: Any, out: Any) -> None:
        """The hook, called also when the forward raises, with None as its output."""
        calls = _RUNNING.get((threading.get_ident(), self.module))
        if calls is None or self.tap not in calls.taps:
            return
        self.abandon()
        missing = next((t for n, t in self.tap.tasks.items() if n not in calls.met), None)
        if missing is not None and out is not None:
            point = missing.point
            raise ModelError(
                f"{point.name}: {point.path} ({type(module).__name__}) ran and no attention was seen in it, neither "
                "scaled_dot_product_attention nor a product, a softmax over keys and a second product.\n"
                "  flash attention is neither: load the model with attn_implementation='eager' or 'sdpa'."
            )

    def abandon(self) -> None:
        """Leave the mode; also after an interrupt, which hooks that are always called do not see."""
        key = (threading.get_ident(), self.module)
        if key in _RUNNING and _RUNNING[key].taps[0] is self.tap:  # the first to enter is the last to leave
            _RUNNING.pop(key).__exit__(None, None, None)


class _Calls(TorchFunctionMode):
    """What one forward of one attention module calls."""

    def __init__(self, first: Tap, module: nn.Module, hidden: Tensor) -> None:
        super().__init__()
        self.taps, self.module = [first], module
        self.batch, self.n_queries, self.dtype = hidden.shape[0], hidden.shape[1], hidden.dtype
        self.met: set[str] = set()
        self.products: list[int] = []  # sizes of the batched products before the softmax
        self.pattern: torch.Size | None = None  # shape of what the softmax returned

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in PRODUCTS:
            return self._product(func, args, kwargs)
        if func in SOFTMAX:
            return self._softmax(func, args, kwargs)
        if func is F.scaled_dot_product_attention:
            return self._whole(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _whole(
        self, func: Callable, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, **more: Any,
    ) -> Tensor:  # fmt: skip
        def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return func(q, k, v, attn_mask, dropout_p, is_causal, scale=scale, **more)

        q, k, v = (self._unfolded(x) for x in (query, key, value))
        if q is None or k is None or v is None or q.shape[2] != self.n_queries:
            return kernel(query, key, value)
        q, k, v = (heads(self.taps, n, x, self.n_queries) for n, x in (("q", q), ("k", k), ("v", v)))
        pattern = maps(
            self.taps,
            lambda: scores_of(self.module, q, k, self._mask(attn_mask, is_causal, q, k), scale, {"is_causal": False}),
            lambda scores, _: softmax_of(scores, {}).to(q.dtype),
        )
        if pattern is None:
            out = kernel(*(x.reshape(o.shape) for x, o in zip((q, k, v), (query, key, value), strict=True)))
        else:
            out = by_hand(pattern, v, dropout_p).reshape(*query.shape[:-1], value.shape[-1])
        self._done("q", "k", "v", "scores", "pattern")
        return out

    def _mask(self, mask: Tensor | None, is_causal: bool, q: Tensor, k: Tensor) -> Tensor | None:
        """The kernel's mask as [batch, head, query, key]; its causal one is that of the upper left corner."""
        if is_causal:
            return torch.ones(1, 1, q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
        if mask is None or mask.ndim == 4:
            return mask
        if mask.ndim == 3 and mask.shape[0] == q.shape[0] * q.shape[1]:
            return mask.unflatten(0, (q.shape[0], q.shape[1]))
        return mask.reshape(*(1,) * (4 - mask.ndim), *mask.shape)

    def _product(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        places = PRODUCTS[func]
        left, right = (_argument(place, args, kwargs) for place in places)
        if not (isinstance(left, Tensor) and isinstance(right, Tensor) and min(left.ndim, right.ndim) > 2):
            return func(*args, **kwargs)
        if self.pattern is not None:
            if left.numel() != self.pattern.numel() or left.shape[-2:] != self.pattern[-2:]:
                return func(*args, **kwargs)
            self.pattern = None
            args, kwargs = self._visited("v", right, places[1], args, kwargs)
            out = func(*args, **kwargs)
            self._done("v")
            return out
        if not self.products and left.shape[-2] == self.n_queries:
            args, kwargs = self._visited("q", left, places[0], args, kwargs)
            args, kwargs = self._visited("k", right, places[1], args, kwargs, turned=True)
        out = func(*args, **kwargs)
        self.products.append(out.numel())
        return out

    def _visited(
        self, name: str, x: Tensor, place: Place, args: tuple, kwargs: dict, turned: bool = False
    ) -> tuple[tuple, dict]:
        """The call with q, k or v as the session wants it; keys come turned, [..., d_head, key]."""
        own = self._unfolded(x.transpose(-1, -2) if turned else x)
        if own is None:
            return args, kwargs
        new = heads(self.taps, name, own, self.n_queries)
        if new is own:
            return args, kwargs
        new = (new.transpose(-1, -2) if turned else new).reshape(x.shape)
        index, keyword = place
        if index < len(args):
            return (*args[:index], new, *args[index + 1 :]), kwargs
        return args, kwargs | {keyword: new}

    def _softmax(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        own = func(*args, **kwargs)
        x = _argument((0, "input"), args, kwargs)
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        scores = self._unfolded(x)
        if x.numel() not in self.products or x.shape[-2] != self.n_queries or dim not in (-1, x.ndim - 1):
            return own
        if scores is None:
            return own
        self._one_product()
        self.products.clear()
        self.pattern = own.shape
        lowest = max(torch.finfo(d).min for d in (x.dtype, self.dtype)) / MASKED
        wide = scores.to(torch.promote_types(x.dtype, torch.float32))
        given = wide.masked_fill(wide <= lowest, -torch.inf)

        def pattern_of(scores: Tensor, is_new: bool) -> Tensor:
            if is_new:
                return softmax_of(scores, {}).to(own.dtype)
            dead = (given == -torch.inf).all(-1, keepdim=True)
            return own.reshape(given.shape).masked_fill(dead, 0.0)

        pattern = maps(self.taps, lambda: given, pattern_of)
        self._done("q", "k", "scores", "pattern")
        return own if pattern is None else pattern.reshape(own.shape)

    def _one_product(self) -> None:
        """Where scores are a sum of several products, changing one of them would not be changing q or k."""
        task = next((tap.tasks[n] for tap in self.taps for n in ("q", "k") if n in tap.tasks), None)
        if task is not None and len(self.products) != 1:
            raise ModelError(
                f"{task.point.name}: the scores of {task.point.path} are made of {len(self.products)} products, "
                "of which q k' is only one.\n  .scores, .pattern and .v of the same module are what it offers."
            )

    def _unfolded(self, x: Tensor) -> Tensor | None:
        """[batch, head, pos, d_head], or the same of maps; heads may be folded into the batch, or left out for one."""
        if x.ndim == 3 and x.shape[0] % self.batch == 0:
            return x.unflatten(0, (self.batch, -1))
        return x if x.ndim == 4 and x.shape[0] == self.batch else None

    def _done(self, *names: str) -> None:
        self.met |= set(names)
        for tap in self.taps:
            tap.seen(*names)


def _argument(place: Place, args: tuple, kwargs: dict) -> Any:
    index, keyword = place
    return args[index] if index < len(args) else kwargs.get(keyword)
