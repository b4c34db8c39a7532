"""Numbers of rows that stay the same whoever records what else: the work unit, and the place inside it.

A row's place in the whole store moves when a unit before it is recorded later; its key `unit * 2^32 + place` does not,
and keys are in the order of the data.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.store.store import Store

SHIFT = 32


@dataclass(frozen=True, eq=False)
class Located:
    """Where rows are: their number in the store as it is now, their sample, and their position in it."""

    row: Int[Tensor, "*keys"]
    sample: Int[Tensor, "*keys"]
    pos: Int[Tensor, "*keys"]


def key(unit: int, place: int = 0) -> int:
    """The key of a row: its work unit and its place among the unit's rows."""
    return (unit << SHIFT) + place


def locate(store: Store, keys: Int[Tensor, "*keys"]) -> Located:
    """Rows, samples and positions of keys that statistics of this store hold.

    Cost: one read of the sample and pos columns at these rows. Raises: InputError for a key of no recorded row.
    """
    wanted = keys.cpu().reshape(-1).numpy()
    units = np.array([s.unit for s in store.segments], np.int64)
    counts = np.array([s.rows for s in store.segments], np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    unit, place = wanted >> SHIFT, wanted & ((1 << SHIFT) - 1)
    at = np.searchsorted(units, unit)
    known = at < len(units)
    known[known] &= (units[at[known]] == unit[known]) & (place[known] < counts[at[known]])
    if not known.all():
        lost = int(wanted[~known][0])
        raise InputError(
            f"{store.path} has no row {lost & ((1 << SHIFT) - 1):,} of work unit {lost >> SHIFT:,}.\n"
            "  these numbers are keys (work unit and place) of statistics of one store: give that store."
        )
    rows = torch.from_numpy(starts[at] + place)
    found = [rows, *(store[name][rows] for name in ("sample", "pos"))]
    return Located(*(x.reshape(keys.shape) for x in found))
