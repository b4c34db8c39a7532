"""Sums over pairs of items from cross-products of units, d x d: for any number of items, in one read.

1. The mean of the first rows is taken off all rows, so that squares of a large mean cost no digits.
2. Every chunk of rows adds the products of each site with itself and the later ones, in float32 (an addition of about
   sixteen thousand rows at most, then they go to float64).
3. What the first rows' mean was off by is put right at the end, exactly.
Pairs that do not fit in memory together are done in several reads.
Cost: n (sum of d_i d_j over pairs) multiplications; memory 4 bytes x that sum (12 for more than 16,384 rows).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.core.readout import Rows, units_of
from inscape.read.similarity.columns import BATCH_BYTES, together
from inscape.read.similarity.sums import Sums

FLUSH = 16_384  # rows that are added up in float32
Group = dict[int, tuple[int, int]]  # site -> the later sites, from and to, that it is multiplied with


def streamed_sums(
    columns: Mapping[str, Rows], *, cubes: bool = True, budget_bytes: int = 2 << 30, device: Any = None,
    progress: Progress = None,
) -> Sums:  # fmt: skip
    """The sums of linear kernels of all columns with all."""
    widths = [units_of(rows, name) for name, rows in columns.items()]
    n, k = len(next(iter(columns.values()))), len(widths)
    groups = _groups(widths, budget_bytes // (4 if n <= FLUSH else 12))
    inner = torch.zeros(k, k, dtype=torch.float64)
    mixed = torch.zeros(k, k, dtype=torch.float64)  # shift_x^T (sum x' y'^T) shift_y
    third = torch.zeros(k, dtype=torch.float64) if cubes else None
    lengths = _Lengths(widths)
    for number, group in enumerate(groups):
        for i, low, matrix in _products(columns, widths, group, lengths, number, len(groups), device, progress):
            shift = [s / n for s in lengths.sums]
            for j in range(low, group[i][1]):
                start = sum(widths[low:j])
                block = matrix[:, start : start + widths[j]].cpu().double()
                mixed[i, j] = mixed[j, i] = shift[i] @ block @ shift[j]
                own = block.addr_(shift[i], shift[j], alpha=-n)
                inner[i, j] = inner[j, i] = own.square().sum()
                if third is not None and i == j:
                    unit = (own / own.norm().clamp(min=1e-300)).float()
                    third[i] = ((unit @ unit).double() * unit).sum() * inner[i, i].pow(1.5)
    return Sums(n, inner, *lengths.centred(n, mixed), third)


def floats_of(widths: Sequence[int]) -> int:
    """Numbers that are held when all pairs are done in one read."""
    return (sum(widths) ** 2 + sum(w * w for w in widths)) // 2


def _groups(widths: Sequence[int], budget: int) -> list[Group]:
    """All pairs (i, j >= i) in groups of at most `budget` numbers, one site after another."""
    groups: list[Group] = [{}]
    held = 0
    for i in range(len(widths)):
        for j in range(i, len(widths)):
            size = widths[i] * widths[j]
            if size > budget:
                raise InputError(
                    f"the products of {widths[i]:,} with {widths[j]:,} units take {4 * size / 2**30:,.1f} GiB or more, "
                    "above the budget.\n  take fewer rows (sample space needs no such matrix), or more budget_bytes."
                )
            if held + size > budget:
                groups.append({})
                held = 0
            groups[-1][i] = (groups[-1].get(i, (j, j))[0], j + 1)
            held += size
    return groups


class _Lengths:
    """What all pairs share, about the first rows' mean: sums of rows, of squared lengths, and products of these."""

    def __init__(self, widths: Sequence[int]) -> None:
        k = len(widths)
        self.first: dict[int, Tensor] = {}
        self.sums = [torch.zeros(d, dtype=torch.float64) for d in widths]
        self.squares = torch.zeros(k, dtype=torch.float64)  # sum |x'|^2
        self.pairs = torch.zeros(k, k, dtype=torch.float64)  # sum |x'|^2 |y'|^2
        self.carried = [torch.zeros(k, d, dtype=torch.float64) for d in widths]  # sum |x'|^2 y'

    def count(self, parts: Sequence[Tensor]) -> None:
        square = torch.stack([torch.linalg.vecdot(p, p) for p in parts])
        for p, total, carried in zip(parts, self.sums, self.carried, strict=True):
            total += p.sum(0, dtype=torch.float64).cpu()
            carried += (square @ p).double().cpu()
        self.squares += square.sum(1, dtype=torch.float64).cpu()
        self.pairs += (square.double() @ square.double().T).cpu()

    def centred(self, n: int, mixed: Tensor) -> tuple[Tensor, Tensor]:
        """(sum_i |x_i|^2 |y_i|^2, sum_i |x_i|^2) about the means, with x = x' - d, y = y' - e:

        sum |x|^2 |y|^2 = sum |x'|^2 |y'|^2 - 2 e.(sum |x'|^2 y') - 2 d.(sum |y'|^2 x') + |e|^2 sum |x'|^2
                          + |d|^2 sum |y'|^2 + 4 d^T (sum x' y'^T) e - 3 n |d|^2 |e|^2
        """
        shift = [s / n for s in self.sums]
        size = torch.stack([s.square().sum() for s in shift])
        along = torch.stack([c @ s for c, s in zip(self.carried, shift, strict=True)], 1)  # [x, y]: e.(sum |x'|^2 y')
        outer = size * self.squares[:, None]
        pairs = self.pairs - 2 * along - 2 * along.T + outer + outer.T + 4 * mixed - 3 * n * size[:, None] * size
        return pairs, self.squares - n * size


