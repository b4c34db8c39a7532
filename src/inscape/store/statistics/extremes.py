"""The largest and the smallest value of every unit, and the rows they came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import FileError
from inscape.store.statistics.contract import (
    Rows,
    State,
    expect,
    expect_count,
    need,
    numbered,
    same_kind,
    same_units,
    taken,
)


@dataclass(eq=False)
class Extremes:
    """Maximum, minimum and largest magnitude of every unit, each with the number of its row; of equals the first row.

    Choose it for ranges and outliers; `TopExamples` when more than one row is wanted. Exact: the same for any cuts and
    order. What a row number means is for whoever numbers them: `keys.locate` gives sample and position for a store's.
    Cost: two reads of the batch; 32 bytes a unit.
    Learned: n, max_, max_rows_, min_, min_rows_, absmax_, absmax_rows_ (d,).
    Raises: NotFiniteError, ShapeError, InputError from update; InputError from a result without rows.
    """

    n: int = field(default=0, init=False)
    _max: Tensor | None = field(default=None, init=False, repr=False)
    _max_rows: Tensor | None = field(default=None, init=False, repr=False)
    _min: Tensor | None = field(default=None, init=False, repr=False)
    _min_rows: Tensor | None = field(default=None, init=False, repr=False)
    sites: ClassVar[int] = 1

    @property
    def kind(self) -> str:
        return "extremes"

    def fresh(self) -> "Extremes":
        return type(self)()

    def update(self, x: Float[Tensor, "n d"], rows: Rows = None) -> "Extremes":
        x = taken(x, self._max, "extremes")
        if not len(x):
            return self
        keys = numbered(rows, len(x), self.n, x.device)
        if bool((keys.diff() < 0).any()):  # the first of equals must be that of the smallest number
            order = keys.argsort()
            x, keys = x[order], keys[order]
        top, top_rows = _found(x, x.amax(0), keys, self._max, self._max_rows, 1)
        low, low_rows = _found(x, x.amin(0), keys, self._min, self._min_rows, -1)
        self._max, self._max_rows, self._min, self._min_rows = top, top_rows, low, low_rows
        self.n += len(x)
        return self

    def merge(self, other: "Extremes") -> "Extremes":
        same_kind(self, other)
        if other._max is None or other._max_rows is None or other._min is None or other._min_rows is None:
            return self
        if self._max is None or self._max_rows is None or self._min is None or self._min_rows is None:
            self._max, self._max_rows = other._max.clone(), other._max_rows.clone()
            self._min, self._min_rows = other._min.clone(), other._min_rows.clone()
        else:
            same_units(self._max, other._max, "extremes")
            self._max, self._max_rows = _better(self._max, self._max_rows, other._max, other._max_rows, 1)
            self._min, self._min_rows = _better(self._min, self._min_rows, other._min, other._min_rows, -1)
        self.n += other.n
        return self

    @property
    def max_(self) -> Float[Tensor, " d"]:
        return self._ready()[0]

    @property
    def max_rows_(self) -> Int[Tensor, " d"]:
        return self._ready()[1]

    @property
    def min_(self) -> Float[Tensor, " d"]:
        return self._ready()[2]

    @property
    def min_rows_(self) -> Int[Tensor, " d"]:
        return self._ready()[3]

    @property
    def absmax_(self) -> Float[Tensor, " d"]:
        top, _, low, _ = self._ready()
        return torch.maximum(top.abs(), low.abs())

    @property
    def absmax_rows_(self) -> Int[Tensor, " d"]:
        top, top_rows, low, low_rows = self._ready()
        return _better(top.abs(), top_rows, low.abs(), low_rows, 1)[1]

    def _ready(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        need(self.n, 1, "an extreme")
        assert self._max is not None
        assert self._max_rows is not None
        assert self._min is not None
        assert self._min_rows is not None
        return self._max.clone(), self._max_rows.clone(), self._min.clone(), self._min_rows.clone()

    def state(self) -> State:
        top, top_rows, low, low_rows = self._ready()
        return {"max": top, "max_rows": top_rows, "min": low, "min_rows": low_rows}, {"n": self.n}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], about: Mapping[str, int]) -> "Extremes":
        value, row = (torch.float64, (None,)), (torch.int64, (None,))
        expect(tensors, {"max": value, "max_rows": row, "min": value, "min_rows": row}, "extremes")
        if len({len(x) for x in tensors.values()}) > 1:
            raise FileError("no state of extremes: its tensors are of unlike length.")
        made = cls()
        made.n = expect_count(about, "n", "extremes", 1)
        made._max, made._max_rows = tensors["max"], tensors["max_rows"]
        made._min, made._min_rows = tensors["min"], tensors["min_rows"]
        return made


def _found(
    x: Tensor, best: Tensor, keys: Tensor, old: Tensor | None, old_rows: Tensor | None, sign: int
) -> tuple[Tensor, Tensor]:
    """Old extremes bettered by a batch's. Only units that may improve, soon few, are searched for their row."""
    if old is None or old_rows is None:
        return best.double(), keys[(x == best).byte().argmax(0)]
    better = (best.double() - old) * sign
    units = ((better > 0) | ((better == 0) & (keys[0] < old_rows))).nonzero()[:, 0]
    rows = torch.full_like(old_rows, torch.iinfo(torch.int64).max)
    rows[units] = keys[(x[:, units] == best[units]).byte().argmax(0)]
    return _better(old, old_rows, best.double(), rows, sign)


def _better(a: Tensor, a_rows: Tensor, b: Tensor, b_rows: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    b, b_rows = b.to(a.device), b_rows.to(a.device)
    wins = (b * sign > a * sign) | ((b == a) & (b_rows < a_rows))
    return torch.where(wins, b, a), torch.where(wins, b_rows, a_rows)
