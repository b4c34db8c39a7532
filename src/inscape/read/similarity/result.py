"""What a comparison of sites gives: a number for each pair, what shuffled pairing gives, and on how many items."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from inscape.core.interval import Interval


@dataclass(frozen=True, eq=False)
class Similarity:
    """How alike two representations of the same items are.

    expected, deviation: of the same number when item i of one is paired with a random item of the other; p: how often
    such a pairing gives as much. None where the control was left out. interval: over items, where it was asked for.
    """

    value: float
    measure: str
    n: int
    expected: float | None = None
    deviation: float | None = None
    p: float | None = None
    interval: Interval | None = None

    def __float__(self) -> float:
        return self.value

    @property
    def z(self) -> float | None:
        """How many deviations of the shuffled pairing lie between the value and its mean."""
        if self.expected is None or not self.deviation:
            return None
        return (self.value - self.expected) / self.deviation


@dataclass(frozen=True, eq=False)
class SimilarityMatrix:
    """How alike all sites are to all: `values[i, j]` of sites rows[i] and columns[j]; the rest as in `Similarity`.

    space: where it was computed, "sample" or "feature" ("" where there is no choice).
    """

    values: Float[Tensor, "rows columns"]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    measure: str
    n: int
    expected: Float[Tensor, "rows columns"] | None = None
    deviation: Float[Tensor, "rows columns"] | None = None
    p: Float[Tensor, "rows columns"] | None = None
    low: Float[Tensor, "rows columns"] | None = None
    high: Float[Tensor, "rows columns"] | None = None
    level: float = 0.95
    space: str = ""

    def __getitem__(self, pair: tuple[str, str]) -> Similarity:
        """One pair by its names."""
        i, j = self.rows.index(pair[0]), self.columns.index(pair[1])
        at = {k: None if (v := getattr(self, k)) is None else float(v[i, j]) for k in ("expected", "deviation", "p")}
        value, interval = float(self.values[i, j]), None
        if self.low is not None and self.high is not None:
            interval = Interval(value, float(self.low[i, j]), float(self.high[i, j]), self.level, self.n)
        return Similarity(value, self.measure, self.n, at["expected"], at["deviation"], at["p"], interval)
