"""What an edit would do, from one backward pass: (what the edit makes of the activation - the activation) . gradient.

How it is measured: one forward in which every edit is applied to a copy of what it meets and goes no further, then one
backward from the metric. So all edits are judged on the unedited run, at the price of one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.circuits.attribution.objective import Objective
from inscape.core.edit import Edit, apply, make_edit, place_of
from inscape.core.edits.sources import ablate
from inscape.core.errors import InputError, NotFiredError, ShapeError
from inscape.core.step import Step
from inscape.engine.inputs import prepare
from inscape.engine.planning import Read, names_of, tasks_of
from inscape.engine.session import Task
from inscape.models.model import Model


@dataclass(frozen=True, eq=False)
class Attribution:
    """What every entry of some sites contributes to a metric, row by row.

    entries: site -> contributions in the axes of the site, [row, pos, ...]; 0 at padding and where no edit reaches.
    steps, grads: what was multiplied. metric: of the unedited run. axes: of each site. mask: real tokens.
    """

    entries: dict[str, Float[Tensor, "row *axes"]]
    steps: dict[str, Float[Tensor, "row *axes"]]
    grads: dict[str, Float[Tensor, "row *axes"]]
    metric: Float[Tensor, " row"]
    axes: Mapping[str, tuple[str, ...]]
    mask: Bool[Tensor, "row pos"] | None = None

    def total(self, site: str | None = None) -> Float[Tensor, " row"]:
        """The sum over all entries of a site, or of every site: what the edits would change, to first order."""
        names = list(self.entries) if site is None else [site]
        return torch.stack([self.entries[n].flatten(1).sum(1) for n in names]).sum(0)

    def over(self, *axes: str) -> dict[str, Float[Tensor, "row *kept"]]:
        """Summed to these axes: `over("pos")`, `over("pos", "head")`; "row" is always kept."""
        out = {}
        for site, x in self.entries.items():
            names = self.axes[site]
            gone = [i for i, name in enumerate(names) if i and name not in axes]
            out[site] = x.sum(gone) if gone else x
        return out


def first_order(model: Model, inputs: Any, metric: Any, edits: Edit | Sequence[Edit]) -> Attribution:
    """What every edit would change of the metric, to first order: `(edit(x) - x) . dm/dx`, entry by entry.

    Every edit is judged alone, on the unedited run; edits of one site act in order, as one. Choose it for a first look
    at thousands of places; choose `integrated_gradients` where shares must add up, `ins.sweep` for what really happens.
    metric: `ins.logit_diff(...)` or another with a gradient, or a function of logits [rows, vocab] -> [rows].
    Cost: one forward and one backward to the earliest site; memory of a training step without weight gradients.
    Raises: InputError for a site or metric without a gradient, NotFiredError for an edit that reaches nothing.
    Source: Molchanov et al. 2017, arXiv:1611.06440, for pruning; Nanda 2023, attribution patching, for patches.
    """
    prepared = prepare(model, inputs)
    objective = Objective.of(model, prepared, metric)
    several = [edits] if isinstance(edits, Edit) else list(edits)
    moves = Moves(tasks_of(model, {}, several, prepared), objective.n_rows)
    made = objective.gradients(moves.sites, edits=moves.watching)
    return moves.attribution(made.values, made.grads, made.metric, made.trace.mask)


def gradient_times_activation(
    model: Model, inputs: Any, metric: Any, sites: Read, *, baseline: Any = None, **places: Any
) -> Attribution:
    """`(x - baseline) . dm/dx` at any sites: what each entry adds to the metric, to first order.

    baseline: zero when left out; a trace or tensor of another run, or "mean", over the batch's own real positions.
    Zero is far from anything the model has met at most sites; prefer a mean, or another run's values.
    places: at=, heads=, units=, as in edits. Cost, raises: those of `first_order`, whose sign is the opposite.
    Source: Shrikumar et al. 2016, arXiv:1605.01713.
    """
    found = first_order(model, inputs, metric, away(names_of(model, sites), baseline, **places))
    entries, steps = ({k: -v for k, v in x.items()} for x in (found.entries, found.steps))
    return replace(found, entries=entries, steps=steps)


def away(sites: Sequence[str], baseline: Any = None, **places: Any) -> list[Edit]:
    """Edits that set sites to a baseline: None or "zero", "mean", "resample", or the values of another run."""
    from inscape.core.edits.sources import KINDS, patch

    if baseline is None or isinstance(baseline, str):
        if baseline not in (None, *KINDS):
            raise InputError(f"baseline={baseline!r}: it can be {', '.join(KINDS)}, or another run's trace.")
        return [ablate(site, baseline or "zero", **places) for site in sites]
    return [patch(site, baseline, **places) for site in sites]


class Moves:
    """What edits make of the values they meet, watched in a run that goes on unedited."""

    def __init__(self, tasks: Sequence[Task], n_rows: int) -> None:
        self.n_rows = n_rows
        tasks = [t for t in tasks if t.edits]
        if not tasks:
            raise InputError("there is nothing to attribute: no edit was given.")
        self.sites = [t.point.name for t in tasks]
        self.axes = {t.point.name: t.point.axes for t in tasks}
        self.clean: dict[str, Tensor] = {}
        self.moved: dict[str, Tensor] = {}
        self.touched: dict[str, Tensor] = {}  # where the edits act, whether or not they change a number there
        self.watching = [self._watched(t) for t in tasks]

    def _watched(self, task: Task) -> Edit:
        site, axes = task.point.name, task.point.axes

        def fn(x: Tensor, step: Step) -> Tensor:
            start = x.detach()
            y, touched = start, torch.zeros_like(start, dtype=torch.bool)
            for edit in task.edits:
                place = place_of(edit, y, step, axes)
                made = apply(edit, y, step, axes)
                y = made if made is not None else y
                touched = touched if place is False else touched | (True if place is None else place)
            if not bool(touched.any()):
                raise NotFiredError(
                    f"the edit {task.edits[0]!r} at {site} reaches nothing of these inputs: at={task.edits[0].at!r}."
                )
            for kept, value in ((self.clean, start), (self.moved, y.detach()), (self.touched, touched)):
                kept[site] = by_row(value, self.n_rows, site)
            return x

        needs = tuple({n for e in task.edits for n in e.needs})
        return make_edit(site, fn, f"watched {task.edits[0].label}", contextual=True, needs=needs)

    def attribution(
        self, values: Mapping[str, Tensor], grads: Mapping[str, Tensor], metric: Tensor, mask: Tensor | None
    ) -> Attribution:
        """Steps times gradients; gradients are those of the sites' recorded values."""
        steps, entries = {}, {}
        for site in self.sites:
            steps[site] = real_only((self.moved[site] - self.clean[site]).float(), mask, self.axes[site])
            entries[site] = steps[site] * by_row(grads[site].float(), self.n_rows, site)
        kept = {s: by_row(grads[s].float(), self.n_rows, s) for s in self.sites}
        return Attribution(entries, steps, kept, metric, self.axes, mask)


def by_row(x: Tensor, n_rows: int, site: str) -> Tensor:
    """Rows first: a module that takes one vector a row is seen as one row of many positions."""
    if x.shape[0] == n_rows:
        return x
    if x.ndim > 1 and x.shape[:2] == (1, n_rows):
        return x.transpose(0, 1)
    raise ShapeError(f"{site} has shape {tuple(x.shape)} for inputs of {n_rows} rows: it cannot be told row from row.")


def real_only(x: Tensor, mask: Tensor | None, axes: Sequence[str]) -> Tensor:
    """Zero at padding; infinities of masked scores, which no edit moves, count as no step."""
    x = torch.where(torch.isfinite(x), x, torch.zeros_like(x))
    for name in ("pos", "query", "key"):
        if name in axes and mask is not None and axes[0] == "batch":
            along = axes.index(name)
            if mask.shape == (x.shape[0], x.shape[along]):
                shape = [n if i in (0, along) else 1 for i, n in enumerate(x.shape)]
                x = x * mask.to(x.device).reshape(shape)
    return x
