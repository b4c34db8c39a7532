"""A router asked again with other scores: its own rule chooses the experts and weighs them, whatever family it is of.

A router that returns (logits, weights, experts) has chosen before anyone can edit its logits. So where an edit moved
them, its own forward runs once more with the edited logits in place of those of its linear map: softmax or sigmoid,
groups, corrected selection, top-k, renormalisation and scaling are the model's own code and not retold here.

Two values are words: `NEVER` is not chosen, `ALWAYS` is. They are turned into numbers that say the same to every rule:
1. ALWAYS becomes just above the token's best other expert, where the expert's own score was not higher already, so
   that its weight is at least as large as that one's.
2. Where a rule chooses by corrected scores (DeepSeek V3: a bias beside the sigmoid), the correction says so too.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from inscape.core.edits.experts import is_always, is_never
from inscape.core.errors import EditError, ModelError

CORRECTION = "e_score_correction_bias"  # as transformers calls what is added to the scores for the choice alone
FAR = 1e4  # beyond any correction; finite, since groups sum it


def is_router(out: Any) -> bool:
    """Does a module with router logits also return what was made of them?"""
    return isinstance(out, (tuple, list)) and len(out) >= 3 and all(isinstance(x, Tensor) for x in out[:3])


def rerouted(module: nn.Module, args: tuple[Any, ...], out: Any, logits: Tensor, site: str) -> Any:
    """What this router returns where its linear map gives `logits`. Raises: EditError, ModelError."""
    k, n = out[2].shape[-1], logits.shape[-1]
    never, always = is_never(logits.detach()), is_always(logits.detach())
    most_banned, most_forced = int(never.sum(-1).max()), int(always.sum(-1).max())
    if n - most_banned < k:
        raise EditError(
            f"{site}: {most_banned} of {n} experts are masked, and every token needs {k}.\n"
            f"  leave at least {k} of them, or scale their weights to 0 with scale_experts(..., 0)."
        )
    if most_forced > k:
        raise EditError(f"{site}: {most_forced} experts are forced on one token, which passes {k}; force no more.")
    router = module
    if most_banned or most_forced:
        router = _corrected(module, never, always)
        logits = _numbers(logits, out[0].reshape(logits.shape), never, always)
    given = _Given(logits)
    with given:
        new = type(module).forward(router, *args)
    if given.met != 1:
        raise ModelError(
            f"{site}: {type(module).__name__} makes its scores with {given.met} linear maps, so there is none that the "
            "edited scores stand for.\n  edit router.experts and router.weights of this model instead."
        )
    return type(out)((logits, *new[1:]))


def _numbers(logits: Tensor, own: Tensor, never: Tensor, always: Tensor) -> Tensor:
    """NEVER and ALWAYS as scores that softmax and sigmoid can take."""
    others = logits.masked_fill(never | always, -torch.inf).amax(-1, keepdim=True)
    others = torch.where(others.isinf(), torch.zeros_like(others), others)
    above = others + 8 * torch.finfo(logits.dtype).eps * (1 + others.abs())
    return torch.where(always, torch.maximum(own, above), logits)


def _corrected(module: nn.Module, never: Tensor, always: Tensor) -> nn.Module:
    """The router itself, or a twin of it (same weights) whose correction of the choice differs token by token."""
    correction = module._buffers.get(CORRECTION, module._parameters.get(CORRECTION))
    if correction is None:
        return module
    far = never.to(correction.dtype) * -FAR + always.to(correction.dtype) * FAR
    twin = copy.copy(module)
    twin._buffers = dict(module._buffers)
    twin._parameters = dict(module._parameters)
    twin._parameters.pop(CORRECTION, None)
    twin._buffers[CORRECTION] = correction + far
    return twin


class _Given(TorchFunctionMode):
    """Every linear map met gives these logits; how many there were tells whether that was right."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.met = logits, 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.linear:
            self.met += 1
            return self.logits
        return func(*args, **(kwargs or {}))