def _products(
    columns: Mapping[str, Rows], widths: Sequence[int], group: Group, lengths: _Lengths, number: int, of: int,
    device: Any, progress: Progress,
) -> Iterator[tuple[int, int, Tensor]]:  # fmt: skip
    """One read: (site, first later site, products of its units with theirs)."""
    n = len(next(iter(columns.values())))
    needed = [
        i
        for i in range(len(widths))
        if number == 0 or any(i == a or low <= i < high for a, (low, high) in group.items())
    ]
    names = list(columns)
    at = {i: sum(widths[m] for m in needed if m < i) for i in needed}
    short: dict[int, Tensor] = {}
    long: dict[int, Tensor] = {}
    held = 0
    wide = torch.float64 if any(columns[names[i]].dtype == torch.float64 for i in needed) else torch.float32
    used = {names[i]: columns[names[i]] for i in needed}
    most = min(BATCH_BYTES, 4 * FLUSH * sum(widths[i] for i in needed))
    for rows, parts in together(used, dtype=wide, device=device, batch_bytes=most):
        if number == 0 and not lengths.first:
            lengths.first = {i: p.double().mean(0).to(wide) for i, p in zip(needed, parts, strict=True)}
        parts = [(p - lengths.first[i].to(p)).float().to(parts[0].device) for i, p in zip(needed, parts, strict=True)]
        if number == 0:
            lengths.count(parts)
        z = torch.cat(parts, 1)
        for i, (low, high) in group.items():
            left, right = z[:, at[i] : at[i] + widths[i]].T, z[:, at[low] : at[high - 1] + widths[high - 1]]
            if i in short:
                short[i].addmm_(left, right)
            else:
                short[i] = left @ right
        held += rows.stop - rows.start
        if held >= FLUSH and rows.stop < n:
            for i, matrix in short.items():
                long[i] = long[i].add_(matrix) if i in long else matrix.double()
            short, held = {}, 0
        tell(progress, f"products of {rows.stop:,} of {n:,} rows", (number + rows.stop / n) / of)
    for i, matrix in short.items():
        yield i, group[i][0], long[i].add_(matrix) if i in long else matrix
