"""A number with the interval it was measured to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval.

    level: the share of such intervals that hold the true value. n_items: independent items behind it.
    """

    value: float
    low: float
    high: float
    level: float = 0.95
    n_items: int = 0

    def excludes(self, value: float = 0.0) -> bool:
        """Does the interval lie wholly above or wholly below a value?"""
        return value < self.low or value > self.high

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"
