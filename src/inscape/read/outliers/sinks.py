"""Attention sinks: positions that draw attention whatever they say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import ModelError
from inscape.engine.forward import run
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
