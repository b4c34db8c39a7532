"""What a careful person writes without inscape: the bar the engine is measured against."""

from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

Points = dict[str, nn.Module]


class Enough(Exception):
    """Ends a forward pass early."""


def first(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]


def gemma_points(module: nn.Module) -> Points:
    """54 outputs of Gemma 3: both post-norms and the block, in every layer."""
    points = {}
    for i, layer in enumerate(module.model.layers):
        points[f"layers.{i}.attn_out"] = layer.post_attention_layernorm
        points[f"layers.{i}.mlp_out"] = layer.post_feedforward_layernorm
        points[f"layers.{i}.resid_post"] = layer
    return points


def gpt2_points(module: nn.Module) -> Points:
    points = {}
    for i, layer in enumerate(module.transformer.h):
        points[f"layers.{i}.attn_out"] = layer.attn
        points[f"layers.{i}.mlp_out"] = layer.mlp
        points[f"layers.{i}.resid_post"] = layer
    return points


@contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, Callable]]) -> Any:
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def read(points: Points, forward: Callable[[], Any]) -> dict[str, Tensor]:
    """Clone what the modules give during one forward."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            kept[name] = first(out).clone()

        return hook

    with torch.no_grad(), hooked([(module, keep(name)) for name, module in points.items()]):
        forward()
    return kept


def read_and_stop(module: nn.Module, forward: Callable[[], Any]) -> Tensor:
    """Clone one module's output and end the forward there."""
    kept: list[Tensor] = []

    def hook(inner: nn.Module, args: Any, out: Any) -> None:
        kept.append(first(out).clone())
        raise Enough

    with torch.no_grad(), hooked([(module, hook)]), suppress(Enough):
        forward()
    return kept[0]


def steered(module: nn.Module, vector: Tensor, forward: Callable[[], Any]) -> Any:
    """Add a vector to a module's output during a call."""

    def hook(inner: nn.Module, args: Any, out: Any) -> Any:
        return out + vector if isinstance(out, Tensor) else (out[0] + vector, *out[1:])

    with hooked([(module, hook)]):
        return forward()
