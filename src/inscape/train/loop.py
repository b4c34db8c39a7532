"""The training loop: one function for any module, any data and any loss.

A step: `accumulate` batches forward and backward; the gradients' norm clipped; the learning rate of the schedule; the
optimizer. Everything that happens follows from the arguments and the seed, so that a job that was killed goes on from
its checkpoint to the very same weights.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.progress import Progress
from inscape.train import checkpoint as files
from inscape.train import randomness
from inscape.train.checks import check_finite, check_settings, number_of, trainable
from inscape.train.data import Batches, Cursor
from inscape.train.history import History
from inscape.train.measuring import Measure, due_after, measured
from inscape.train.meters import Meter, size_of
from inscape.train.modes import training_mode
from inscape.train.schedule import Schedule, constant, factor

Loss = Callable[[Any, Any], Tensor | tuple[Tensor, Mapping[str, Any]]]
ADAMW = partial(torch.optim.AdamW, weight_decay=0.0)


def fit(
    module: nn.Module | Any,
    batches: Batches | Any,
    loss: Loss,
    *,
    steps: int,
    lr: float = 1e-3,
    schedule: Schedule = constant,
    warmup: int = 0,
    optimizer: Callable[..., torch.optim.Optimizer] = ADAMW,
    clip: float | None = 1.0,
    accumulate: int = 1,
    autocast: torch.dtype | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    every: int | None = None,
    meters: Mapping[str, Measure] | None = None,
    measure: int | Collection[int] | None = None,
    stop: Callable[[History], bool] | None = None,
    progress: Progress = None,
) -> History:
    """Train a module in place, on `loss(module, batch)`, for a number of optimizer steps.

    Trains the parameters that have requires_grad and leaves all others bit-equal; parts without a trainable parameter
    stay in the mode they are in, the rest is in training mode meanwhile; all modes are put back afterwards.

    batches: an iterable, begun again when it ends, or a function of the batch's number (from 0; with `accumulate` k
        there are k a step). loss: gives a scalar, or a scalar and a dict of numbers to keep (means over a step).
        Batches come as they are: a loss moves them to the device.
    lr, schedule, warmup: the rate is `lr * factor`, see `train.schedule`. optimizer: called with the parameters and
        `lr=`; settings by `partial`. clip: largest norm of the gradients, None for no limit.
    autocast: torch.bfloat16 to compute in it where torch knows that it is safe; weights keep their dtype.
    seed: of all global generators, which are put back as they were at the end.
    checkpoint: a file to go on from when it is there, and to write every `every` steps (a tenth of all when None) and
        at the end. A finished job is not done again.
    meters: functions of the module, called in eval mode without gradients and without touching the generators, after
        every `measure` steps, or after those steps that `measure` names (0: before the first), and after the last.
    stop: asked after every measurement; True ends the job, for early stopping.
    Cost: steps * accumulate forward and backward passes; a checkpoint writes trained weights and optimizer state.
    Raises: ModelError when nothing is trainable, InputError for no data or impossible settings, NotFiniteError for a
    loss or gradient that is not finite (with the last good checkpoint), FileError for another job's checkpoint.
    """
    trained = trainable(module)
    check_settings(steps, accumulate, every, clip, autocast)
    path = Path(checkpoint) if checkpoint is not None else None
    every = every or max(1, steps // 10)
    devices = sorted({p.device for p in module.parameters() if p.device.type not in ("cpu", "meta")}, key=str)
    asked: dict[str, Any] = {"steps": steps, "lr": lr, "warmup": warmup, "clip": clip, "accumulate": accumulate}
    asked |= {"autocast": str(autocast), "seed": seed, "frozen": files.frozen_digest(module) if path else ""}
    with randomness.seeded(seed, devices), training_mode(module):
        cursor = Cursor(batches, devices)
        chosen = optimizer(list(trained.values()), lr=lr)
        rates = [group["lr"] for group in chosen.param_groups]
        first, history = 0, History()
        if path is not None and path.exists():
            found = files.read(path, asked)
            files.restore_weights(module, found.weights, path)
            files.restore_optimizer(chosen, found.optimizer)
            first, history = found.step, History.of(found.about["history"])
            if first == steps or history.stopped:
                return history
            cursor.resume(found.about["data"], found.epoch_began)
            randomness.restore(found.generators, devices, cursor.own)
        meter, before_s = Meter(steps, first), history.wall_s
        due = due_after(measure, steps)
        if first == 0 and due(0):
            measured(module, meters or {}, history, devices)
        for step in range(first, steps):
            for group, rate in zip(chosen.param_groups, rates, strict=True):
                group["lr"] = rate * factor(schedule, warmup, step, steps)
            chosen.zero_grad(set_to_none=True)
            value, numbers, items, unit = _gradients(module, cursor, loss, accumulate, autocast, step, path)
            norm = torch.nn.utils.clip_grad_norm_(trained.values(), math.inf if clip is None else clip)
            check_finite(norm, "norm of the gradients", step, path)
            chosen.step()
            meter.add(value, items, unit)
            history.note(value, numbers, items, unit, before_s + meter.wall_s)
            if due(step + 1):
                measured(module, meters or {}, history, devices)
                if stop is not None and step + 1 < steps and stop(history):
                    history.stopped = f"stop() was true after {step + 1} of {steps} steps"
            done = step + 1 == steps or bool(history.stopped)
            if path is not None and (done or (step + 1) % every == 0):
                data, epoch_began = cursor.state()
                about = {"history": asdict(history), "data": data}
                states = files.trained_of(module), files.optimizer_state(chosen)
                generators = randomness.state_of(devices, cursor.own)
                files.write(path, files.Checkpoint(step + 1, asked, about, *states, generators, epoch_began))
            meter.told(progress, step + 1)
            if done:
                break
    return history


def _gradients(
    module: nn.Module,
    cursor: Cursor,
    loss: Loss,
    accumulate: int,
    autocast: torch.dtype | None,
    step: int,
    path: Path | None,
) -> tuple[float, dict[str, float], int, str]:
    """Forward and backward over the batches of a step: the mean loss, the mean of its other numbers, what was read."""
    mean, numbers, items, unit = 0.0, {}, 0, "rows"
    kind = next(p.device.type for p in module.parameters() if p.requires_grad)
    for _ in range(accumulate):
        batch = cursor.next()
        with torch.autocast(kind, dtype=autocast, enabled=autocast is not None):
            value, more = number_of(loss(module, batch))
        check_finite(value, "loss", step, path)
        (value / accumulate).backward()
        mean += value.item() / accumulate
        for name, number in more.items():
            numbers[name] = numbers.get(name, 0.0) + float(number) / accumulate
        size, unit = size_of(batch)
        items += size
    return mean, numbers, items, unit
