"""The random generators a training job may draw from: seeded for the job, kept in checkpoints, put back after it.

Torch's (CPU and the devices of the module), numpy's and Python's global ones: dropout uses the first, data sets of
users the others.
"""

import contextlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]


def state_of(devices: Sequence[torch.device], own: torch.Generator | None = None) -> State:
    """The state of every generator, as byte tensors. own: the data's own generator, when it has one."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the global one is what is kept
    python, numpy = random.getstate(), [name, np.asarray(keys).tolist(), *rest]
    found = {"torch": torch.get_rng_state(), "python": _bytes(python), "numpy": _bytes(numpy)}
    if own is not None:
        found["data"] = own.get_state()
    return found | {f"device {d}": torch.get_device_module(d).get_rng_state(d) for d in devices}


def restore(state: Mapping[str, Tensor], devices: Sequence[torch.device], own: torch.Generator | None = None) -> None:
    """Put every generator into a state of `state_of`."""
    torch.set_rng_state(state["torch"])
    version, words, gauss = _value(state["python"])
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = _value(state["numpy"])
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    if own is not None and "data" in state:
        own.set_state(state["data"])
    for device in devices:
        if f"device {device}" in state:
            torch.get_device_module(device).set_rng_state(state[f"device {device}"], device)


@contextlib.contextmanager
def seeded(seed: int, devices: Sequence[torch.device]) -> Iterator[None]:
    """Every generator seeded inside, and as it was outside."""
    before = state_of(devices)
    try:
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        for device in devices:
            with torch.get_device_module(device).device(device):
                torch.get_device_module(device).manual_seed(seed)
        yield
    finally:
        restore(before, devices)


@contextlib.contextmanager
def undisturbed(devices: Sequence[torch.device]) -> Iterator[None]:
    """Whatever is drawn inside, every generator goes on as if it had not been."""
    before = state_of(devices)
    try:
        yield
    finally:
        restore(before, devices)


def _bytes(value: object) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _value(data: Tensor) -> list:
    return json.loads(bytes(data.tolist()))
