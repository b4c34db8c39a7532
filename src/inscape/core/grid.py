"""The labelled array of a sweep: one number for every site, position and head, with what they are measured against."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.costs import words_of
from inscape.core.errors import InputError
from inscape.core.nulls.bootstrap import Intervals, bootstrap_each


@dataclass(frozen=True)
class Cost:
    """What a sweep was predicted to take once its rows were timed, and what it took.

    runs: cells that were run; skipped: cells that cannot have an effect, whose value is the base run's. token_layers:
    tokens times layers that were computed; of_the_loop: the same for one run a cell.
    """

    predicted_s: float
    seconds: float
    runs: int
    skipped: int
    token_layers: float
    of_the_loop: float

    def __str__(self) -> str:
        share = self.token_layers / self.of_the_loop if self.of_the_loop else 1.0
        return (
            f"{self.runs + self.skipped} cells ({self.skipped} without effect) in {_words(self.seconds)} "
            f"(predicted {_words(self.predicted_s)}), {share:.1%} of the loop's work"
        )


def _words(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else words_of(seconds)


def contrast(
    base: Float[Tensor, " pair"], other: Float[Tensor, " pair"], metric: str, floor: float = 1e-3
) -> Float[Tensor, " pair"]:
    """other - base, pair by pair. Raises: InputError for pairs whose two runs differ by less than `floor`."""
    apart = other - base
    flat = (apart.abs() < floor).nonzero().flatten().tolist()
    if flat:
        raise InputError(
            f"{len(flat)} of {len(apart)} pairs are no contrast: {metric} differs by less than {floor:g} "
            f"between their two prompts (pairs {', '.join(map(str, flat[:5]))}).\n"
            "  leave these pairs out, choose a metric that tells the prompts apart, or use the raw values."
        )
    return apart


@dataclass(frozen=True, eq=False)
class Grid:
    """Raw metric of every cell, the mean over pairs: `values[site, position]`, or whatever `axes` say.

    per_pair: the same pair by pair, [pair, ...]. base, other: the metric of the runs that are edited and of those that
    patches come from, [pair]. labels: what stands along each axis. how, why: which way it was run.
    """

    values: Float[Tensor, "..."]
    axes: tuple[str, ...]
    labels: tuple[tuple[Any, ...], ...]
    per_pair: Float[Tensor, "pair ..."]
    base: Float[Tensor, " pair"]
    other: Float[Tensor, " pair"] | None
    metric: str
    edit: str
    cost: Cost
    how: str = ""
    why: str = ""
    tokens: tuple[str, ...] = field(default=())

    def _along(self, axis: str) -> tuple[Any, ...]:
        return self.labels[self.axes.index(axis)] if axis in self.axes else ()

    @property
    def sites(self) -> tuple[str, ...]:
        return self._along("site")

    @property
    def positions(self) -> tuple[Any, ...]:
        return self._along("position")

    @property
    def heads(self) -> tuple[int, ...]:
        return self._along("head")

    def normalised(self, *, floor: float = 1e-3) -> Float[Tensor, "..."]:
        """(value - base) / (other - base), the mean over pairs: 0 where an edit does nothing, 1 where it does all.

        Raises: InputError for pairs whose two runs hardly differ, where this says nothing; floor is in the metric.
        """
        return self.normalised_per_pair(floor=floor).mean(0)

    def pooled(self, *, floor: float = 1e-3) -> Float[Tensor, "..."]:
        """The same as a ratio of two means over pairs: mean(value - base) / mean(other - base).

        Choose it over `normalised` to rank places over many pairs: there one pair of little contrast can outweigh all
        others, here it weighs little. Raises: as `normalised`, when the means hardly differ.
        """
        if self.other is None:
            raise InputError("this sweep has no second run to measure against; values are in the metric itself.")
        apart = contrast(self.base.mean()[None], self.other.mean()[None], self.metric, floor)
        return (self.values - self.base.mean()) / apart[0]

    def normalised_per_pair(self, *, floor: float = 1e-3) -> Float[Tensor, "pair ..."]:
        """`normalised`, pair by pair."""
        if self.other is None:
            raise InputError("this sweep has no second run to measure against; values are in the metric itself.")
        apart = contrast(self.base, self.other, self.metric, floor)
        shape = (-1, *[1] * (self.per_pair.ndim - 1))
        return (self.per_pair - self.base.reshape(shape)) / apart.reshape(shape)

    def interval(self, *, level: float = 0.95, n: int = 2000, seed: int = 0) -> Intervals:
        """Bootstrap interval of every cell's mean over pairs, [site, position, ...]; needs several pairs."""
        if len(self.per_pair) < 2:
            raise InputError("an interval over pairs needs at least two pairs; this sweep has one.")
        return bootstrap_each(self.per_pair, level=level, n=n, seed=seed)

    def top(self, n: int = 5) -> list[tuple[tuple[Any, ...], float]]:
        """The n cells that moved the metric furthest from the base run: (labels, change)."""
        change = self.values - self.base.mean()
        flat = change.flatten()
        best = flat.abs().topk(min(n, len(flat))).indices
        return [(self.label(int(i)), float(flat[i])) for i in best]

    def label(self, flat: int) -> tuple[Any, ...]:
        """The labels of one cell, by its index into the flattened values."""
        where = torch.unravel_index(torch.tensor(flat), self.values.shape)
        return tuple(names[int(i)] for names, i in zip(self.labels, where, strict=True))

    def __repr__(self) -> str:
        shape = " x ".join(f"{len(x)} {a}s" for a, x in zip(self.axes, self.labels, strict=True))
        other = f", {float(self.other.mean()):.4g} in the other run" if self.other is not None else ""
        lines = [f"Grid({shape}, {len(self.base)} pairs; {self.metric} {float(self.base.mean()):.4g}{other})"]
        lines += [f"  {' '.join(map(str, where))}: {change:+.4g}" for where, change in self.top(3)]
        return "\n".join([*lines, f"  {self.how}; {self.cost}"])
