"""The simplest probe of a yes or no: the difference of two means."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.errors import InputError, NotFittedError, ShapeError

CONTROLS = (None, "shuffle")


@dataclass
class MeanDifference:
    """Probe of a yes or no: the vector from one class's mean to the other's, with the threshold half way.

    w = mean(x | yes) - mean(x | no),  predict yes where w . x + b > 0,  b = -w . (mean yes + mean no) / 2.
    It needs no settings, cannot overfit more than two means can, and its direction is what the classes differ by,
    correlated units included: choose it to steer or to ask what is represented. Choose a trained linear classifier
    where accuracy matters and one class's spread hides the difference.

    Cost: one pass over the rows, in float64. Deterministic.
    Parameters: control: "shuffle" fits on labels in another order, drawn by `seed`: what rows of this number and size
    give when there is nothing to find. Score both on the same held-out rows.
    Learned by fit: weight_ (d,), bias_, gap_: |w|.
    Raises: NotFittedError before fit; InputError for labels that are all alike; ShapeError for rows of another size.
    Source: Marks & Tegmark 2023, arXiv:2310.06824 (mass-mean probing without the covariance).
    """

    control: str | None = None
    seed: int = 0

    def fit(self, x: Float[Tensor, "n d"], y: Shaped[Tensor, " _"]) -> "MeanDifference":
        if self.control not in CONTROLS:
            raise InputError(f"control={self.control!r} is none of a probe; it can be 'shuffle' or None.")
        x, yes = x.detach().double(), _labels(y, len(x))
        if self.control == "shuffle":
            yes = yes[torch.randperm(len(yes), generator=torch.Generator().manual_seed(self.seed))]
        yes = yes.to(x.device)
        high, low = x[yes].mean(0), x[~yes].mean(0)
        self.weight_: Float[Tensor, " d"] = (high - low).cpu()
        self.bias_ = -float(self.weight_ @ (high + low).cpu()) / 2
        self.gap_ = float(self.weight_.norm())
        return self

    def transform(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """w . x + b, above 0 for yes."""
        if not hasattr(self, "weight_"):
            raise NotFittedError("this probe has not been fitted: call fit(x, y) with rows of both classes.")
        if x.shape[-1] != len(self.weight_):
            raise ShapeError(f"the probe was fitted on rows of {len(self.weight_)} units; these have {x.shape[-1]}.")
        return x.detach().double().cpu() @ self.weight_ + self.bias_

    def predict(self, x: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
        return self.transform(x) > 0

    def score(self, x: Float[Tensor, "n d"], y: Shaped[Tensor, " _"]) -> float:
        """Share of rows that are told right."""
        return float((self.predict(x) == _labels(y, len(x))).double().mean())

    def direction(self, site: str, *, source: str = "difference of means", model: str = "") -> Direction:
        """The difference as a direction at a site, in its own length. model: fingerprint of the model it is for."""
        self.transform(self.weight_[None]) if hasattr(self, "weight_") else self.transform(torch.zeros(1, 1))
        return Direction(site, self.weight_.clone(), source, model)


def _labels(y: Shaped[Tensor, " _"], n: int) -> Bool[Tensor, " n"]:
    yes = (y if y.dtype == torch.bool else y > 0).cpu()
    if yes.shape != (n,):
        raise ShapeError(f"{tuple(y.shape)} labels for {n} rows: one a row.")
    if bool(yes.all()) or not bool(yes.any()):
        raise InputError("all labels are alike: a probe of a yes or no needs rows of both classes.")
    return yes
