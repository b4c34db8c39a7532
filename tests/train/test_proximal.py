"""The proximal optimizer: solutions known on paper, zeros that are zeros."""

from functools import partial

import pytest
import torch
from torch import nn

import inscape as ins
from inscape.train import cosine, fit
from inscape.train.proximal import ProximalAdam


class Points(nn.Module):
    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.u = nn.ParameterList([nn.Parameter(torch.zeros(n)) for n in sizes])


def solved(wanted: list[torch.Tensor], **penalties: float) -> list[torch.Tensor]:
    """The minimum of `sum |u - wanted|^2 / 2` and the penalties."""
    points = Points(*map(len, wanted))

    def loss(module: Points, batch: object) -> torch.Tensor:
        return sum(((u - w).square().sum() / 2 for u, w in zip(module.u, wanted, strict=True)), torch.zeros(()))

    fit(points, [0], loss, steps=800, lr=0.1, clip=None, schedule=cosine, optimizer=partial(ProximalAdam, **penalties))
    return [u.detach() for u in points.u]


def test_without_penalties_it_finds_the_minimum():
    wanted = torch.tensor([3.0, -0.2, 0.0, 1.0])
    torch.testing.assert_close(solved([wanted])[0], wanted, atol=1e-3, rtol=0)


def test_the_l1_solution_is_the_soft_threshold_with_exact_zeros():
    wanted = torch.tensor([3.0, -0.2, 0.4, -1.0])
    (found,) = solved([wanted], l1=0.5)
    torch.testing.assert_close(found, torch.tensor([2.5, 0.0, 0.0, -0.5]), atol=1e-3, rtol=0)
    assert (found == 0).tolist() == [False, True, True, False]


def test_a_group_shorter_than_its_penalty_is_zero_whole_and_another_is_shortened():
    short, long = torch.tensor([0.5, -0.5, 0.5, 0.5]), torch.tensor([3.0, 4.0])
    found = solved([short, long], group=0.6)
    assert not bool(found[0].any())
    torch.testing.assert_close(found[1], long * (1 - 0.6 * 2**0.5 / 5), atol=1e-3, rtol=0)


def test_impossible_penalties_are_refused():
    with pytest.raises(ins.InputError, match="penalties of 0 or more"):
        ProximalAdam(Points(2).parameters(), lr=0.1, l1=-1.0)
