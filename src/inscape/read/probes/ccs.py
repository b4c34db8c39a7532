"""The probe of truth without labels: a direction along which a statement and its negation are opposite and sure.

1. Rows of statements and of their negations are standardised each by themselves, so that "it says yes" itself is no
   answer.
2. Many starts at once, each a direction and a threshold; Adam on all of them, on all pairs in every step.
3. The start that ends lowest is kept.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.errors import InputError, ShapeError
from inscape.core.interval import Interval
from inscape.core.logistic.design import Design
from inscape.core.readout import Labels, Rows, Target, check_control, need_fitted, origin, row_batches, units_of
from inscape.read.probes.linear import as_direction, flags_of
from inscape.read.probes.scoring import share_right

UNDECIDED = 0.25  # the loss of saying 1/2 to everything


@dataclass
class CCS:
    """Contrast-consistent search: what a model may hold for true, found from statements and their negations, no labels.

    With p+ = sigmoid(w . u(x+) + b) for a statement, p- for its negation, u standardising each side by itself:
    loss = mean (p+ - (1 - p-))^2 + min(p+, p-)^2.  fit(x, y): x the rows of statements ("... yes"), y those of the
    negations of the same ones ("... no"), in the same order.
    It finds whatever splits pairs consistently, which may be truth or any other thing that varies between them: score
    it with `truth` and beside the control. Choose `MeanDifference` or `LogisticProbe` where labels are to be had.

    Cost: `steps` passes over the pairs, all starts together, in float64, from disk where they exceed 1 GB.
    Deterministic from `seed`.
    Parameters: starts; steps; lr; decay, AdamW's. control: "random" keeps a random direction, as every start begins.
    Learned by fit: weight_ (d,), bias_, middle_ (2, d), spread_ (2, d), loss_; site_, model_.
    Raises: InputError for fewer than two pairs; NotFittedError before fit; ShapeError for pairs that do not match.
    Source: Burns et al. 2022, arXiv:2212.03827 (10 starts, AdamW, 1,000 steps); full batches and a falling rate here.
    """

    starts: int = 10
    steps: int = 400
    lr: float = 0.02
    decay: float = 0.01
    control: str | None = None
    seed: int = 0
    target: ClassVar[Target] = "contrast"

    def fit(self, x: Rows, y: Rows) -> "CCS":
        check_control(self.control, ("random",), "CCS")
        d = units_of(x)
        if units_of(y, "y") != d or len(x) != len(y):
            raise ShapeError(
                f"{len(x):,} statements of {d:,} units and {len(y):,} negations of {units_of(y, 'y'):,}: give pairs."
            )
        if len(x) < 2 or self.starts < 1 or self.steps < 0:
            raise InputError(f"{len(x)} pairs, {self.starts} starts, {self.steps} steps: give two pairs and a start.")
        design = Design({"x": x, "y": y}, torch.ones(1, len(x), dtype=torch.bool), keep=torch.float64)
        draw = torch.Generator().manual_seed(self.seed)
        theta = torch.randn(self.starts, d + 1, generator=draw, dtype=torch.float64) / d**0.5
        theta[:, -1] = 0
        if self.control is None:
            theta = self._descended(design, theta)
        loss = _loss(design, theta)[0]
        best = int(loss.argmin()) if self.control is None else 0
        self.loss_ = float(loss[best])
        self.weight_: Float[Tensor, " d"] = theta[best, :-1].clone()
        self.bias_ = float(theta[best, -1])
        self.middle_: Float[Tensor, "2 d"] = design.mean.cpu()
        self.spread_: Float[Tensor, "2 d"] = design.scale.cpu()
        self.site_, self.model_ = origin(x)
        return self

    def transform(self, x: Rows, y: Rows) -> Float[Tensor, " n"]:
        """How true each statement is held to be: (p+ + 1 - p-) / 2. Its sense is arbitrary: 0 may be true."""
        need_fitted(self, "weight_")
        high, low = self._probabilities(x, y)
        return (high + 1 - low) / 2

    def predict(self, x: Rows, y: Rows) -> Bool[Tensor, " n"]:
        """One side or the other, for each pair; which side is truth only labels can say."""
        return self.transform(x, y) > 0.5

    def score(
        self, x: Rows, y: Rows, truth: Labels | None = None, *, interval: bool = False, by: Labels | None = None
    ) -> float | Interval:
        """With `truth`: share of pairs told right, in the better of both senses (chance is therefore above a half).

        Without: how consistent and sure it is on these pairs, 1 - loss / 0.25, from below 0 to 1; it says nothing of
        truth, and 0 is what an undecided probe gets.
        """
        need_fitted(self, "weight_")
        if truth is not None:
            right = self.predict(x, y) == flags_of(truth, len(x))
            right = right if float(right.double().mean()) >= 0.5 else ~right
            return share_right(right, by) if interval else float(right.double().mean())
        high, low = self._probabilities(x, y)
        each = 1 - ((high - (1 - low)).square() + torch.minimum(high, low).square()) / UNDECIDED
        if interval:
            from inscape.core.nulls import bootstrap

            return bootstrap(each, by=by)
        return float(each.mean())

    def direction(self, site: str = "", *, source: str = "CCS", model: object = None) -> Direction:
        """The direction in the units of the rows; which way is true, labels have to say."""
        need_fitted(self, "weight_")
        return as_direction(self, self.weight_ / self.spread_.mean(0), site, source, model)

    def _probabilities(self, x: Rows, y: Rows) -> tuple[Tensor, Tensor]:
        out = []
        for side, rows in enumerate((x, y)):
            units_of(rows, d=len(self.weight_))
            w = self.weight_ / self.spread_[side]
            b = self.bias_ - float(w @ self.middle_[side])
            out.append(torch.cat([torch.sigmoid(part.cpu() @ w + b) for _, part in row_batches(rows)]))
        if len(out[0]) != len(out[1]):
            raise ShapeError(f"{len(out[0]):,} statements and {len(out[1]):,} negations: give pairs.")
        return out[0], out[1]

    def _descended(self, design: Design, theta: Tensor) -> Tensor:
        """AdamW with full batches and a rate that falls to nothing, all starts at once."""
        first, second = torch.zeros_like(theta), torch.zeros_like(theta)
        for step in range(1, self.steps + 1):
            gradient = _loss(design, theta)[1]
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            rate = self.lr * 0.5 * (1 + np.cos(np.pi * (step - 1) / self.steps))
            theta = theta * (1 - rate * self.decay)
            theta = theta - rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        return theta


def _loss(design: Design, theta: Float[Tensor, "start d1"]) -> tuple[Float[Tensor, " start"], Tensor]:
    """The loss of every start and its gradient, in one pass."""
    loss, gradient = torch.zeros(len(theta), dtype=torch.float64), torch.zeros_like(theta)
    for yes, x in design.pairs():
        high, low = torch.sigmoid(yes @ theta.T), torch.sigmoid(x @ theta.T)
        off, least = high + low - 1, torch.minimum(high, low)
        loss += (off.square() + least.square()).sum(0)
        is_high = high <= low
        by_high = (2 * off + 2 * least * is_high) * high * (1 - high)
        by_low = (2 * off + 2 * least * ~is_high) * low * (1 - low)
        gradient += by_high.T @ yes + by_low.T @ x
    return loss / design.n, gradient / design.n
