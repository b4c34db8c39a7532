"""Checkpoints: everything a killed training job needs to go on as if nothing had happened.

One safetensors file: the trained parameters and the buffers, the optimizer's state, the random generators, where the
data stands, the history, and what the job was asked. Frozen parameters are not in it (they do not change, and may be
most of a model); their fingerprint is, so that a checkpoint is not put on another model. It is written under a
temporary name, fsynced and renamed: a kill at any moment leaves the one before.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.errors import FileError
from inscape.core.tensor_file import read_tensors, write_tensors
from inscape.models.fingerprint import digest_of

KIND, VERSION = "a training checkpoint", 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file holds. asked: the settings of the job; about: step, data, history; groups of tensors by name."""

    step: int
    asked: Mapping[str, Any]
    about: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    generators: Mapping[str, Tensor]
    epoch_began: Mapping[str, Tensor] = field(default_factory=dict)

    GROUPS = ("weights", "optimizer", "generators", "epoch_began")


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write it whole or not at all. Raises: FileError when the folder is not there, is read-only or full."""
    tensors = {f"{group}/{k}": v for group in Checkpoint.GROUPS for k, v in getattr(checkpoint, group).items()}
    about = {
        "kind": KIND,
        "version": VERSION,
        "step": checkpoint.step,
        "asked": dict(checkpoint.asked),
        "about": dict(checkpoint.about),
    }
    write_tensors(path, tensors, {"inscape": json.dumps(about)})


def read(path: Path, asked: Mapping[str, Any]) -> Checkpoint:
    """Read a checkpoint of a job that was asked the same.

    Raises: FileError for a damaged or foreign file, and for one of another job, naming what differs.
    """
    tensors, about = read_tensors(path, KIND, VERSION)
    theirs = about.get("asked", {})
    other = [k for k in asked if theirs.get(k) != asked[k]]
    if other:
        said = ", ".join(f"{k} was {theirs.get(k)!r} there and is {asked[k]!r} here" for k in other)
        raise FileError(
            f"the checkpoint {str(path)!r} belongs to another training job: {said}.\n"
            "  ask for the same, or train from the beginning with another checkpoint path."
        )
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in Checkpoint.GROUPS}
    for name, tensor in tensors.items():
        group, _, key = name.partition("/")
        groups.setdefault(group, {})[key] = tensor
    return Checkpoint(about["step"], theirs, about["about"], **groups)


def step_of(path: Path) -> int:
    """The step a checkpoint was written after."""
    return int(read_tensors(path, KIND, VERSION)[1]["step"])


def trained_of(module: nn.Module) -> dict[str, Tensor]:
    """What training changes: parameters with requires_grad, and the buffers a state dict holds."""
    state = module.state_dict(keep_vars=True)
    parameters = dict(module.named_parameters())
    buffers = {n: t for n, t in state.items() if isinstance(t, Tensor) and not isinstance(t, nn.Parameter)}
    return {n: p for n, p in parameters.items() if p.requires_grad} | buffers


def frozen_digest(module: nn.Module) -> str:
    """A short name for the parameters that training leaves as they are."""
    return digest_of(sorted((n, p) for n, p in module.named_parameters() if not p.requires_grad))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as tensors, `number of the parameter/name`; plain numbers become tensors."""
    found = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None:
                found[f"{index}/{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return found


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put a state of `optimizer_state` back; the groups' settings stay as the job made them."""
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def restore_weights(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy trained weights into a module. Raises: FileError when names or shapes are not those of the module."""
    mine = trained_of(module)
    for name, why in _misfits(mine, tensors):
        raise FileError(
            f"the checkpoint {str(path)!r} is of another module: {name} {why}.\n"
            "  open the same module with the same parameters frozen, or use another checkpoint path."
        )
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])


def _misfits(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    for name in sorted(set(mine) | set(theirs)):
        if name not in theirs:
            yield name, "is trained here and not in the file"
        elif name not in mine:
            yield name, "is in the file and not trained here"
        elif mine[name].shape != theirs[name].shape or mine[name].dtype != theirs[name].dtype:
            there, here = theirs[name], mine[name]
            yield name, f"is {tuple(there.shape)} {there.dtype} there and {tuple(here.shape)} {here.dtype} here"
