"""Training and evaluation modes of modules, put back as they were."""

import contextlib
from collections.abc import Iterator, Mapping

from torch import nn


@contextlib.contextmanager
def training_mode(module: nn.Module) -> Iterator[None]:
    """Training mode where something is trained; afterwards every mode as it was and no gradients left.

    A frozen part keeps its mode: running statistics of a frozen batch norm are weights too.
    """
    modes = {m: m.training for m in module.modules()}
    try:
        module.train()
        for inner in module.modules():
            own = list(inner.parameters())
            if own and not any(p.requires_grad for p in own):
                put_back({m: modes[m] for m in inner.modules()})
        yield
    finally:
        put_back(modes)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.grad = None


def put_back(modes: Mapping[nn.Module, bool]) -> None:
    for inner, training in modes.items():
        inner.training = training
