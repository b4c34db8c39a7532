"""Attention between groups of tokens only where a relation holds: hop windows over the nodes of a graph."""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from inscape.core.edit import Edit, make_edit
from inscape.core.edits.attend import columns
from inscape.core.errors import EditError, ShapeError
from inscape.core.step import Step


def relate(
    layer: str,
    groups: Int[Tensor, "row pos"] | Int[Tensor, " pos"],
    allowed: Bool[Tensor, "*row group group"],
    **places: Any,
) -> Edit:
    """Forbid attention from a token of group i to a token of group j unless `allowed[i, j]`.

    groups: the group of each real position, -1 for none, for every row or one for all. Tokens of no group, positions
    after the last one given (generated tokens) and padding see and are seen as the model has it. What the model hides
    stays hidden: a relation only closes. Places: at= (queries), heads=, rows=.
    Choose it for who-sees-whom between many groups; choose `attend(layer, "only", ...)` for one set of keys.
    Raises: ShapeError for a group that the relation does not have.
    """
    if groups.is_floating_point() or groups.dtype == torch.bool or groups.ndim not in (1, 2):
        raise ShapeError(f"relate: groups are whole numbers [pos] or [row, pos]; got {groups.dtype} {groups.shape}.")
    if allowed.dtype != torch.bool or allowed.ndim not in (2, 3) or allowed.shape[-1] != allowed.shape[-2]:
        raise ShapeError(
            f"relate: allowed is a bool table [group, group] or [row, group, group]; "
            f"got {allowed.dtype} {tuple(allowed.shape)}."
        )
    if groups.numel() and int(groups.max()) >= allowed.shape[-1]:
        raise ShapeError(f"relate: group {int(groups.max())} is named, the relation has {allowed.shape[-1]} groups.")
    tensors = {"groups": groups, "allowed": allowed}

    def fn(x: Tensor, step: Step) -> Tensor:
        if ".cross." in step.site:
            raise EditError(f"relate: {step.site} looks at another sequence; it relates tokens of one.")
        n_rows = x.shape[0] // step.n_repeats
        table = allowed if allowed.ndim == 3 else allowed[None]
        for name, n in (("groups", groups.shape[0] if groups.ndim == 2 else 1), ("allowed", table.shape[0])):
            if n not in (1, n_rows):
                raise ShapeError(f"relate at {step.site}: {name} has {n} rows, the run {n_rows}; give 1 or as many.")
        of = _group_of_columns(groups, step)  # [row, column]
        query, key = columns(x, step)
        q, k = of[:, query[:, 0].cpu()], of[:, key[0].clamp(max=of.shape[1] - 1).cpu()]
        k = torch.where(key.cpu() < of.shape[1], k, -1)
        rows = torch.arange(len(table)).repeat_interleave(len(of) // len(table))
        open_ = table.cpu()[rows[:, None, None], q.clamp(min=0)[:, :, None], k.clamp(min=0)[:, None, :]]
        closed = ~open_ & (q >= 0)[:, :, None] & (k >= 0)[:, None, :]
        return x.masked_fill(closed[:, None].to(x.device), -torch.inf)

    block = layer if layer.endswith(".attn") else f"{layer}.attn"
    spec = {"kind": "relate", "layer": layer}
    label = f"groups related at {layer}"
    return make_edit(f"{block}.scores", fn, label, contextual=True, spec=spec, tensors=tensors, **places)


def _group_of_columns(groups: Tensor, step: Step) -> Tensor:
    """Group of every column so far, [batch, stop]; -1 for padding and for positions after the last one given."""
    groups = groups.cpu().long()
    groups = groups[None] if groups.ndim == 1 else groups.repeat_interleave(step.batch // len(groups), 0)
    known = (step.real >= 0) & (step.real < groups.shape[1])
    at = step.real.clamp(min=0, max=groups.shape[1] - 1)
    return torch.where(known, groups.expand(step.batch, -1).gather(1, at), -1)
