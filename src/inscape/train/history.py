"""What a training job did, step by step, also over kills."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class History:
    """What a job did, from its first step on, also over kills.

    loss: of every step, the mean over its batches. extra: the other numbers a loss gave, of every step. measured: by
    meter, (steps done, value). items, unit: how much was read ("tokens" or "rows"). stopped: why before the last step.
    """

    loss: list[float] = field(default_factory=list)
    extra: dict[str, list[float]] = field(default_factory=dict)
    measured: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    items: int = 0
    unit: str = "rows"
    wall_s: float = 0.0
    stopped: str = ""

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(self.loss)

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "History":
        """What `asdict` gave, after JSON made lists of its pairs."""
        measured = {name: [(int(step), float(x)) for step, x in pairs] for name, pairs in kept["measured"].items()}
        return cls(**{**kept, "measured": measured})

    def note(self, loss: float, numbers: Mapping[str, float], items: int, unit: str, wall_s: float) -> None:
        """Add what one step gave; a number that comes late is NaN before."""
        for name, number in numbers.items():
            self.extra.setdefault(name, [math.nan] * self.steps).append(number)
        self.loss.append(loss)
        for values in self.extra.values():
            values.extend([math.nan] * (self.steps - len(values)))
        self.items, self.unit, self.wall_s = self.items + items, unit, wall_s
