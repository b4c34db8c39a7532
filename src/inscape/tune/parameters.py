"""Weights written as what they were plus something trained: a low-rank product, or a full difference.

Registered with torch's own parametrisation for the time of the training, so that every use of a weight (a linear
layer, a stack of experts, a convolution) sees the sum, whatever module it is in.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize


@dataclass(frozen=True, eq=False)
class Weight:
    """One parameter: its full name, the module it is on, and its name there."""

    name: str
    module: nn.Module
    key: str

    @property
    def parameter(self) -> nn.Parameter:
        return getattr(self.module, self.key)


class LowRank(nn.Module):
    """`W + (alpha / rank) B A` with `B` zero at first; on stacks of matrices, one product a matrix.

    Weights of convolutions are taken as matrices [out, everything else]. A and B are in float32 for narrower weights.
    Source: Hu et al. 2021, LoRA, arXiv:2106.09685; A is drawn with variance 1 / (columns), theirs is Kaiming uniform.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, is_conv: bool, generator: torch.Generator) -> None:
        super().__init__()
        shape = (weight.shape[0], weight[0].numel()) if is_conv else tuple(weight.shape)
        *stack, rows, columns = shape
        rank = min(rank, rows, columns)
        wide = {"dtype": torch.promote_types(weight.dtype, torch.float32), "device": weight.device}
        drawn = torch.randn(*stack, rank, columns, generator=generator) / math.sqrt(columns)
        self.a = nn.Parameter(drawn.to(**wide))
        self.b = nn.Parameter(torch.zeros(*stack, rows, rank, **wide))
        self.scale = alpha / rank

    def forward(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return weight + (self.scale * (self.b @ self.a)).reshape(weight.shape).to(weight.dtype)


class Difference(nn.Module):
    """`W + D` with `D` in float32: full training of weights too coarse to take small steps (bfloat16, float16)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.difference = nn.Parameter(torch.zeros_like(weight, dtype=torch.float32))

    def forward(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (weight.float() + self.difference).to(weight.dtype)


@contextmanager
def written_as(weights: Sequence[Weight], parts: Mapping[str, nn.Module]) -> Iterator[None]:
    """Weights parametrised by `parts` inside; afterwards plain again, with the values they had before."""
    try:
        for weight in weights:
            if weight.name in parts:
                parametrize.register_parametrization(weight.module, weight.key, parts[weight.name])
        yield
    finally:
        for weight in weights:
            if parametrize.is_parametrized(weight.module, weight.key):
                parametrize.remove_parametrizations(weight.module, weight.key, leave_parametrized=False)
