"""What a training job refuses: nothing to train, impossible settings, losses that are no number or not finite."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.errors import InputError, ModelError, NotFiniteError
from inscape.train import checkpoint as files


def trainable(module: Any) -> dict[str, nn.Parameter]:
    """The parameters that will be trained, by name."""
    if not isinstance(module, nn.Module):
        raise InputError(f"{type(module).__name__} is no nn.Module.\n  of an opened model, give model.module.")
    every = dict(module.named_parameters())
    trained = {n: p for n, p in every.items() if p.requires_grad}
    if not trained:
        raise ModelError(
            f"nothing is trainable: {len(every)} of {len(every)} parameters of {type(module).__name__} are frozen.\n"
            "  switch the ones to train on: module.requires_grad_(True), or on a part of it."
        )
    return trained


def check_settings(
    steps: int, accumulate: int, every: int | None, clip: float | None, autocast: torch.dtype | None
) -> None:
    for name, value in {"steps": steps, "accumulate": accumulate, "every": every}.items():
        if value is not None and value < 1:
            raise InputError(f"{name}={value}: it must be at least 1.")
    if clip is not None and not clip > 0:
        raise InputError(f"clip={clip}: the largest norm of the gradients is above 0; None for no limit.")
    if autocast not in (None, torch.bfloat16):
        raise InputError(
            f"autocast={autocast} is not known here: torch.bfloat16 or None.\n"
            "  float16 needs its loss scaled to keep small gradients, which this loop does not do."
        )


def check_finite(value: Tensor, what: str, step: int, path: Path | None) -> None:
    """Refuse NaN and infinity, and say which checkpoint is still good."""
    if math.isfinite(value.item()):
        return
    kept = "no checkpoint was asked for" if path is None else f"there is no checkpoint {str(path)!r} yet"
    if path is not None and path.exists():
        kept = f"the last good checkpoint {str(path)!r} is of step {files.step_of(path)}"
    raise NotFiniteError(
        f"the {what} is {value.item()} at step {step}; the weights are those before this step.\n"
        f"  {kept}.\n  a smaller lr, a longer warmup or a tighter clip often helps; so does looking at this batch."
    )


def number_of(given: Any) -> tuple[Tensor, Mapping[str, Any]]:
    """(the one number of a loss, the other numbers it gave)"""
    value, more = given if isinstance(given, tuple) and len(given) == 2 else (given, {})
    if not isinstance(value, Tensor) or value.numel() != 1 or not isinstance(more, Mapping):
        what = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"the loss gave {what}; it has to give one number as a tensor, or that and a dict of numbers to keep.\n"
            "  take the mean over the batch."
        )
    if not value.requires_grad:
        raise ModelError(
            "the loss does not depend on any trainable parameter, so there is nothing to learn.\n"
            "  it was made without gradients (no_grad, detach, item), or only frozen parameters are in its way."
        )
    return value.reshape(()), more
