"""The simplest probe of a yes or no: the difference of two means."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.interval import Interval
from inscape.core.readout import (
    Labels,
    Rows,
    Target,
    check_control,
    need_fitted,
    origin,
    row_batches,
    shuffled,
    units_of,
)
from inscape.read.probes.linear import as_direction, flags_of
from inscape.read.probes.scoring import share_right


@dataclass
class MeanDifference:
    """Probe of a yes or no: the vector from one class's mean to the other's, with the threshold half way.

    w = mean(x | yes) - mean(x | no),  predict yes where w . x + b > 0,  b = -w . (mean yes + mean no) / 2.
    It needs no settings, cannot overfit more than two means can, and its direction is what the classes differ by,
    correlated units included: choose it to steer or to ask what is represented. Choose `LDA` where one class's spread
    hides the difference, `LogisticProbe` where accuracy matters.

    Cost: one pass over the rows, in float64, of any number of them. Deterministic.
    Parameters: control: "shuffle" fits on labels in another order, drawn by `seed`: what rows of this number and size
    give when there is nothing to find. Score both on the same held-out rows.
    Learned by fit: weight_ (d,), bias_, gap_: |w|; site_, model_ from rows of a store.
    Raises: NotFittedError before fit; InputError for labels that are all alike; ShapeError for rows of another size.
    Source: Marks & Tegmark 2023, arXiv:2310.06824 (mass-mean probing without the covariance).
    """

    control: str | None = None
    seed: int = 0
    target: ClassVar[Target] = "flags"

    def fit(self, x: Rows, y: Labels) -> "MeanDifference":
        check_control(self.control)
        d = units_of(x)
        yes = flags_of(y, len(x), both=True)
        if self.control == "shuffle":
            yes = shuffled(yes, self.seed)
        sums = torch.zeros(2, d, dtype=torch.float64)
        for rows, part in row_batches(x):
            high = yes[rows].to(part.device)
            sums += torch.stack([part[~high].sum(0), part[high].sum(0)]).cpu()
        low, high = sums / torch.stack([(~yes).sum(), yes.sum()])[:, None]
        self.weight_: Float[Tensor, " d"] = high - low
        self.bias_ = -float(self.weight_ @ (high + low)) / 2
        self.gap_ = float(self.weight_.norm())
        self.site_, self.model_ = origin(x)
        return self

    def transform(self, x: Rows) -> Float[Tensor, " n"]:
        """w . x + b, above 0 for yes."""
        need_fitted(self, "weight_")
        units_of(x, d=len(self.weight_))
        return torch.cat([part.cpu() @ self.weight_ + self.bias_ for _, part in row_batches(x)])

    def predict(self, x: Rows) -> Bool[Tensor, " n"]:
        return self.transform(x) > 0

    def score(self, x: Rows, y: Labels, *, interval: bool = False, by: Labels | None = None) -> float | Interval:
        """Share of rows that are told right; `interval=True` with its interval, by item where rows share one."""
        right = self.predict(x) == flags_of(y, len(x))
        return share_right(right, by) if interval else float(right.double().mean())

    def direction(self, site: str = "", *, source: str = "difference of means", model: Any = None) -> Direction:
        """The difference as a direction at a site, in its own length: `ins.add(probe.direction(), 1)` moves no to yes.

        site, model (or its fingerprint): left out, what the rows of the fit knew of themselves.
        """
        need_fitted(self, "weight_")
        return as_direction(self, self.weight_, site, source, model)
