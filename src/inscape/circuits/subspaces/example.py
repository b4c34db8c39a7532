"""The closed example of an illusion: y = 2 h_2 + h_3 of h = (x, 0, x), on which every number is known on paper.

Exchanging h along (1, 1, 0) gives the other input's output exactly, though h_1 reaches nothing and h_2 never varies.
Along e_3 it gives the same output honestly.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inscape.circuits.subspaces.contrast import Contrast
from inscape.models.model import Model
from inscape.models.open import open as open_model

SITE = "@1:in"  # h, as the second map takes it in
READER: Float[Tensor, "1 3"] = torch.tensor([[0.0, 2.0, 1.0]])
DIRECTIONS = {
    "illusory": torch.tensor([1.0, 1.0, 0.0]) / 2**0.5,
    "honest": torch.tensor([0.0, 0.0, 1.0]),
    "faithful": torch.tensor([1.0, 0.0, 1.0]) / 2**0.5,
    "unread": torch.tensor([1.0, 0.0, 0.0]),
}


def closed_example(n: int = 64, seed: int = 0) -> tuple[Model, Contrast, Float[Tensor, " n"]]:
    """The net, n positive inputs to be turned into negative ones, and the outputs that the sources have.

    Source: Makelov et al. 2023, arXiv:2311.17030, section 3.
    """
    net = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    for layer, weight in zip(net, (torch.tensor([[1.0], [0.0], [1.0]]), READER), strict=True):
        layer.weight = nn.Parameter(weight.clone())
    generator = torch.Generator().manual_seed(seed)
    x, other = torch.rand(n, generator=generator) + 0.5, -torch.rand(n, generator=generator) - 0.5
    at = torch.zeros(n, dtype=torch.long)
    contrast = Contrast(x[:, None, None], other[:, None, None], at, at, metric=lambda out: out[:, 0, 0])
    return open_model(net.eval()), contrast, other
