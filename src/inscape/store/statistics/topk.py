"""The rows on which every unit is largest: its top-k examples."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

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
    numbered,
    same_kind,
    same_units,
    taken,
)

By = Literal["largest", "smallest", "absolute"]
NOBODY = torch.iinfo(torch.int64).max  # the row of a place that is not taken yet


@dataclass(eq=False)
class TopExamples:
    """The k rows on which each unit is largest, in order; of equal values the first rows.

    Choose it for maximally activating examples; `Extremes` when one is enough. Exact: the same for any cuts and order.
    Cost: one comparison an element once the first rows have set a threshold; 16 k bytes a unit.
    Parameters: k, rows a unit. by: "largest", "smallest" or "absolute".
    Learned: n, values_ (k, d), rows_ (k, d) with k at most n. `keys.locate` gives sample and position of a store's.
    Raises: InputError for a k below 1; NotFiniteError, ShapeError, InputError from update.
    """

    k: int = 16
    by: By = "largest"
    n: int = field(default=0, init=False)
    _values: Tensor | None = field(default=None, init=False, repr=False)  # (d, k), best first
    _rows: Tensor | None = field(default=None, init=False, repr=False)
    sites: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.k < 1 or self.by not in get_args(By):
            raise InputError(f"TopExamples(k={self.k}, by={self.by!r}): k is at least 1, by one of {get_args(By)}.")

    @property
    def kind(self) -> str:
        return f"top-{self.k}-{self.by}"

    def fresh(self) -> "TopExamples":
        return type(self)(self.k, self.by)

    def update(self, x: Float[Tensor, "n d"], rows: Rows = None) -> "TopExamples":
        x = taken(x, self._values, self.kind)
        keys = numbered(rows, len(x), self.n, x.device)
        step = max(256, 4 * self.k)  # rows: the first ones set the threshold that spares the rest the sorting
        for start in range(0, len(x), step):
            self._add(x[start : start + step], keys[start : start + step])
        self.n += len(x)
        return self

    def merge(self, other: "TopExamples") -> "TopExamples":
        same_kind(self, other)
        if other._values is None or other._rows is None:
            return self
        if self._values is not None:
            same_units(self._values, other._values, self.kind)
        self._join(other._values, other._rows)
        self.n += other.n
        return self

    def _add(self, x: Tensor, keys: Tensor) -> None:
        """Gather the candidates of each unit, side by side, and keep the best."""
        if self._values is None or self._rows is None:
            self._join(x.T.double(), keys.expand(x.shape[1], -1))
            return
        score, last, last_row = self._score(x), self._score(self._values[:, -1]), self._rows[:, -1]
        short = last.to(score.dtype)
        last = short if torch.equal(short.double(), last) else last  # a rounded threshold would turn rows away
        is_later = bool((keys.min() > last_row).all())  # then an equal value changes nothing
        best = score.amax(0)
        some = (best > last if is_later else best >= last).nonzero()[:, 0]  # units with a candidate: few, after a while
        if not len(some):
            return
        score, last = score[:, some], last[some]
        unit, row = (score > last if is_later else score >= last).T.nonzero(as_tuple=True)
        counts = torch.bincount(unit, minlength=len(some))
        place = torch.arange(len(unit), device=x.device) - (counts.cumsum(0) - counts)[unit]
        shape = (len(some), int(counts.max()))
        values = torch.full(shape, self._worst, dtype=torch.float64, device=x.device)
        numbers = torch.full(shape, NOBODY, device=x.device)
        values[unit, place], numbers[unit, place] = x[row, some[unit]].double(), keys[row]
        self._values[some], self._rows[some] = self._best(
            torch.cat([self._values[some], values], 1), torch.cat([self._rows[some], numbers], 1)
        )

    def _join(self, values: Tensor, rows: Tensor) -> None:
        if self._values is not None and self._rows is not None:
            values = torch.cat([self._values, values.to(self._values.device)], 1)
            rows = torch.cat([self._rows, rows.to(self._rows.device)], 1)
        if values.shape[1] < self.k:
            missing = (len(values), self.k - values.shape[1])
            values = torch.cat([values, values.new_full(missing, self._worst)], 1)
            rows = torch.cat([rows, rows.new_full(missing, NOBODY)], 1)
        self._values, self._rows = self._best(values, rows)

    def _best(self, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The k best of each unit, best first."""
        order = rows.argsort(dim=1, stable=True)  # by value, then by row: a stable sort of what is sorted by row
        values, rows = values.gather(1, order), rows.gather(1, order)
        order = self._score(values).argsort(dim=1, descending=True, stable=True)[:, : self.k]
        return values.gather(1, order), rows.gather(1, order)

    @property
    def _worst(self) -> float:
        """A value that loses to every number, for places not taken yet."""
        return {"largest": -torch.inf, "smallest": torch.inf, "absolute": torch.nan}[self.by]

    def _score(self, values: Tensor) -> Tensor:
        if self.by == "absolute":
            return values.abs().nan_to_num(nan=-1.0)
        return values if self.by == "largest" else -values

    @property
    def values_(self) -> Float[Tensor, "k d"]:
        need(self.n, 1, "a top example")
        assert self._values is not None
        return self._values[:, : min(self.k, self.n)].T.contiguous()

    @property
    def rows_(self) -> Int[Tensor, "k d"]:
        need(self.n, 1, "a top example")
        assert self._rows is not None
        return self._rows[:, : min(self.k, self.n)].T.contiguous()

    def state(self) -> State:
        by = get_args(By).index(self.by)
        return {"values": self.values_, "rows": self.rows_}, {"n": self.n, "k": self.k, "by": by}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], about: Mapping[str, int]) -> "TopExamples":
        k, n = expect_count(about, "k", "top examples", 1), expect_count(about, "n", "top examples", 1)
        by = expect_count(about, "by", "top examples")
        if by >= len(get_args(By)):
            raise FileError(f"no state of top examples: by is {by}.")
        shape = (min(k, n), None)
        expect(tensors, {"values": (torch.float64, shape), "rows": (torch.int64, shape)}, "top examples")
        if tensors["values"].shape != tensors["rows"].shape:
            raise FileError("no state of top examples: values and rows are of unlike shape.")
        made = cls(k, get_args(By)[by])
        made._join(tensors["values"].T, tensors["rows"].T)
        made.n = n
        return made
