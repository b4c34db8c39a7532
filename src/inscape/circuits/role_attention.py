"""Whom does each head look at? The attention from one place of a prompt to its named words, pair by pair.

For indirect objects, from the last token: name movers look at the indirect object, inhibition heads at the second
mention of the subject. The control is the same positions of the corrupted prompts: a head that looks there whatever is
written goes by position.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError, ModelError
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.tasks.pairs import Pairs

BATCH = 32  # prompts a run


@dataclass(frozen=True, eq=False)
class RoleAttention:
    """Mean attention of every head to each role, [role, layer, head]; NaN where a layer has fewer heads.

    per_pair: pair by pair, [pair, role, layer, head]. control: the mean on the corrupted prompts, at their positions of
    the same roles. layers: the number of each layer that has a pattern. query: from where it is looked.
    """

    roles: tuple[str, ...]
    layers: tuple[int, ...]
    values: Float[Tensor, "role layer head"]
    control: Float[Tensor, "role layer head"]
    per_pair: Float[Tensor, "pair role layer head"]
    query: str

    def to(self, role: str) -> Float[Tensor, "layer head"]:
        """The map of one role."""
        if role not in self.roles:
            raise InputError(f"no attention to {role!r} was measured; there are {', '.join(self.roles)}.")
        return self.values[self.roles.index(role)]

    def of(self, layer: int, head: int) -> dict[str, float]:
        """One head's attention, by role."""
        if layer not in self.layers or not 0 <= head < self.values.shape[2]:
            raise InputError(f"head {layer}.{head} has no attention pattern here.")
        return dict(zip(self.roles, self.values[:, self.layers.index(layer), head].tolist(), strict=True))


def role_attention(
    model: Model, pairs: Pairs, roles: Sequence[str] | None = None, *, query: str = "end"
) -> RoleAttention:
    """The attention that every head pays from one role of a prompt to the others.

    roles: names in `pairs.roles`; all but the query when left out. query: the role that looks; of several tokens the
    last. A role of several tokens gets the sum over them.
    Sibling: `head_scores` asks what a head looks at on random tokens, for any model; this asks it of a task's words.
    Cost: a forward of the prompts of both kinds without the head.
    Raises: InputError for a role that is not there; ModelError for a model without attention patterns.
    Source: Wang et al. 2022, arXiv:2211.00593, section 3, by mean attention.
    """
    chosen = tuple(roles) if roles is not None else tuple(r for r in pairs.roles if r != query)
    lost = next((r for r in (*chosen, query) if r not in pairs.roles), None)
    if lost is not None or not chosen:
        raise InputError(f"these pairs have no role {lost!r}; they have {', '.join(pairs.roles)}.")
    names = [f"{b.name}.attn.pattern" for b in model.blocks if f"{b.name}.attn.pattern" in model.sites]
    if not names:
        raise ModelError(f"{type(model.module).__name__} offers no attention pattern.")
    made = []
    for ids, places in ((pairs.clean_ids, pairs.roles), (pairs.corrupted_ids, pairs.corrupted_roles)):
        parts = []
        for start in range(0, len(ids), BATCH):
            here = slice(start, start + BATCH)
            tables = [places[r][here] for r in chosen]
            parts.append(_looked(model, names, [list(i) for i in ids[here]], tables, places[query][here, -1]))
        made.append(torch.cat(parts))
    layers = tuple(model.layer_of(n) for n in names)
    return RoleAttention(chosen, layers, made[0].mean(0), made[1].mean(0), made[0], query)


def _looked(
    model: Model, names: Sequence[str], ids: Any, tables: Sequence[Int[Tensor, "n _"]], query: Int[Tensor, " n"]
) -> Float[Tensor, "n role layer head"]:
    rows = torch.arange(len(ids))

    def picked(pattern: Tensor) -> Tensor:
        """[row, role, head]: padding is on the right, so that a position is a column."""
        line = pattern[rows.to(pattern.device), :, query.to(pattern.device)]  # [row, head, key]
        out = []
        for table in tables:
            marked = torch.zeros(len(ids), line.shape[-1], device=line.device, dtype=line.dtype)
            marked.scatter_(1, table.to(line.device), 1.0)
            out.append((line * marked[:, None]).sum(-1))
        return torch.stack(out, 1)

    trace = run(model, ids, read={n: (n, picked) for n in names}, output=False, padding_side="right")
    heads = max(trace[n].shape[-1] for n in names)
    found = [
        torch.nn.functional.pad(trace[n].float().cpu(), (0, heads - trace[n].shape[-1]), value=torch.nan) for n in names
    ]
    return torch.stack(found, 2)
