"""Conditional steering: an edit that acts only on rows or tokens where a direction fires."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

import torch
from jaxtyping import Bool
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.edit import ELSEWHERE, Edit
from inscape.core.edits.strength import Constant, for_rows
from inscape.core.edits.vectors import refuse_empty, units_of
from inscape.core.errors import EditError, ShapeError
from inscape.core.step import Step

TINY = torch.finfo(torch.float32).tiny
PLACES = ("last", "each")
SIDES = ("above", "below")
MEASURES = ("projection", "cosine")


@dataclass(frozen=True, eq=False)
class Condition:
    """Whether a token's activation at a site lies above (or below) a threshold along a direction.

    measure: "projection", x . v/|v|, in units of the site, or "cosine", in [-1, 1], which does not ask how long x is.
    at: "last", decided once a row, at the last token of its prompt, and kept for all that is generated from it; "each",
        decided for every token by itself.
    Raises: ShapeError for one vector a row or head; EditError for other words, or a direction at several sites.
    """

    direction: Direction
    threshold: float = 0.0
    at: str = "last"
    side: str = "above"
    measure: str = "projection"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("at", self.at, PLACES),
            ("side", self.side, SIDES),
            ("measure", self.measure, MEASURES),
        ):
            if value not in known:
                raise EditError(f"Condition({name}={value!r}): it can be {' or '.join(map(repr, known))}.")
        if "*" in self.direction.site or "[" in self.direction.site:
            raise EditError(f"a condition looks at one site; {self.direction.site!r} is a pattern.")
        if self.direction.vector.ndim != 1:
            raise ShapeError(
                f"a condition looks along one vector (d,); got {tuple(self.direction.vector.shape)}.\n"
                "  for one of several heads give its site as a module path, or condition on the stream."
            )
        refuse_empty(self.direction.vector, "Condition", self.direction.source)

    @cached_property
    def unit(self) -> Constant:
        return Constant(lambda: units_of(self.direction.vector.detach()), False)

    def __repr__(self) -> str:
        sign = ">" if self.side == "above" else "<"
        what = self.direction.source or "direction"
        return f"{what} {sign} {self.threshold:g} at {self.direction.site}" + (
            "" if self.at == "last" else ", by token"
        )

    def holds(self, x: Tensor) -> Bool[Tensor, "*places"]:
        """Where activations of its site, [..., d], meet it."""
        if x.shape[-1] != len(self.direction.vector):
            raise ShapeError(
                f"the condition {self!r} has a vector of {len(self.direction.vector)}, its site {x.shape[-1]} units."
            )
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        score = wide @ self.unit.to(x.device, wide.dtype)
        if self.measure == "cosine":
            score = score / torch.linalg.vector_norm(wide, dim=-1).clamp(min=TINY)
        return score > self.threshold if self.side == "above" else score < self.threshold


@overload
def when(condition: Condition, edit: Edit) -> Edit: ...
@overload
def when(condition: Condition, edit: Sequence[Edit]) -> list[Edit]: ...
def when(condition: Condition, edit: Edit | Sequence[Edit]) -> Edit | list[Edit]:
    """The same edit (or edits), only where the condition holds; elsewhere nothing changes.

    The condition's site comes before the edit's in the forward, or is the same; it is seen in the same forward, after
    the edits there (at the edit's own site: after those before it in the list). With at="last" the whole row is decided
    in the forward of the prompt, before anything is generated, so that an edit does not feed back on its condition;
    with at="each" token by token, where it may. Places of the edit (at=, rows=, ...) narrow it further.
    Cost: one product with a vector, once a forward for all edits that share the condition.
    Raises: EditError where the condition's site has not happened yet when the edit acts.
    """
    if not isinstance(edit, Edit):
        return [when(condition, one) for one in edit]
    inner, site = edit, condition.direction.site
    need = ELSEWHERE + site

    def fn(x: Tensor, step: Step) -> Tensor:
        seen = x if step.site == site else step.held[need]
        fires = _fires(condition, seen, x, step)
        if x.device.type == "cpu" and not bool(fires.any()):
            return x
        y = inner.fn(x, step) if inner.contextual else inner.fn(x)
        return torch.where(fires.reshape(*fires.shape, *[1] * (x.ndim - fires.ndim)), y.to(x), x)

    name = "condition"
    while name in inner.tensors:  # a condition inside a condition
        name += "+"
    spec: dict[str, Any] | None = None
    if inner.spec is not None:
        about = {"site": site, "source": condition.direction.source, "model": condition.direction.model, "vector": name}
        about |= {name: getattr(condition, name) for name in ("threshold", "at", "side", "measure")}
        spec = {"kind": "when", "condition": about, "edit": dict(inner.spec)}
    label = f"{inner.label}, when {condition!r}"
    needs, tensors = (*inner.needs, need), {**inner.tensors, name: condition.direction.vector}
    return replace(inner, fn=fn, label=label, contextual=True, needs=needs, spec=spec, tensors=tensors)


def _fires(condition: Condition, seen: Tensor, x: Tensor, step: Step) -> Bool[Tensor, "batch *pos"]:
    """Rows [batch], or tokens [batch, pos], at which the condition holds, for the columns of this call."""
    if condition.at == "last" and step.start >= step.prompt and seen.ndim > 2:
        known = step.kept.get(condition)
        if not isinstance(known, Tensor):
            raise EditError(
                f"whether {condition!r} is decided at the last token of the prompt, and this run began behind it.\n"
                "  feed the prompt under the edits too, or decide by token: Condition(..., at='each')."
            )
        return for_rows(known, x.shape[0], step, f"the condition {condition!r}")
    before = step.memo.get(condition)
    if before is not None and before[0] is seen:
        return before[1]
    holds = condition.holds(seen)
    if condition.at == "last" and seen.ndim > 2:
        real = step.real[:, step.start :]
        final = step.real[:, : step.prompt].amax(1, keepdim=True)
        last = (real == final).long().argmax(1).to(seen.device)
        holds = holds.flatten(2).any(-1) if holds.ndim > 2 else holds
        holds = holds.gather(1, last[:, None])[:, 0]
        step.kept[condition] = holds
    if holds.shape != x.shape[: holds.ndim]:
        raise ShapeError(
            f"the condition {condition!r} speaks of {tuple(holds.shape)}, the edit at {step.site} of {tuple(x.shape)}."
        )
    step.memo[condition] = (seen, holds)
    return holds
