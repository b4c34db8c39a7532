"""Do all rows point the same way? Mean cosine between different rows, before and after their mean is taken off."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.readout import Rows, row_batches, units_of


@dataclass(frozen=True, eq=False)
class Anisotropy:
    """Mean cosine over all pairs of different rows.

    value: of rows as they are. centred: without their mean; far above 0 then means that a few long rows took the mean
    along. chance: two standard deviations of the value for directions drawn evenly, `2 sqrt(2 / (n (n-1) d))`, about 0.
    share: of the mean squared length that each unit has, largest first, with the units: one massive unit is often all
    there is to a large value. dropped: units that were left out. zero_rows: rows without length, which have no cosine.
    """

    value: float
    centred: float
    chance: float
    share: Float[Tensor, " d"]
    units: Tensor
    dropped: tuple[int, ...]
    zero_rows: int
    n: int

    def __float__(self) -> float:
        return self.value


def anisotropy(x: Rows, *, drop: int = 0, device: Any = None) -> Anisotropy:
    """The mean cosine of different rows, exactly: `(|sum u|^2 - n) / (n (n - 1))`, u rows of length 1.

    drop: so many units of the largest mean square are left out, to see whether they are all of it.
    Cost: two reads of the rows (three with drop), no pair is formed. Rows are independent items for `chance`.
    Raises: InputError for fewer than two rows with length, or a drop of all units.
    Source: Ethayarajh 2019, arXiv:1909.00512 (a sample of pairs there); massive units by Timkey & van Schijndel 2021.
    """
    d = units_of(x)
    if not 0 <= drop < d:
        raise InputError(f"drop={drop} of {d} units: one at least has to stay.")
    square, total, n = torch.zeros(0), torch.zeros(0), 0
    for _, rows in row_batches(x, device=device):
        square, total = rows.square().sum(0) + (square if n else 0), rows.sum(0) + (total if n else 0)
        n += len(rows)
    order = square.argsort(descending=True)
    keep = order[drop:].sort().values
    mean = total[keep] / n
    plain, moved = torch.zeros_like(mean), torch.zeros_like(mean)
    counted, centred = 0, 0
    for _, rows in row_batches(x, device=device):
        part = rows[:, keep]
        for sums, v in ((plain, part), (moved, part - mean)):
            length = v.norm(dim=1)
            real = length > 0
            sums += (v[real] / length[real, None]).sum(0)
            if sums is plain:
                counted += int(real.sum())
            else:
                centred += int(real.sum())
    if counted < 2:
        raise InputError(f"{counted} of {n} rows have a length: a cosine takes two.")
    value, after = (
        (float(s.square().sum()) - m) / (m * (m - 1)) for s, m in ((plain, counted), (moved, max(centred, 2)))
    )
    chance = 2 * (2 / (counted * (counted - 1) * len(keep))) ** 0.5
    share = (square / square.sum())[order].cpu()
    return Anisotropy(value, after, chance, share, order.cpu(), tuple(order[:drop].tolist()), n - counted, n)
