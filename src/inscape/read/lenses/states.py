"""The stream after each layer, as the rows that a lens reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.positions import At, check_at
from inscape.core.progress import Progress, tell
from inscape.engine.forward import run
from inscape.models.model import Model


@dataclass(frozen=True, eq=False)
class Stream:
    """States of real positions, by layer. mask: which cells of [batch, pos] they belong to, row by row.

    ends: the last layer's at the same positions. tokens: those that were fed, where `pos` are all columns.
    """

    layers: tuple[str, ...]
    states: Float[Tensor, "layer row d_model"]
    ends: Float[Tensor, "row d_model"]
    mask: Bool[Tensor, "batch pos"]
    tokens: Int[Tensor, "batch pos"] | None

    @property
    def items(self) -> Int[Tensor, " row"]:
        """Which input each row belongs to."""
        return self.mask.nonzero()[:, 0]


def stream(model: Model, inputs: Any, layers: Any = None, at: At = None, progress: Progress = None) -> Stream:
    """Read the stream after layers, at all real positions or at `at` (equally many in every row).

    layers: a pattern, or patterns; all resid_post of the main stack without it. Cost: one forward without its head.
    """
    last = f"{model.blocks[-1].name}.resid_post"
    names = layer_names(model, layers)
    at = check_at(at)
    tell(progress, "reading the stream", None)
    trace = run(model, inputs, read=[*names, *([last] if last not in names else [])], reduce=at)
    found = {name: x[:, None] if x.ndim == 2 else x for name, x in trace.items()}
    shape = found[last].shape[:2]
    mask = trace.mask if at is None else None
    if mask is None or mask.shape != shape:  # a decoder beside an encoder has columns of its own
        mask = torch.ones(shape, dtype=torch.bool)
    mask = mask.cpu().bool()
    states = torch.stack([found[name][mask.to(found[name].device)] for name in names])
    tokens = (
        trace.tokens.cpu() if at is None and trace.tokens is not None and trace.tokens.shape == mask.shape else None
    )
    return Stream(names, states, found[last][mask.to(found[last].device)], mask, tokens)


def layer_names(model: Model, layers: Any = None) -> tuple[str, ...]:
    """The sites that a lens reads: those that fit the patterns, or every resid_post of the main stack."""
    if layers is None:
        layers = [f"{block.name}.resid_post" for block in model.blocks]
    patterns: Sequence[Any] = [layers] if isinstance(layers, str) else list(layers)
    return tuple(model.sites(*patterns).names)


def spread(value: Tensor, mask: Bool[Tensor, "batch pos"]) -> Tensor:
    """Values of real positions, [layer, row, ...] or [row], back in their places; zeros in padding."""
    if value.ndim == 1:
        return spread(value[None], mask)[0]
    wide = torch.zeros(value.shape[0], *mask.shape, *value.shape[2:], dtype=value.dtype)
    wide[:, mask] = value
    return wide
