"""Many edited runs in one tensor: which part of it belongs to which run, and how its edits and reads act there.

A *part* is one run's share of a tensor that holds many: a stretch of one long sequence, or a row of a batch. Edits see
their part alone, as a batch of one with the columns of its base row, so that they mean here what they mean in a run
of their own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inscape.core.edit import Edit, apply
from inscape.core.errors import NotFiniteError, NotFiredError
from inscape.core.positions import select
from inscape.core.step import Step

Keep = Callable[[Tensor, Step], Tensor] | None


@dataclass(frozen=True, eq=False)
class Row:
    """One row of the inputs: its number, and the columns `first` to `stop` between which its real tokens lie."""

    number: int
    first: int
    stop: int
    real: Tensor  # [1, columns], as in Step
    tokens: Tensor | None

    def step(self, start: int) -> Step:
        """The columns from `start` on, as a batch of one."""
        step = Step(start, self.stop, self.real[:, : self.stop], None, self.real.shape[1])
        if self.tokens is not None:
            step.tokens, step.past = self.tokens[:, start : self.stop], self.tokens[:, :start]
        return step

    def cut(self, x: Tensor, axes: Sequence[str]) -> Tensor:
        """A value of this row, [1, pos, ...], without the padding."""
        is_padded = len(axes) > 1 and axes[1] == "pos" and x.shape[1] == self.real.shape[1]
        return x[:, self.first : self.stop] if is_padded else x


@dataclass(eq=False)
class Part:
    """One run among many; `cell` is its number, None for the unedited row.

    start: its first column, those before it being the row's. layer: the first layer whose block it goes through.
    edits: site -> edits. at, stop: where it lies in the tensor that holds many. memo: of its edits, see `Step.memo`.
    """

    cell: int | None
    row: Row
    start: int
    layer: int = 0
    edits: Mapping[str, Sequence[Edit]] = field(default_factory=dict)
    at: int = 0
    stop: int = 0
    fired: set[int] = field(default_factory=set)
    memo: dict[object, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return self.row.stop - self.start

    def check_fired(self) -> None:
        """Raise for an edit that never happened."""
        for site, edits in self.edits.items():
            for edit in edits:
                if id(edit) not in self.fired:
                    raise never(edit, site, self.row.number)


def never(edit: Edit, site: str, row: int) -> NotFiredError:
    where = f": its positions at={edit.at!r} are not among the tokens of row {row}." if edit.at is not None else "."
    return NotFiredError(
        f"the edit {edit!r} at {site} never happened{where}\n"
        "  nothing was changed there, so the result would have been that of the unedited model."
    )


def first_column(edit: Edit, row: Row) -> int | None:
    """The first column that an edit touches in this row; None where it touches none."""
    chosen = select(edit.at, row.step(row.first))
    if chosen is None:
        return row.first
    columns = chosen[0].nonzero()
    return row.first + int(columns[0]) if len(columns) else None


class Packed:
    """Parts behind one another in one long sequence, [1, tokens, ...]; a base row lies before its cells."""

    def __init__(self, bases: Mapping[int, Part]) -> None:
        self.bases = bases

    def place(self, parts: Iterable[Part], at: int) -> int:
        for part in parts:
            part.at, part.stop = at, at + part.n
            at = part.stop
        return at

    def take(self, x: Tensor, part: Part, axes: Sequence[str]) -> Tensor:
        if "key" in axes:
            return x[:, :, part.at : part.stop][..., self.keys(part)]
        return x[:, part.at : part.stop]

    def put(self, x: Tensor, part: Part, axes: Sequence[str], new: Tensor) -> None:
        if "key" in axes:
            x[:, :, part.at : part.stop][..., self.keys(part)] = new
        else:
            x[:, part.at : part.stop] = new

    def keys(self, part: Part) -> Tensor:
        """Where the columns that a part may look at lie: the row's own before it starts, then its own."""
        base = self.bases[part.row.number]
        before = torch.arange(base.at, base.at + part.start - base.start)
        return torch.cat([before, torch.arange(part.at, part.stop)])

    def whole(self, x: Tensor, part: Part, axes: Sequence[str]) -> Tensor:
        """Every real column of the row as this run has it, [1, pos, ...]."""
        base = self.bases[part.row.number]
        mine = x[:, part.at : part.stop]
        before = x[:, base.at : base.at + part.start - base.start]
        return torch.cat([before, mine], 1) if part.start > base.start else mine

    def step(self, part: Part, step: Step) -> Step:
        return part.row.step(part.start)

    def whole_step(self, part: Part, step: Step) -> Step:
        return part.row.step(part.row.first)


