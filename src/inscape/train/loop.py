"""The training loop: one function for any module, any data and any loss.

A step: `accumulate` batches forward and backward; the gradients' norm clipped; the learning rate of the schedule; the
optimizer. Everything that happens follows from the arguments and the seed, so that a job that was killed goes on from
its checkpoint to the very same weights.
"""

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.errors import InputError, ModelError, NotFiniteError
from inscape.core.progress import Progress
from inscape.train import checkpoint as files
from inscape.train import randomness
from inscape.train.data import Batches, Cursor
from inscape.train.meters import Meter, size_of
from inscape.train.schedule import Schedule, constant, factor

Loss = Callable[[Any, Any], Tensor | tuple[Tensor, Mapping[str, Any]]]
Measure = Callable[[Any], float | Mapping[str, float]]
ADAMW = partial(torch.optim.AdamW, weight_decay=0.0)


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
    trained = _trainable(module)
    _check(steps, accumulate, every, clip, autocast)
    path = Path(checkpoint) if checkpoint is not None else None
    every = every or max(1, steps // 10)
    devices = sorted({p.device for p in module.parameters() if p.device.type not in ("cpu", "meta")}, key=str)
    asked: dict[str, Any] = {"steps": steps, "lr": lr, "warmup": warmup, "clip": clip, "accumulate": accumulate}
    asked |= {"autocast": str(autocast), "seed": seed, "frozen": files.frozen_digest(module) if path else ""}
    with randomness.seeded(seed, devices), _training_mode(module):
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
        due = _due(measure, steps)
        if first == 0 and due(0):
            _measure(module, meters or {}, history, devices)
        for step in range(first, steps):
            for group, rate in zip(chosen.param_groups, rates, strict=True):
                group["lr"] = rate * factor(schedule, warmup, step, steps)
            chosen.zero_grad(set_to_none=True)
            value, numbers, items, unit = _gradients(module, cursor, loss, accumulate, autocast, step, path)
            norm = torch.nn.utils.clip_grad_norm_(trained.values(), math.inf if clip is None else clip)
            _check_finite(norm, "norm of the gradients", step, path)
            chosen.step()
            meter.add(value, items, unit)
            _note(history, value, numbers, items, unit, before_s + meter.wall_s)
            if due(step + 1):
                _measure(module, meters or {}, history, devices)
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
            value, more = _value(loss(module, batch))
        _check_finite(value, "loss", step, path)
        (value / accumulate).backward()
        mean += value.item() / accumulate
        for name, number in more.items():
            numbers[name] = numbers.get(name, 0.0) + float(number) / accumulate
        size, unit = size_of(batch)
        items += size
    return mean, numbers, items, unit


def _value(given: Any) -> tuple[Tensor, Mapping[str, Any]]:
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


def _trainable(module: Any) -> dict[str, nn.Parameter]:
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


def _check(steps: int, accumulate: int, every: int | None, clip: float | None, autocast: torch.dtype | None) -> None:
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


def _check_finite(value: Tensor, what: str, step: int, path: Path | None) -> None:
    if math.isfinite(value.item()):
        return
    kept = "no checkpoint was asked for" if path is None else f"there is no checkpoint {str(path)!r} yet"
    if path is not None and path.exists():
        kept = f"the last good checkpoint {str(path)!r} is of step {files.step_of(path)}"
    raise NotFiniteError(
        f"the {what} is {value.item()} at step {step}; the weights are those before this step.\n"
        f"  {kept}.\n  a smaller lr, a longer warmup or a tighter clip often helps; so does looking at this batch."
    )


def _note(history: History, loss: float, numbers: Mapping[str, float], items: int, unit: str, wall_s: float) -> None:
    for name, number in numbers.items():
        history.extra.setdefault(name, [math.nan] * history.steps).append(number)
    history.loss.append(loss)
    for values in history.extra.values():
        values.extend([math.nan] * (history.steps - len(values)))
    history.items, history.unit, history.wall_s = history.items + items, unit, wall_s


def _due(measure: int | Collection[int] | None, steps: int) -> Callable[[int], bool]:
    """After how many steps to measure; after the last always."""
    if isinstance(measure, Collection):
        named = frozenset(measure)
        return lambda done: done in named or done == steps
    each = measure or max(1, steps // 20)
    return lambda done: done > 0 and (done % each == 0 or done == steps)


def _measure(
    module: nn.Module, meters: Mapping[str, Measure], history: History, devices: Sequence[torch.device]
) -> None:
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
            _put_back(modes)


@contextlib.contextmanager
def _training_mode(module: nn.Module) -> Iterator[None]:
    """Training mode where something is trained; afterwards every mode as it was and no gradients left.

    A frozen part keeps its mode: running statistics of a frozen batch norm are weights too.
    """
    modes = {m: m.training for m in module.modules()}
    try:
        module.train()
        for inner in module.modules():
            own = list(inner.parameters())
            if own and not any(p.requires_grad for p in own):
                _put_back({m: modes[m] for m in inner.modules()})
        yield
    finally:
        _put_back(modes)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.grad = None


def _put_back(modes: Mapping[nn.Module, bool]) -> None:
    for inner, training in modes.items():
        inner.training = training
