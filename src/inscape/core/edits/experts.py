"""Edits on mixtures of experts: which experts the router may choose, must choose, likes better, and what they weigh.

The first three act on the router's scores, at `layers.i.router.logits`, before the choice: the family's own rule then
chooses and weighs (softmax or sigmoid, groups, renormalised or not). The last acts on the weights, after the choice.
Experts that all tokens pass (shared ones) are no part of the choice and not touched.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.edit import Edit, make_edit, whole_numbers
from inscape.core.edits.strength import Strength, Strengths
from inscape.core.errors import EditError, ShapeError
from inscape.core.step import Step

Experts = int | Sequence[int] | Tensor


def mask_experts(layer: str, experts: Experts, **places: Any) -> Edit:
    """Experts that the router does not choose: their slots go to the next best, and the family's rule weighs anew.

    layer: "layers.3", or a pattern for the same experts of several. experts: indices, or a bool mask over them.
    Choose it to ask what a behaviour does without them; choose `scale_experts(..., 0)` to leave their slots empty.
    With routers that choose groups first, a token whose groups hold too few others may still list a masked one, with
    weight 0. Recorded router.logits hold the dtype's lowest number there.
    Cost: the router a second time. Raises: EditError where fewer experts are left than a token needs.
    Source: Dahlke et al. 2025, arXiv:2502.11096 ("suppress"; the paper does not say what takes the slot).
    """
    which = _indices(experts, "mask_experts")

    def fn(x: Tensor) -> Tensor:
        return _at(x, which, torch.finfo(x.dtype).min)

    return _on_scores(layer, fn, f"{layer} without experts {_said(which)}", "mask_experts", which, places)


def force_experts(layer: str, experts: Experts, **places: Any) -> Edit:
    """Experts that every token passes, at least as heavily as its best other one; the lowest chosen make room.

    A score below the token's highest is put just above it, and the family's rule weighs from there: with renormalised
    weights and two experts a token, one forced has half or more. `scale_experts` beside it changes the weight.
    layer, experts: as in `mask_experts`. Cost: the router a second time.
    Raises: EditError where more are forced than a token passes.
    Source: Dahlke et al. 2025, arXiv:2502.11096 ("stimulate"; the weight that the paper gave is not known to us).
    """
    which = _indices(experts, "force_experts")

    def fn(x: Tensor) -> Tensor:
        return _at(x, which, torch.finfo(x.dtype).max)

    return _on_scores(layer, fn, f"{layer} through experts {_said(which)}", "force_experts", which, places)


def boost_experts(layer: str, experts: Experts, amount: Strengths, **places: Any) -> Edit:
    """Add `amount` to the scores of experts before the choice: chosen more often where above 0, less often below.

    The dial between `mask_experts` and `force_experts`. amount: in units of the scores; a number (which may be
    trained), one a row, or `ins.schedule(...)`. layer, experts: as in `mask_experts`. Cost: the router a second time.
    """
    which, strength = _indices(experts, "boost_experts"), Strength(amount, "boost_experts(amount=)")

    def fn(x: Tensor, step: Step) -> Tensor:
        added = strength.of(x, step)
        return torch.where(_mark(x, which), (x + added).to(x.dtype), x)

    label = f"{layer} experts {_said(which)} {strength.label}"
    spec = {"kind": "boost_experts", "layer": layer, "experts": list(which), **strength.spec}
    tensors = {"amount": strength.values}
    return make_edit(f"{layer}.router.logits", fn, label, contextual=True, spec=spec, tensors=tensors, **places)


def scale_experts(layer: str, experts: Experts, factor: Strengths, *, renormalise: bool = False, **places: Any) -> Edit:
    """Multiply the weights of experts wherever they were chosen; which ones are chosen stays as it is.

    factor: 0 leaves their slots empty; a number (which may be trained), one a row, or `ins.schedule(...)`.
    renormalise: the others make up for it, so that the weights of a token keep their sum.
    layer, experts: as in `mask_experts`. Cost: nothing to speak of.
    """
    which, strength = _indices(experts, "scale_experts"), Strength(factor, "scale_experts(factor=)")

    def fn(x: Tensor, step: Step) -> Tensor:
        chosen = step.held["experts"]
        meant = torch.isin(chosen, torch.tensor(which, device=chosen.device))
        times = strength.of(x, step)
        y = torch.where(meant, x * times, x)
        if renormalise:
            total = y.sum(-1, keepdim=True)
            y = torch.where(total != 0, y * x.sum(-1, keepdim=True) / torch.where(total != 0, total, 1), y)
        return y

    label = f"{layer} experts {_said(which)} x {strength.label.removeprefix('+')}"
    spec = {"kind": "scale_experts", "layer": layer, "experts": list(which), "renormalise": renormalise}
    return make_edit(
        f"{layer}.router.weights", fn, label, contextual=True, needs=("experts",), spec=spec | strength.spec,
        tensors={"factor": strength.values}, **places,
    )  # fmt: skip


def is_never(logits: Float[Tensor, "*places expert"]) -> Bool[Tensor, "*places expert"]:
    """Scores that say: do not choose."""
    return logits <= torch.finfo(logits.dtype).min / 2


def is_always(logits: Float[Tensor, "*places expert"]) -> Bool[Tensor, "*places expert"]:
    """Scores that say: choose."""
    return logits >= torch.finfo(logits.dtype).max / 2


def _on_scores(layer: str, fn: Any, label: str, kind: str, which: tuple[int, ...], places: Any) -> Edit:
    spec = {"kind": kind, "layer": layer, "experts": list(which)}
    return make_edit(f"{layer}.router.logits", fn, label, spec=spec, **places)


def _indices(experts: Any, name: str) -> tuple[int, ...]:
    which = whole_numbers(experts, "experts")
    if not which or min(which) < 0:
        raise EditError(f"{name}(experts={experts!r}): give at least one index of an expert, counted from 0.")
    return tuple(sorted(set(which)))


def _mark(x: Tensor, which: tuple[int, ...]) -> Tensor:
    n = x.shape[-1]
    if which[-1] >= n:
        raise ShapeError(f"there is no expert {which[-1]}: the layer has {n}, counted from 0.")
    mark = torch.zeros(n, dtype=torch.bool)
    mark[list(which)] = True
    return mark.to(x.device)


def _at(x: Tensor, which: tuple[int, ...], value: float) -> Tensor:
    return x.masked_fill(_mark(x, which), value)


def _said(which: tuple[int, ...]) -> str:
    return ", ".join(map(str, which[:4])) + (f" and {len(which) - 4} more" if len(which) > 4 else "")