class Batched:
    """Every part a row of a batch, [parts, ...], with the columns and the padding of the inputs."""

    def place(self, parts: Iterable[Part], at: int) -> int:
        for part in parts:
            part.at, part.stop = at, at + 1
            at += 1
        return at

    def take(self, x: Tensor, part: Part, axes: Sequence[str]) -> Tensor:
        return x[part.at : part.stop]

    def put(self, x: Tensor, part: Part, axes: Sequence[str], new: Tensor) -> None:
        x[part.at : part.stop] = new

    def whole(self, x: Tensor, part: Part, axes: Sequence[str]) -> Tensor:
        return part.row.cut(self.take(x, part, axes), axes)

    def whole_step(self, part: Part, step: Step) -> Step:
        mine = self.step(part, step)
        is_main = mine.real.shape == part.row.real.shape and torch.equal(mine.real, part.row.real)
        return part.row.step(part.row.first) if is_main else mine

    def step(self, part: Part, step: Step) -> Step:
        real = step.real[part.at : part.stop] if step.batch > 1 else step.real
        tokens = step.tokens[part.at : part.stop] if step.tokens is not None and step.batch > 1 else step.tokens
        return Step(step.start, step.stop, real, tokens, step.prompt)


class Dispatch:
    """Applies every part's edits at a site, and keeps what is read there, part by part.

    keeps: site -> label -> what to keep. kept: (label, cell or None, row) -> value, without its batch axis.
    """

    def __init__(self, layout: Packed | Batched, parts: Sequence[Part], keeps: Mapping[str, Mapping[str, Keep]]):
        self.layout, self.parts, self.keeps = layout, list(parts), keeps
        self.layer: float = float("inf")  # runs that join at a later layer are not there yet
        self.kept: dict[tuple[str, int | None, int], Tensor] = {}

    def has_work(self, site: str) -> bool:
        """Is anything edited or kept there?"""
        return site in self.keeps or any(site in part.edits for part in self.parts)

    def visit(self, site: str, axes: Sequence[str], x: Tensor, step: Step, held: Mapping[str, Tensor]) -> Tensor:
        """The tensor that goes on: the same one where no edit changed it."""
        y = x
        for part in self.parts:
            if site not in part.edits:
                continue
            piece = new = self.layout.take(y, part, axes)
            mine = self.layout.step(part, step)
            mine.memo = part.memo
            for edit in part.edits[site]:
                mine.held = {n: self.layout.take(held[n], part, axes) for n in edit.needs}
                made = apply(edit, new, mine, tuple(axes))
                if made is not None:
                    part.fired.add(id(edit))
                    _check_finite(edit, new, made, site)
                    new = made
            if new is not piece:
                y = x.clone() if y is x else y
                self.layout.put(y, part, axes, new)
        for label, keep in self.keeps.get(site, {}).items():
            for part in self.parts:
                if part.layer > self.layer:
                    continue
                value = self.layout.whole(y, part, axes)
                value = value if keep is None else keep(value, self.layout.whole_step(part, step))
                self.kept[label, part.cell, part.row.number] = value[0].clone()
        return y

    def as_edit(self, site: str, axes: Sequence[str]) -> Edit:
        """All of it as one edit, for the session that sits at this site."""
        needs = tuple({n for part in self.parts for edit in part.edits.get(site, ()) for n in edit.needs})

        def fn(x: Tensor, step: Step) -> Tensor:
            return self.visit(site, axes, x, step, step.held)

        return Edit(site, fn, "many runs", contextual=True, needs=needs)


def _check_finite(edit: Edit, x: Tensor, y: Tensor, site: str) -> None:
    if not y.is_floating_point() or site.endswith(".scores") or bool(torch.isfinite(y).all()):
        return
    wrong = ~torch.isfinite(y) & torch.isfinite(x)
    if bool(wrong.any()):
        raise NotFiniteError(
            f"the edit {edit!r} made {y[wrong][0].item()} at {site} ({int(wrong.sum())} values).\n  lower its strength."
        )
