"""From contributions of every entry to those of a sweep's places: sites, positions, heads."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from inscape.circuits.places import Spot
from inscape.core.errors import TokenError
from inscape.core.positions import check_at, select
from inscape.core.step import Step


def summed_by_place(entries: Tensor, spot: Spot) -> tuple[Tensor, Tensor]:
    """Entries and their squares summed over units: [row, column] or [row, column, head]."""
    names = spot.axes
    place = next((i for i, a in enumerate(names) if a in ("pos", "query")), None)
    head = next((i for i, a in enumerate(names) if a in ("head", "kv_head")), None)
    kept = [i for i in (0, place, head if spot.head is not None else None) if i is not None]
    gone = [i for i in range(entries.ndim) if i not in kept]
    both = [x.sum(gone) if gone else x for x in (entries, entries.square())]
    if place is None:  # no positions: all in one column
        both = [x.unsqueeze(1) for x in both]
    elif head is not None and spot.head is not None and head < place:
        both = [x.transpose(1, 2) for x in both]
    return both[0], both[1]


def columns_of(spot: Spot, rows: Sequence[int], step: Step | None, shape: Sequence[int]) -> Tensor:
    """Which columns of each row are meant, as 0 and 1."""
    if step is None or step.real.shape[1] != shape[1]:
        step = Step.plain(shape[0], shape[1])
    if spot.rows is None:
        chosen = select(check_at(spot.at), step)
        return (chosen if chosen is not None else step.real >= 0).float()
    marked = torch.zeros(shape[0], shape[1])
    for i, row in enumerate(rows):
        marked[i, row_columns(spot.rows[row], step, i)] = 1.0
    return marked


def row_columns(at: Any, step: Step, row: int) -> Tensor:
    chosen = select(check_at(at), Step.plain(1, 1) if step is None else replace(step, real=step.real[row : row + 1]))
    chosen = chosen if chosen is not None else step.real[row : row + 1] >= 0
    columns = chosen[0].nonzero().flatten()
    if not len(columns):
        raise TokenError(f"positions {at!r} are not among the {int(step.lengths[row])} tokens of pair {row}.")
    return columns
