"""Attention sinks: positions that draw attention whatever they say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import ModelError
from inscape.engine.forward import run
from inscape.engine.inputs import prepare
from inscape.models.model import Model


@dataclass(frozen=True, eq=False)
class Sinks:
    """Attention received, per layer, means over heads and inputs.

    first: attention on the first position from all later queries. elsewhere: the control, attention on a later
    position from the queries after it, mean over these positions. chance: attention on the first position if every
    query spread its own evenly over the keys it may see. received: for each input, [layer, pos], mean over heads and
    queries that may see the key, the key's own query left out. even: the same for queries that look evenly.
    """

    layers: tuple[str, ...]
    first: Float[Tensor, " layer"]
    elsewhere: Float[Tensor, " layer"]
    chance: Float[Tensor, " layer"]
    received: tuple[Float[Tensor, "layer _"], ...]
    even: tuple[Float[Tensor, "layer _"], ...]


def attention_sinks(model: Model, inputs: Sequence[Any]) -> Sinks:
    """How much attention each position receives, and the first one above all.

    received[k] = mean over heads and queries q != k that may see k of pattern[q, k]. Inputs are runs of one row each.
    Cost: one forward an input without the head; the pattern of a layer is reduced as soon as it is made.
    Raises: ModelError for a model without attention patterns.
    """
    names = [f"{b.name}.attn.pattern" for b in model.blocks if f"{b.name}.attn.pattern" in model.sites]
    if not names:
        raise ModelError(f"{type(model.module).__name__} has no attention pattern to look at.")
    rows = [run(model, one, read={name: (name, _received) for name in names}) for one in inputs]
    per_input = tuple(torch.stack([trace[name][0] for name in names]).cpu() for trace in rows)
    even = tuple(torch.stack([trace[name][1] for name in names]).cpu() for trace in rows)
    chance = torch.stack([e[:, 0] for e in even]).nanmean(0)
    first = torch.stack([r[:, 0] for r in per_input]).nanmean(0)
    elsewhere = torch.stack(
        [r[:, 1:].nanmean(1) if r.shape[1] > 1 else r[:, 0] * torch.nan for r in per_input]
    ).nanmean(0)
    return Sinks(tuple(names), first, elsewhere, chance, per_input, even)


def _received(pattern: Tensor) -> Tensor:
    """[2, key]: attention received, and what even attention would give; the last key of a causal model has neither."""
    seen = (pattern > 0).flatten(0, 1).any(0)  # [query, key]: a key one head sees may be seen by all
    n = min(seen.shape)
    others = seen.clone()
    others[torch.arange(n), torch.arange(n)] = False
    count = others.sum(0)
    mean = pattern.float().mean((0, 1))
    even = seen.float() / seen.sum(1, keepdim=True).clamp(min=1)
    total = torch.stack([(mean * others).sum(0), (even * others).sum(0)])
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)


@dataclass(frozen=True)
class Sink:
    """A position of one head that later queries look at: mass, their mean attention; even, that of even attention.

    row: which input. pos: real position. token: its id. is_first: the first position, the sink that is known.
    """

    layer: str
    head: int
    row: int
    pos: int
    token: int | None
    mass: float
    even: float

    @property
    def is_first(self) -> bool:
        return self.pos == 0


def detect_sinks(
    model: Model, inputs: Sequence[Any], *, above: float = 0.3, times: float = 0.0, queries: int = 4
) -> list[Sink]:
    """Every (layer, head, position) that draws at least `above` of later queries' attention and `times` an even share.

    mass = mean over the later real queries that may see it; positions that fewer than `queries` later ones see
    are left out, because a look at the neighbour is no sink. Positions behind the first are *intermediate* sinks.
    inputs: one entry a run, of any number of rows. Largest mass first.
    Cost: one forward an input without the head; a pattern is reduced as soon as it is made.
    Raises: ModelError for a model without attention patterns (a look at q and k alone: `column_mass`).
    Source: rule as in arXiv:2309.17453 and arXiv:2510.22603, whose threshold is not told: both numbers are arguments.
    """
    names = [f"{b.name}.attn.pattern" for b in model.blocks if f"{b.name}.attn.pattern" in model.sites]
    if not names:
        raise ModelError(f"{type(model.module).__name__} has no attention pattern to look at.")
    found, first_row = [], 0
    for one in inputs:
        ready = prepare(model, one)
        trace = run(model, ready, read={n: (n, lambda p, mask=ready.mask: _by_head(p, mask)) for n in names})
        for name in names:
            mass, even, count = trace[name].cpu().unbind(-1)
            hits = (mass >= above) & (mass >= times * even) & (count >= queries)
            for b, head, column in hits.nonzero().tolist():
                pos, token = column, None
                if ready.mask is not None:
                    pos = int(ready.mask[b, :column].sum())
                if ready.tokens is not None:
                    token = int(ready.tokens[b, column])
                layer = name.removesuffix(".attn.pattern")
                at = (b, head, column)
                found.append(Sink(layer, head, first_row + b, pos, token, float(mass[at]), float(even[at])))
        first_row += trace[names[0]].shape[0]
    return sorted(found, key=lambda s: -s.mass)


def _by_head(pattern: Tensor, mask: Tensor | None) -> Float[Tensor, "batch head key 3"]:
    """Mean attention from later queries, what even attention would give, and how many queries may see the key."""
    seen = pattern > 0
    if mask is not None and mask.shape == (pattern.shape[0], pattern.shape[-1]):
        real = mask.bool().to(pattern.device)
        seen = seen & real[:, None, :, None] & real[:, None, None, :]
    later = seen & torch.ones(pattern.shape[-2:], dtype=torch.bool, device=pattern.device).tril(-1)
    count = later.sum(2)
    even = later.float() / seen.sum(-1, keepdim=True).clamp(min=1)
    mass = (pattern.float() * later).sum(2) / count.clamp(min=1)
    return torch.stack([mass, even.sum(2) / count.clamp(min=1), count.float()], -1)


def column_mass(
    q: Float[Tensor, "batch pos head d"],
    k: Float[Tensor, "batch pos kv d"],
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    window: int | None = None,
    softcap: float | None = None,
    chunk: int = 128,
) -> Float[Tensor, "batch head key"]:
    """Mean attention each key gets from later queries, from q and k alone: the full map is never made.

    For long texts and fused attention: read `attn.q` and `attn.k`, which are as the scores use them. Causal; scale is
    1 / sqrt(d) when left out; mask: real tokens [batch, pos]; window: keys back that a query sees, its own included.
    NaN where no later query sees a key. Memory: chunk x pos scores a head at a time.
    """
    batch, n, heads, d = q.shape
    k = k.repeat_interleave(heads // k.shape[2], 2)
    real = torch.ones(batch, n, dtype=torch.bool, device=q.device) if mask is None else mask.bool().to(q.device)
    total, count = torch.zeros(batch, heads, n, device=q.device), torch.zeros(batch, heads, n, device=q.device)
    key = torch.arange(n, device=q.device)
    for start in range(0, n, chunk):
        query = torch.arange(start, min(start + chunk, n), device=q.device)
        scores = torch.einsum("bqhd,bkhd->bhqk", q[:, query].float(), k.float()) * (scale or d**-0.5)
        if softcap:
            scores = softcap * (scores / softcap).tanh()
        allowed = key[None] <= query[:, None]
        if window:
            allowed = allowed & (key[None] > query[:, None] - window)
        seen = allowed[None, None] & real[:, None, None, :]
        pattern = scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0.0)
        later = seen & (key[None] < query[:, None]) & real[:, None, query, None]
        total += (pattern * later).sum(2)
        count += later.sum(2)
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)
