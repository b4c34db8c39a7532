"""How strongly an edit acts: a number, a number a row, or numbers that change while text is generated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import EditError, ShapeError
from inscape.core.step import Step


@dataclass(frozen=True, eq=False)
class Schedule:
    """Strengths by generated token; made by `ins.schedule`."""

    values: Float[Tensor, "*batch steps"]
    then: float = 0.0
    prompt: float | None = None

    def __repr__(self) -> str:
        shown = ", ".join(f"{v:g}" for v in self.values.detach().flatten()[:4].tolist())
        more = ", ..." if self.values.numel() > 4 else ""
        return f"schedule([{shown}{more}], then={self.then:g})"

    def at(self, k: int) -> float | Tensor:
        """The strength in the forward that chooses new token k: a number, or one a row."""
        return self.values[..., k] if k < self.values.shape[-1] else self.then


def schedule(
    values: Sequence[float] | Float[Tensor, "*batch steps"], then: float = 0.0, *, prompt: float | None = None
) -> Schedule:
    """Strengths that change while text is generated: values[k] acts where new token k is chosen.

    New token k is chosen in the forward that reads token k - 1, so values[0] acts on the prompt and values[1] on the
    first new token once it is fed. After the last value `then` acts. values: [steps], or [batch, steps] for one course
    a row; they may be learned. prompt: the strength on the prompt but its last token, where values[0] acts; without it
    the whole prompt has values[0]. In a run that generates nothing every token is one of the prompt.
    Give it where a strength is taken: `ins.add(d, ins.schedule([4, 2, 1]))`.
    """
    if not isinstance(values, Tensor):
        values = torch.tensor([float(v) for v in values], dtype=torch.float64)
    if values.ndim not in (1, 2) or not values.shape[-1] or not values.is_floating_point():
        raise ShapeError(
            f"schedule takes strengths [steps] or [batch, steps], at least one; "
            f"got {values.dtype} of shape {tuple(values.shape)}."
        )
    return Schedule(values, float(then), None if prompt is None else float(prompt))


Strengths = float | int | Tensor | Schedule


class Strength:
    """A strength as edits use it: `of(x, step)` broadcasts to x.

    number: the strength where it is one number that nobody learns. needs_step: whether `of` reads the step.
    """

    def __init__(self, given: Any, name: str) -> None:
        if isinstance(given, Tensor) and given.ndim == 2:
            given = schedule(given)
        if isinstance(given, Tensor) and given.numel() == 1:
            given = given.reshape(())
        if isinstance(given, bool) or not isinstance(given, (int, float, Tensor, Schedule)):
            raise EditError(
                f"{name}: a strength is a number, one a row [batch], ins.schedule(...) or [batch, steps]; "
                f"got {type(given).__name__}."
            )
        if isinstance(given, Tensor) and given.ndim > 2:
            raise ShapeError(f"{name}: strengths of shape {tuple(given.shape)}; give [batch] or [batch, steps].")
        self.given, self.name = given, name
        self.number = float(given) if isinstance(given, (int, float)) else None
        self.learned = self.values.requires_grad if self.number is None else False
        self.needs_step = isinstance(given, Schedule) or (isinstance(given, Tensor) and given.ndim == 1)
        self._floats: list[float] | None = None
        if isinstance(given, Schedule) and given.values.ndim == 1 and not self.learned:
            self._floats = [float(v) for v in given.values.tolist()]

    @property
    def values(self) -> Tensor:
        """The strength as a tensor, for a file."""
        if isinstance(self.given, Schedule):
            return self.given.values
        return self.given if isinstance(self.given, Tensor) else torch.tensor(self.number, dtype=torch.float64)

    @property
    def spec(self) -> dict[str, Any]:
        """What a file needs beside `values`."""
        if not isinstance(self.given, Schedule):
            return {}
        return {"schedule": {"then": self.given.then, "prompt": self.given.prompt}}

    @property
    def label(self) -> str:
        """ "+2", or "+" where it is no single number."""
        if isinstance(self.given, Tensor) and self.given.ndim == 0:
            return f"{float(self.given.detach()):+g}"
        return f"{self.number:+g}" if self.number is not None else "+"

    def of(self, x: Tensor, step: Step | None) -> float | Tensor:
        """A number, or a tensor in float32 or wider that broadcasts to x."""
        if self.number is not None:
            return self.number
        wide = torch.promote_types(x.dtype, torch.float32)
        if isinstance(self.given, Tensor):
            if self.given.ndim == 0:
                return self.given.to(x.device, wide)
            assert step is not None
            return by_row(self.given, x, step, self.name).to(x.device, wide)
        assert step is not None
        assert isinstance(self.given, Schedule)
        return self._now(self.given, x, step, wide)

    def _now(self, course: Schedule, x: Tensor, step: Step, wide: torch.dtype) -> float | Tensor:
        k = max(step.start - step.prompt + 1, 0)
        of_one_token = step.stop - step.start == 1 and step.start >= step.prompt
        if of_one_token or (step.stop <= step.prompt and course.prompt is None):  # one strength for the whole call
            if self._floats is not None:
                return self._floats[k] if k < len(self._floats) else course.then
            value = course.at(k)
            if not isinstance(value, Tensor):
                return value
            return (by_row(value, x, step, self.name) if value.ndim else value).to(x.device, wide)
        if x.ndim < 2 or x.shape[1] != step.stop - step.start:
            raise ShapeError(
                f"{self.name}: a schedule needs a site with an axis of positions; it met {tuple(x.shape)}."
            )
        values = course.values.to(wide)
        steps = values.shape[-1]
        table = torch.cat([values, values.new_full((*values.shape[:-1], 1), course.then)], -1)
        columns = torch.arange(step.start, step.stop)
        which = (columns - step.prompt + 1).clamp(0, steps).expand(step.batch, -1)
        if table.ndim == 1:
            now = table.to(x.device)[which.to(x.device)]
        else:
            now = for_rows(table, x.shape[0], step, self.name).to(x.device).gather(1, which.to(x.device))
        if course.prompt is not None:
            final = step.real[:, : step.prompt].amax(1, keepdim=True)
            early = (columns < step.prompt) & (step.real[:, step.start :] != final)
            now = torch.where(early.to(x.device), course.prompt, now)
        return now.reshape(*now.shape, *[1] * (x.ndim - 2))


def by_row(values: Tensor, x: Tensor, step: Step, name: str) -> Tensor:
    """One entry a row of the inputs, [row, ...], so that it broadcasts to x; trailing axes are those of x."""
    values = for_rows(values, x.shape[0], step, name)
    return values.reshape(x.shape[0], *[1] * (x.ndim - values.ndim), *values.shape[1:])


def for_rows(values: Tensor, n_rows: int, step: Step, name: str) -> Tensor:
    """One entry a row of the inputs as one a row of this call: beams and returned sequences share their input's."""
    if values.shape[0] == n_rows:
        return values
    if values.shape[0] == 1:
        return values.expand(n_rows, *values.shape[1:])
    if values.shape[0] * step.n_repeats != n_rows:
        raise ShapeError(
            f"{name} at {step.site}: {values.shape[0]} are given, one a row; the run has "
            f"{n_rows // step.n_repeats} rows."
        )
    return values.repeat_interleave(step.n_repeats, 0)


class Constant:
    """A tensor computed once for every dtype and device it meets; anew in each call while it is learned."""

    def __init__(self, make: Callable[[], Tensor], learned: bool) -> None:
        self.make, self.learned = make, learned
        self._known: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def to(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        if self.learned:
            return self.make().to(device, dtype)
        key = (dtype, device)
        known = self._known.get(key)
        if known is None:
            with torch.no_grad():
                known = self._known[key] = self.make().to(device, dtype)
        return known
