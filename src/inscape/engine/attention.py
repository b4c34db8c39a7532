"""Inside attention: q, k, v, scores and pattern of one call, and the arithmetic that ties them together.

Two ways lead here: transformers' registry of attention functions (`attention_registry`), and the torch calls of
modules that compute attention themselves (`attention_calls`). Reading scores or pattern computes them beside the
model's own kernel, whose output goes on untouched; editing them computes the output by hand.
The arithmetic: softmax(softcap(q k' * scaling) + bias + mask [, sinks]) v, in float32 or wider.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.step import Step
from inscape.engine.session import Session, Task


class Tap:
    """One session's reads and edits in one attention module; tensors come in as [batch, head, pos, d_head]."""

    def __init__(self, session: Session, tasks: Sequence[Task]) -> None:
        self.session, self.tasks = session, {t.point.inside: t for t in tasks}

    def seen(self, *names: str) -> None:
        """Count these as done, everything when none is named; may stop the forward."""
        for name in names or self.tasks:
            if name in self.tasks:
                self.session.seen(self.tasks[name])

    def visit(self, name: str, x: Tensor) -> Tensor:
        """Visit scores or pattern, [batch, head, query, key]."""
        task = self.tasks[name]
        return self.session.visit(task, x, self._step(task, x.shape[0], x.shape[2]))

    def heads(self, name: str, x: Tensor, n_queries: int) -> Tensor:
        """Visit q, k or v, seen as [batch, pos, head, d_head]; in a cached step keys and values hold the past too.

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
            return x if new is seen and not self.session.grad else new.transpose(1, 2)
        whole = Step(step.stop - total, step.stop, step.real, None, step.prompt, n_repeats=step.n_repeats)
        reading, task.read = task.read, False
        try:
            new = self.session.visit(task, seen, whole)
        finally:
            task.read = reading
        if reading:
            part = self.session.record(task, new[:, past:], step)
            new = torch.cat([new[:, :past], part], 1) if self.session.grad else new
        return x if new is seen and not self.session.grad else new.transpose(1, 2)

    def _step(self, task: Task, batch: int, n_queries: int) -> Step:
        x = torch.empty(batch, n_queries, device="meta")
        return self.session.step_of(self.session, task.point.prefix, x)


def heads(taps: Sequence[Tap], name: str, x: Tensor, n_queries: int) -> Tensor:
    """q, k or v after every session's visit, in the order in which they were entered."""
    for tap in taps:
        x = tap.heads(name, x, n_queries)
    return x


def maps(
    taps: Sequence[Tap], scores_of: Callable[[], Tensor], pattern_of: Callable[[Tensor, bool], Tensor]
) -> Tensor | None:
    """Visit scores and pattern. Returns the pattern that goes on, None where the model's own kernel may do it.

    pattern_of: from the scores, and whether they are no longer the model's own.
    """
    asked = [tap for tap in taps if "scores" in tap.tasks or "pattern" in tap.tasks]
    if not asked:
        return None
    goes_on = any(tap.session.grad for tap in asked)  # in a graph, both must lie on the way to the output
    scores = scores_of()
    for tap in asked:
        if "scores" in tap.tasks:
            new = tap.visit("scores", scores)
            goes_on, scores = goes_on or new is not scores, new
    if not goes_on and not any("pattern" in tap.tasks for tap in asked):
        return None
    pattern = pattern_of(scores, goes_on)
    for tap in asked:
        if "pattern" in tap.tasks:
            new = tap.visit("pattern", pattern)
            goes_on, pattern = goes_on or new is not pattern, new
    return pattern if goes_on else None


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


def by_hand(pattern: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """What the heads bring, [batch, head, query, d_head], with the kernel's own dropout on the pattern."""
    wide = v.repeat_interleave(pattern.shape[1] // v.shape[1], 1)
    return nn.functional.dropout(pattern.to(wide.dtype), dropout) @ wide
