"""What a training job says while it runs: the running loss, the speed and the time that is left."""

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from inscape.core.progress import Progress, tell

HALF_LIFE = 20  # steps after which a loss counts half in the running one
MESSAGES = 40  # at most so many in all: where there is no terminal, each is a line


class Meter:
    """The running loss and the speed of a job; `told` says it now and then.

    The running loss is an exponential mean, corrected for its beginning. Speed and time left are of this process, so
    that a job that goes on after a kill is not measured by another machine's speed.
    """

    def __init__(self, steps: int, first: int = 0) -> None:
        self.steps = steps
        self.first = first
        self.began = time.perf_counter()
        self.items = 0
        self.unit = "rows"
        self._mean = 0.0
        self._weight = 0.0
        self._said = 0.0

    def add(self, loss: float, items: int, unit: str) -> None:
        """Count a step."""
        keep = 0.5 ** (1 / HALF_LIFE)
        self._mean = keep * self._mean + (1 - keep) * loss
        self._weight = keep * self._weight + (1 - keep)
        self.items, self.unit = self.items + items, unit

    @property
    def loss(self) -> float:
        return self._mean / self._weight if self._weight else float("nan")

    @property
    def wall_s(self) -> float:
        return time.perf_counter() - self.began

    def told(self, progress: Progress, done: int) -> None:
        """Tell `progress` where the job stands, unless that was said a moment ago; the last step is always told."""
        fraction = done / self.steps
        if progress is None or (done < self.steps and (fraction - self._said < 1 / MESSAGES and done > self.first + 1)):
            return
        self._said = fraction
        wall_s = max(self.wall_s, 1e-9)
        left_s = wall_s / max(done - self.first, 1) * (self.steps - done)
        ending = f"{_clock(left_s)} left" if done < self.steps else f"{_clock(wall_s)} in all"
        said = f"step {done:,} of {self.steps:,}, loss {self.loss:.4g}, {self.items / wall_s:,.0f} {self.unit}/s"
        tell(progress, f"{said}, {ending}", fraction)


def size_of(batch: Any) -> tuple[int, str]:
    """How much is in a batch: tokens when it holds whole numbers of two axes or more, else rows."""
    first = _first_tensor(batch)
    if first is None:
        return 1, "batches"
    if not first.is_floating_point() and not first.is_complex() and first.dim() >= 2:
        return first.numel(), "tokens"
    return (first.shape[0] if first.dim() else 1), "rows"


def _first_tensor(batch: Any) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
