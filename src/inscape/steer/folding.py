"""What an affine map of a value makes of the weights of a module that gives the value or reads it, or why it cannot.

gives it   W becomes A W, b becomes A b + c; a norm has gains in place of W, so A must be diagonal
reads it   W becomes W A, b becomes b + W c
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from inscape.steer.affine_form import AffineForm


@dataclass(frozen=True, eq=False)
class Host:
    """A module whose weights can take up an edit. side: "out" (it gives the value) or "in" (it reads it).

    like: what it gives on an input. shared: by name of a parameter, the other modules that have it too.
    """

    path: str
    module: nn.Module
    side: str
    like: Tensor
    shared: Mapping[str, str]

    def refusal(self, form: AffineForm) -> str | None:
        """Why this module's weights cannot take up the map; None when they can."""
        module: Any = self.module
        weight, bias, kind = module.weight, getattr(self.module, "bias", None), kind_of(self.module)
        name = f"{self.path} ({type(self.module).__name__})"
        if not weight.is_floating_point() or weight.device.type == "meta" or weight.ndim > 2:
            return (
                f"{self.path}.weight is {weight.dtype} on {weight.device}: it cannot hold the map.\n"
                "  merge into the model in full precision, then quantise it."
            )
        if kind == "norm" and form.diagonal is None:
            return f"{self.path} scales every entry by itself; this edit mixes entries."
        if kind == "norm" and _offset(self.module, self.like) is None:
            return f"{name} does not multiply by its weight alone."
        if kind != "embedding" and bias is None and form.shifts:
            return (
                f"{name} has no bias that could hold the shift.\n"
                "  models with biases (GPT-2, OPT, GPT-NeoX) can take it; here use ins.editing or a control vector."
            )
        changed = [n for n in ("weight", "bias") if n in self.shared and (n == "bias" or not form.is_shift)]
        changed = ["weight"] if kind == "embedding" and "weight" in self.shared else changed
        if changed:
            return f"{self.path}.{changed[0]} is also the weight of {self.shared[changed[0]]}, which would change too."
        return None

    def taken_up(self, form: AffineForm, now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """New values of the module's parameters, float64, by full name. now: those that earlier edits gave."""

        def own(name: str) -> Tensor | None:
            held = getattr(self.module, name, None)
            return None if held is None else now.get(f"{self.path}.{name}", held.detach()).double().cpu()

        kind, w, b = kind_of(self.module), own("weight"), own("bias")
        assert w is not None
        if kind == "embedding":
            return {f"{self.path}.weight": form.of(w)}
        if kind == "norm":
            gains, offset = form.diagonal, _offset(self.module, self.like)
            assert gains is not None
            assert offset is not None
            new, shift = (w + offset) * gains - offset, None if b is None else form.of(b[None])[0]
        elif self.side == "out":
            new = _rows(
                self.module, form.linear(_rows(self.module, w))
            )  # [in, out]: a value of the site for each input
            shift = None if b is None else form.of(b[None])[0]
        else:
            rows = _rows(self.module, w)  # [d, out]: a row for each entry of the value
            new = _rows(self.module, form.linear(torch.eye(len(rows), dtype=torch.float64)) @ rows)
            shift = None if b is None else form.constant @ rows + b
        found = {} if form.is_shift else {f"{self.path}.weight": new}
        return found if shift is None else found | {f"{self.path}.bias": shift}


def kind_of(module: nn.Module) -> str:
    """ "linear", "embedding", "norm", or "" for what is none of them."""
    own = dict(module.named_parameters(recurse=False))
    if isinstance(module, nn.Linear) or is_conv1d(module):
        return "linear"
    if type(module) is nn.Embedding:
        return "embedding"
    names_norm = "norm" in type(module).__name__.lower()
    return (
        "norm" if names_norm and "weight" in own and set(own) <= {"weight", "bias"} and own["weight"].ndim == 1 else ""
    )


def is_conv1d(module: nn.Module) -> bool:
    """transformers' linear layer whose weight is [in, out]."""
    return type(module).__name__ == "Conv1D" and getattr(module, "weight", torch.empty(0)).ndim == 2


def given_width(module: nn.Module) -> int | None:
    """Entries of what the module gives for a token."""
    weight: Any = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    return weight.shape[0] if isinstance(module, nn.Linear) else weight.shape[-1]


def read_width(module: nn.Module) -> int | None:
    """Entries of what a linear module reads of a token; None for others."""
    if kind_of(module) != "linear":
        return None
    weight: Any = module.weight
    return weight.shape[0] if is_conv1d(module) else weight.shape[-1]


def _rows(module: nn.Module, weight: Tensor) -> Tensor:
    """The weight as [in, out], and back."""
    return weight if is_conv1d(module) else weight.T


def _offset(module: Any, like: Tensor) -> float | None:
    """0 where a norm multiplies by its weight, 1 by one plus it (Gemma); None by something else. Found by trying."""
    bias = {"bias": torch.zeros_like(module.bias)} if getattr(module, "bias", None) is not None else {}
    x = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
    for offset in (0.0, 1.0):
        with torch.no_grad():
            given = functional_call(module, {"weight": torch.full_like(module.weight, -offset), **bias}, (x,))
        if not bool(given.any()):
            return offset
    return None
