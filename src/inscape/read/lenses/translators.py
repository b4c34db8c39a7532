"""The affine maps of a tuned lens: trained by KL, or solved in closed form."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inscape.core.errors import InputError
from inscape.store.statistics.cross import Cross
from inscape.store.statistics.moments import Covariance, Moments

Rows = Mapping[str, Tensor]  # column -> [n, d_model]


class Translators(nn.Module):
    """h + S_end (A (h - mean) / std + b), per layer: identity at the start, every weight of the same scale.

    Units of the stream differ in size by a factor of thousands; in these coordinates one learning rate suits all.
    """

    def __init__(self, moments: Mapping[str, Moments], layers: Sequence[str], last: str) -> None:
        super().__init__()
        d = len(moments[last].mean_)
        self.weight = nn.Parameter(torch.zeros(len(layers), d, d))
        self.bias = nn.Parameter(torch.zeros(len(layers), d))
        self.layers = tuple(layers)
        self.mean: Tensor
        self.std: Tensor
        self.end_std: Tensor
        self.register_buffer("mean", torch.stack([moments[x].mean_ for x in layers]).float())
        self.register_buffer("std", torch.stack([_std(moments[x]) for x in layers]).float())
        self.register_buffer("end_std", _std(moments[last]).float())

    def forward(self, states: Float[Tensor, "layer row d_model"]) -> Float[Tensor, "layer row d_model"]:
        inside = (states - self.mean[:, None]) / self.std[:, None]
        return states + self.end_std * (torch.bmm(inside, self.weight.mT) + self.bias[:, None])

    @torch.no_grad()
    def folded(self) -> tuple[Float[Tensor, "layer d_model d_model"], Float[Tensor, "layer d_model"]]:
        """The same maps as h + A h + b."""
        weight = self.end_std[:, None] * self.weight / self.std[:, None]
        bias = self.end_std * self.bias - torch.einsum("lij,lj->li", weight, self.mean)
        return weight, bias

    @torch.no_grad()
    def set(self, weight: Float[Tensor, "layer d_model d_model"], bias: Float[Tensor, "layer d_model"]) -> None:
        """Begin at these maps h + A h + b."""
        self.weight.copy_(weight * self.std[:, None] / self.end_std[:, None])
        self.bias.copy_((bias + torch.einsum("lij,lj->li", weight, self.mean.to(weight.dtype))) / self.end_std)


def _std(moments: Moments) -> Tensor:
    """Standard deviations; a unit that never varies gets the mean one, so that nothing is divided by zero."""
    std = moments.std_
    return torch.where(std > 0, std, std.mean().clamp(min=1e-6))


def least_squares(
    batches: Callable[[], Iterator[Rows]],
    layers: Sequence[str],
    last: str,
    *,
    penalty: float = 1e-6,
    shuffled: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "layer d_model d_model"], Float[Tensor, "layer d_model"]]:
    """The maps h + A h + b nearest to the last layer's states, where every row counts by the inverse of its length.

    min sum |h_end - h - A h - b|^2 / |h_end|^2: the final norm divides by the length, so an error matters in relation
    to it, and the few rows of a hundred times the length that language models have do not decide everything.
    Streaming: normal equations in float64, (d + 1)^2 numbers a layer. penalty: of A, relative to the mean square.
    """
    gram = {name: Covariance() for name in layers}
    cross = {name: Cross() for name in layers}
    for rows in batches():
        end = rows[last].double()
        weight = (end.square().mean(1, keepdim=True).sqrt() + 1e-12).reciprocal()
        for name in layers:
            h = rows[name].double()
            to = end - h if shuffled is None else shuffled(end) - h
            x = torch.cat([h * weight, weight], 1)
            gram[name].update(x)
            cross[name].update(x, to * weight)
    maps, biases = [], []
    for name in layers:
        g, c = gram[name], cross[name]
        if g.n < 2:
            raise InputError(
                f"{g.n} rows of {name}: a map needs at least two, and more than it has units to mean much."
            )
        left = g.scatter_ + g.n * torch.outer(g.mean_, g.mean_)
        right = c.scatter_ + g.n * torch.outer(c.mean_x_, c.mean_y_)
        ridge = penalty * left.diagonal()[:-1].mean() * torch.ones(len(left), dtype=left.dtype)
        ridge[-1] = 1e-12 * left[-1, -1]
        solved = torch.linalg.solve(left + ridge.diag(), right)
        maps.append(solved[:-1].T)
        biases.append(solved[-1])
    return torch.stack(maps), torch.stack(biases)


def moments_of(batches: Callable[[], Iterator[Rows]], names: Sequence[str]) -> dict[str, Moments]:
    """Mean and spread of every unit of these columns, in one pass."""
    found = {name: Moments() for name in names}
    for rows in batches():
        for name in names:
            found[name].update(rows[name].float())
    return found


def as_rows(
    batch: Any, layers: Sequence[str], last: str, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A batch of columns as [layer, row, d_model] and the last layer's [row, d_model]."""
    states = torch.stack([batch[name].to(device, dtype) for name in layers])
    return states, batch[last].to(device, dtype)
