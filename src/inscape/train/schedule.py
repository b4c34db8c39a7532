"""Learning-rate schedules: plain functions of the steps done and their total, giving a factor of the learning rate.

`Schedule = (done, total) -> factor`, where `done` counts from 0. Settings come with `functools.partial`:
`schedule=partial(cosine, floor=0.1)`. The warm-up is separate, so that every schedule can have one.
"""

import math
from collections.abc import Callable

Schedule = Callable[[int, int], float]


def constant(done: int, total: int) -> float:
    """1 all the way."""
    return 1.0


def linear(done: int, total: int, *, floor: float = 0.0) -> float:
    """From 1 down to `floor` in a straight line: `1 - (1 - floor) * done / total`."""
    return 1.0 - (1.0 - floor) * done / max(total, 1)


def cosine(done: int, total: int, *, floor: float = 0.0) -> float:
    """From 1 down to `floor` along half a cosine: `floor + (1 - floor) * (1 + cos(pi * done / total)) / 2`."""
    return floor + (1.0 - floor) * (1.0 + math.cos(math.pi * done / max(total, 1))) / 2


def factor(schedule: Schedule, warmup: int, step: int, steps: int) -> float:
    """The factor of a step: `(step + 1) / (warmup + 1)` while it warms up, then the schedule over the rest."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return schedule(step - warmup, steps - warmup)
