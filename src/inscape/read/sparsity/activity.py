"""How many units are at work: counted row by row in one pass, in any cuts, mergeable."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import FileError, InputError
from inscape.store.statistics.contract import (
    Rows,
    State,
    expect,
    expect_count,
    need,
    same_kind,
    same_units,
    taken,
)

PARTS = 1_000_000_000  # eps is kept in files as a whole number of these


def hoyer(x: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows"]:
    """Hoyer's sparsity: (sqrt(n) - |x|_1 / |x|_2) / (sqrt(n) - 1); 0 for equal sizes, 1 for one non-zero entry.

    An all-zero row has no direction and counts as 0. Source: Hoyer 2004.
    """
    n = x.shape[-1]
    if n < 2:
        raise InputError("sparsity of a single neuron means nothing; hoyer needs at least two.")
    lengths = x.norm(dim=-1)
    ratio = x.abs().sum(-1) / lengths.clamp(min=torch.finfo(x.dtype).tiny)
    return torch.where(lengths > 0, (math.sqrt(n) - ratio) / (math.sqrt(n) - 1), torch.zeros_like(ratio))


def participation(x: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows"]:
    """The effective number of units: (sum x^2)^2 / sum x^4. k equal non-zeros give k; Gaussian values n / 3.

    An all-zero row has none: 0. It needs no threshold, so it compares rectified and smooth activations alike.
    """
    share = x / x.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)  # fourth powers stay in range
    squares = share.square()
    return squares.sum(-1).square() / squares.square().sum(-1).clamp(min=torch.finfo(x.dtype).tiny)


@dataclass(eq=False)
class Activity:
    """Which units of a row are at work and how many: counts by unit and by row, as a statistic of rows.

    active: |a| > eps * rms of the row (eps alone where `relative` is False); nonzero: a != 0, exactly.
    Choose it for neurons; `store.statistics.Moments` and `Quantiles` for their sizes. Counts are exact and the same for
    any cuts and order; the two means to float64 rounding.
    Cost: about ten reads of the batch; 32 bytes a unit.
    Learned: n, active_ (d,), nonzero_ (d,): rows on which each unit is; active_rows_ and nonzero_rows_ (d + 1,): rows
    with exactly so many; hoyer_, participation_: means over rows.
    Raises: InputError for a negative eps or one unit; NotFiniteError, ShapeError, InputError from update.
    """

    eps: float = 0.1
    relative: bool = True
    n: int = field(default=0, init=False)
    _units: Tensor | None = field(default=None, init=False, repr=False)  # (d, 2): active, nonzero
    _rows: Tensor | None = field(default=None, init=False, repr=False)  # (d + 1, 2)
    _sums: Tensor | None = field(default=None, init=False, repr=False)  # hoyer, participation
    sites: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eps < 1e6:
            raise InputError(f"Activity(eps={self.eps}): a size of at least 0 from which a unit counts as at work.")

    @property
    def kind(self) -> str:
        return f"activity-{self.eps:g}{'' if self.relative else '-absolute'}"

    def fresh(self) -> "Activity":
        return type(self)(self.eps, self.relative)

    def update(self, x: Float[Tensor, "n d"], rows: Rows = None) -> "Activity":
        x = taken(x, self._units, "activity")
        if not len(x):
            return self
        size = x.abs()
        bar = self.eps * size.square().mean(-1, keepdim=True).sqrt() if self.relative else self.eps
        found = torch.stack([size > bar, size > 0], -1)
        counts = found.sum(1)
        d = x.shape[1]
        histogram = torch.stack([torch.bincount(c, minlength=d + 1) for c in counts.unbind(-1)], -1)
        sums = torch.stack([hoyer(x).double().sum(), participation(x).double().sum()])
        return self._join(len(x), found.sum(0), histogram, sums)

    def merge(self, other: "Activity") -> "Activity":
        same_kind(self, other)
        if other._units is None or other._rows is None or other._sums is None:
            return self
        if self._units is not None:
            same_units(self._units, other._units, "activity")
        return self._join(other.n, other._units, other._rows, other._sums)

    def _join(self, n: int, units: Tensor, rows: Tensor, sums: Tensor) -> "Activity":
        self.n += n
        if self._units is None or self._rows is None or self._sums is None:
            self._units, self._rows, self._sums = units.clone(), rows.clone(), sums.clone()
            return self
        self._units += units.to(self._units.device)
        self._rows += rows.to(self._rows.device)
        self._sums += sums.to(self._sums.device)
        return self

    @property
    def active_(self) -> Int[Tensor, " d"]:
        return self._of(self._units, 0)

    @property
    def nonzero_(self) -> Int[Tensor, " d"]:
        return self._of(self._units, 1)

    @property
    def active_rows_(self) -> Int[Tensor, " counts"]:
        return self._of(self._rows, 0)

    @property
    def nonzero_rows_(self) -> Int[Tensor, " counts"]:
        return self._of(self._rows, 1)

    @property
    def hoyer_(self) -> float:
        need(self.n, 1, "a mean")
        assert self._sums is not None
        return float(self._sums[0]) / self.n

    @property
    def participation_(self) -> float:
        need(self.n, 1, "a mean")
        assert self._sums is not None
        return float(self._sums[1]) / self.n

    def _of(self, counts: Tensor | None, column: int) -> Tensor:
        need(self.n, 1, "a count")
        assert counts is not None
        return counts[:, column].clone()

    def state(self) -> State:
        need(self.n, 1, "a file of activity")
        assert self._units is not None
        assert self._rows is not None
        assert self._sums is not None
        tensors = {"units": self._units.clone(), "rows": self._rows.clone(), "sums": self._sums.clone()}
        return tensors, {"n": self.n, "eps": round(self.eps * PARTS), "relative": int(self.relative)}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], about: Mapping[str, int]) -> "Activity":
        whole = (torch.int64, (None, 2))
        expect(tensors, {"units": whole, "rows": whole, "sums": (torch.float64, (2,))}, "activity")
        if len(tensors["rows"]) != len(tensors["units"]) + 1:
            raise FileError("no state of activity: its counts are of unlike length.")
        made = cls(expect_count(about, "eps", "activity") / PARTS, bool(expect_count(about, "relative", "activity")))
        made.n = expect_count(about, "n", "activity", 1)
        made._units, made._rows, made._sums = tensors["units"], tensors["rows"], tensors["sums"]
        return made
