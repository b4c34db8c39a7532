"""Neurons of several layers scaled together between a baseline and their clean values, the rest held clean."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.circuits.attribution.first_order import Moves, away, real_only
from inscape.circuits.attribution.integrated import Path, averaged_gradients
from inscape.circuits.attribution.objective import Objective, last_scores
from inscape.core.errors import InputError
from inscape.core.metrics import Metric, probability
from inscape.engine.inputs import Inputs, prepare
from inscape.engine.planning import names_of, point_of, tasks_of
from inscape.models.model import Model

CLASS_TOKENS = ("cls_token", "class_embedding", "class_token")
VALUES = ("probability", "logit")
POSITIONS = ("cls", "all", "mean")


@dataclass(frozen=True, eq=False)
class Averaged:
    """Of one layer's neurons, along the way: averaged gradients, and activation x averaged gradient, [row, unit]."""

    grads: Float[Tensor, "row unit"]
    shares: Float[Tensor, "row unit"]


@dataclass(eq=False)
class Scaling:
    """The clean run of some inputs, and what becomes of a target when neurons are scaled.

    steps: clean minus baseline, [row, unit] of each layer; activations: clean. Both over the positions that count.
    """

    objective: Objective
    watch: Moves
    sites: list[str]
    at: int | None
    is_mean: bool
    clean: Float[Tensor, " row"]
    rule: str
    n_steps: int
    batch_tokens: int

    def __post_init__(self) -> None:
        watch, mask = self.watch, self.objective.inputs.mask
        self.n_rows = self.objective.n_rows
        self.unit_axis = [_unit_axis(watch.axes[s]) for s in self.sites]
        self.n_units = [watch.clean[s].shape[a] for s, a in zip(self.sites, self.unit_axis, strict=True)]
        self.place = [real_only(watch.touched[s].float(), mask, watch.axes[s]) for s in self.sites]
        self.way = [(watch.clean[s] - watch.moved[s]).float() for s in self.sites]
        self.steps = [self._averaged_over_positions(i, w) for i, w in enumerate(self.way)]
        self.activations = [self._averaged_over_positions(i, watch.clean[s].float()) for i, s in enumerate(self.sites)]

    @classmethod
    def of(
        cls, model: Model, inputs: Any, target: Any, sites: Any, position: str | int, value: str, baseline: str,
        steps: int, rule: str, batch_tokens: int,
    ) -> "Scaling":  # fmt: skip
        """Raises: InputError, as `neuron_path` says."""
        prepared = prepare(model, inputs)
        names = names_of(model, sites)
        at = _position(model, prepared, position, [point_of(model, n).axes for n in names])
        if value not in VALUES:
            raise InputError(f"value={value!r}: it can be {', '.join(VALUES)}.")
        n_classes = last_scores(model, prepared).shape[-1]
        objective = Objective.of(model, prepared, _metric(target, value, n_classes))
        edits = away(names, baseline, **({} if at is None else {"at": at}))
        watch = Moves(tasks_of(model, {}, edits, prepared), objective.n_rows)
        clean = objective.measure(edits=watch.watching).cpu()
        return cls(objective, watch, watch.sites, at, position == "mean", clean, rule, steps, batch_tokens)

    def marked(self, layer: int, units: Int[Tensor, "row k"]) -> Bool[Tensor, "row unit"]:
        """Units as a mask."""
        return torch.zeros(self.n_rows, self.n_units[layer], dtype=torch.bool).scatter(1, units.cpu(), True)

    def averaged(self, marks: Mapping[int, Bool[Tensor, "row unit"]]) -> dict[int, Averaged]:
        """With these neurons scaled together from the baseline up, the rest of their layers held clean."""
        path = self._path(marks)
        made = averaged_gradients(self.objective, path, self.rule, self.n_steps, self.batch_tokens)
        out = {}
        for i in marks:
            grads = made[self.sites[i]]
            out[i] = Averaged(self.pooled(i, grads).cpu(), self.pooled(i, grads * self.way[i]).cpu())
        return out

    def at_baseline(self, marks: Mapping[int, Bool[Tensor, "row unit"]]) -> Float[Tensor, " row"]:
        """The target with these neurons at the baseline."""
        rows = list(range(self.n_rows))
        return self.objective.measure(rows, self._path(marks).at(rows, [0.0] * self.n_rows)).cpu()

    def graph(self) -> tuple[list[Tensor], Float[Tensor, " row"]]:
        """The clean run with its graph: every layer's values, and the target."""
        made = self.objective.forward(self.sites)
        return [made.values[s] for s in self.sites], made.metric

    def pooled(self, layer: int, x: Tensor) -> Float[Tensor, "row unit"]:
        """Summed over the positions that count."""
        gone = [i for i in range(1, x.ndim) if i != self.unit_axis[layer]]
        return (x * self.place[layer].to(x.device)).sum(gone)

    def _averaged_over_positions(self, layer: int, x: Tensor) -> Tensor:
        """Activations of position="mean" are means; everything else is a sum."""
        n = self.pooled(layer, torch.ones_like(x)) if self.is_mean else 1.0
        return (self.pooled(layer, x) / n).cpu()

    def _path(self, marks: Mapping[int, Tensor]) -> Path:
        touched = {}
        for i, mark in marks.items():
            site, axis = self.sites[i], self.unit_axis[i]
            whole = self.watch.touched[site]
            shape = [n if j in (0, axis) else 1 for j, n in enumerate(whole.shape)]
            touched[site] = whole & mark.reshape(shape).to(whole.device)
        return Path(self.watch, "clean", touched)


def _unit_axis(axes: tuple[str, ...]) -> int:
    return axes.index("channel") if "channel" in axes else len(axes) - 1


def _metric(target: Any, value: str, n_classes: int) -> Metric:
    ids = target.tolist() if isinstance(target, Tensor) else target
    numbers = (
        [ids] if isinstance(ids, int) else [t for t in ids if isinstance(t, int)] if not isinstance(ids, str) else []
    )
    wrong = [t for t in numbers if not 0 <= t < n_classes]
    if wrong:
        raise InputError(f"target={wrong[0]}: this model has {n_classes} classes, 0 to {n_classes - 1}.")
    if value == "probability":
        return probability(ids)
    return Metric("logit", lambda x, _: x[:, 0], {"target": ids}, columns=True)


def _position(model: Model, inputs: Inputs, position: str | int, axes: list[tuple[str, ...]]) -> int | None:
    if isinstance(position, str) and position not in POSITIONS:
        raise InputError(f"position={position!r}: it can be {', '.join(POSITIONS)}, or a number.")
    if position in ("all", "mean"):
        return None
    if any("pos" not in a for a in axes):
        raise InputError(
            f"position={position!r}: these sites have no positions (their axes are {' '.join(axes[0])}).\n"
            "  take 'all' or 'mean': a neuron is then a whole channel."
        )
    if position != "cls":
        return int(position)
    if not _has_class_token(model, inputs):
        raise InputError(
            f"position='cls': {type(model.module).__name__} has no class token on these inputs.\n"
            "  give a position (-1 is the last token), 'all' or 'mean'."
        )
    return 0


def _has_class_token(model: Model, inputs: Inputs) -> bool:
    if any(name.rsplit(".", 1)[-1] in CLASS_TOKENS for name, _ in model.module.named_parameters()):
        return True
    known = getattr(model.tokenizer, "cls_token_id", None) or getattr(model.config, "cls_token_id", None)
    return known is not None and inputs.tokens is not None and bool((inputs.tokens[:, 0] == known).all())
