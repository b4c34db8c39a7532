"""What one site of a fit keeps of the texts, and the direction that each method makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.logistic.design import Design
from inscape.core.logistic.minimise import Columns, minimise
from inscape.steer.leading import Leading
from inscape.store.statistics.moments import Moments
from inscape.store.statistics.pca import signed

TOL = 1e-6  # of the largest entry of the gradient of a logistic fit


@dataclass(eq=False)
class SiteFit:
    """One site's statistics. high, low: moments of both sides; dark: of the sides that a shuffle says, if any."""

    method: str
    centre: bool
    is_dark: bool
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    high: Moments = field(default_factory=Moments)
    low: Moments = field(default_factory=Moments)
    dark: tuple[Moments, Moments] = field(default_factory=lambda: (Moments(), Moments()))
    leading: Leading | None = None
    rows: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)

    def update(self, x: Float[Tensor, "k *axes"], at: int, said: Bool[Tensor, " k"]) -> None:
        """Take in the states of `at` positive texts and the negative ones after them. said: sides after a shuffle."""
        self.shape, self.dtype = tuple(x.shape[1:]), x.dtype
        x = x.flatten(1) if x.dtype == torch.float64 else x.flatten(1).float()
        _add(self.high, x[:at])
        _add(self.low, x[at:])
        if self.method == "mean_difference" and self.is_dark:
            _add(self.dark[0], x[said])
            _add(self.dark[1], x[~said])
        if self.method == "logistic":
            self.rows.append(x)
            self.labels.append(said)
        if self.method in ("pca", "pca_difference"):
            self.leading = self.leading or Leading(self.centre)
            self.leading.update(x[:at] if self.method == "pca" else self._differences(x[:at], x[at:]))

    def _differences(self, high: Tensor, low: Tensor) -> Tensor:
        """Of partners; in the dark, of each text and the next of its own side, half of them from either side."""
        if not self.is_dark:
            return high - low
        half = len(high) // 2
        return torch.cat([high - high.roll(1, 0), low - low.roll(1, 0)])[half : half + len(high)]

    @cached_property
    def component(self) -> tuple[Tensor, float]:
        assert self.leading is not None
        return self.leading.component()

    @property
    def gap(self) -> float:
        """Length of the mean difference."""
        return float((self.high.mean_ - self.low.mean_).norm())

    def check(self, site: str, position: Any) -> None:
        """Refuse states that differ by no more than rounding."""
        size = float((self.high.mean_.square().sum() + (self.high.variance_.sum() if self.high.n > 1 else 0)).sqrt())
        fewer = min(self.high.n, self.low.n or self.high.n)
        rounding = size * max(8 * torch.finfo(torch.float32).eps, torch.finfo(self.dtype).eps / fewer**0.5)
        if self.low.n and self.gap <= rounding:
            raise InputError(
                f"the two sides have the same mean state at {site}: they lie {self.gap:.1e} apart, and states are "
                f"{size:.1e} long.\n  at position={position!r} their tokens may be the same up to here: choose later "
                "sites, another position, or texts that differ."
            )
        if self.leading is not None and self.component[1] ** 0.5 <= rounding:
            what = "all pairs differ by the same vector" if self.method == "pca_difference" else "all texts are alike"
            raise InputError(
                f"{what} at {site}, so there is no component to take.\n  take the mean instead, or texts that vary."
            )

    def vector(self) -> Float[Tensor, " d"]:
        """The direction in whatever length, and for a component in whatever sign."""
        if self.method == "mean":
            return self.high.mean_
        if self.leading is not None:
            return self.component[0]
        high, low = self.dark if self.is_dark else (self.high, self.low)
        return high.mean_ - low.mean_

    def finished(self, vector: Float[Tensor, " d"]) -> Float[Tensor, "*axes"]:
        """Turned, and given its length."""
        if self.leading is not None:
            along = float(vector @ (self.high.mean_ - self.low.mean_ if self.low.n else self.high.mean_))
            vector = signed(vector[None])[0] if self.is_dark or along == 0 else vector * (1 if along > 0 else -1)
        norm = float(vector.norm())
        length = self.gap if self.low.n else self.component[1] ** 0.5 if self.leading is not None else norm
        return (vector * (length / norm)).reshape(self.shape)


def _add(moments: Moments, x: Tensor) -> None:
    if len(x):
        moments.update(x)


def exchanged(n: int, m: int, generator: torch.Generator) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " m"]]:
    """Which of n and of m texts count as positive once sides are exchanged, so that nothing of the sides is left.

    As many of either side in each (drawn freely, few texts would keep some). Where sides have equally many, partners
    change places, so that what the texts of a pair share stays shared.
    """
    if n == m:
        swap = torch.zeros(n, dtype=torch.bool)
        swap[torch.randperm(n, generator=generator)[: n // 2]] = True
        return ~swap, swap
    kept = min(max(round(n * n / (n + m)), 1, n - m + 1), n - 1)
    high, low = torch.zeros(n, dtype=torch.bool), torch.zeros(m, dtype=torch.bool)
    high[torch.randperm(n, generator=generator)[:kept]] = True
    low[torch.randperm(m, generator=generator)[: n - kept]] = True
    return high, low


def logistic_weights(fits: Mapping[str, SiteFit], C: float) -> dict[str, Float[Tensor, " d"]]:
    """Weights of the logistic regression of the sides at every site, solved together where sites are equally wide."""
    found: dict[str, Tensor] = {}
    widths: dict[int, list[str]] = {}
    for site, fit in fits.items():
        widths.setdefault(fit.rows[0].shape[1], []).append(site)
    for alike in widths.values():
        labels = torch.cat(fits[alike[0]].labels).long()
        everyone = torch.ones(1, len(labels), dtype=torch.bool)
        design = Design({site: torch.cat(fits[site].rows) for site in alike}, everyone)
        made = minimise(design, Columns(labels[:, None], everyone, (0,), 2), C=C, tol=TOL, max_rounds=500)
        found |= {site: design.folded(i, made.weight[i, 0])[0][0] for i, site in enumerate(alike)}
    return {site: found[site] for site in fits}
