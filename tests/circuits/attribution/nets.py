"""Nets whose attributions are known on paper, for `tests.circuits.attribution`."""

import torch
from torch import Tensor, nn

import inscape as ins


class Chain(nn.Module):
    """x -> first -> power -> second; with power 1 a linear map, else a polynomial of that degree."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.first, self.second, self.power = nn.Linear(6, 8), nn.Linear(8, 3), power

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) ** self.power)


def chain(power: int = 1) -> "ins.Model":
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ins.open(Chain(power).double().eval())


class Side(nn.Module):
    """A layer whose output nothing is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        return self.used(x)


def rows(n: int, seed: int) -> Tensor:
    return torch.randn(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def first_class(logits: Tensor) -> Tensor:
    """The metric: the first score of every row."""
    return logits[:, 0]
