"""When a training job stops to measure, and how it does so without leaving a trace in the training."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from inscape.train import randomness
from inscape.train.history import History
from inscape.train.modes import put_back

Measure = Callable[[Any], float | Mapping[str, float]]


def due_after(measure: int | Collection[int] | None, steps: int) -> Callable[[int], bool]:
    """After how many steps to measure; after the last always."""
    if isinstance(measure, Collection):
        named = frozenset(measure)
        return lambda done: done in named or done == steps
    each = measure or max(1, steps // 20)
    return lambda done: done > 0 and (done % each == 0 or done == steps)


def measured(
    module: nn.Module, meters: Mapping[str, Measure], history: History, devices: Sequence[torch.device]
) -> None:
    """Note what every meter says of the module now: in eval mode, without gradients, generators as they were."""
    modes = {m: m.training for m in module.modules()}
    with randomness.undisturbed(devices), torch.no_grad():
        module.eval()
        try:
            for name, meter in meters.items():
                found = meter(module)
                values = found if isinstance(found, Mapping) else {"": found}
                for part, value in values.items():
                    key = f"{name}.{part}" if part else name
                    history.measured.setdefault(key, []).append((history.steps, float(value)))
        finally:
            put_back(modes)
