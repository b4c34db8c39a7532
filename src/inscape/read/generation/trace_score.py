"""Is a trace good? A score from its signals, with the scales and the threshold of calibration traces."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, NotFittedError, ShapeError
from inscape.core.nulls.auc import Auc, auc
from inscape.core.nulls.values import Values, flags, generator


@dataclass
class TraceScore:
    """The sum of z-scored signals, each with its sign: `s = sum_j sign_j (x_j - mean_j) / sd_j`.

    Nothing is weighted by how well it predicts: the signs are the source's (net and aligned change up, cumulative
    change down), so that calibration needs few traces. Scores hold for one model and one kind of trace; calibrate for
    each. Choose a probe on the states when labels are many.
    Rows are traces, columns signals (`Signals.table`, or any other table of numbers); a signal that is unknown (NaN, as
    the aligned change of two segments) counts as the calibration mean.
    Parameters: signs, one a column. control: "shuffle" fits on labels in another order, "random" draws random scores.
    Learned by fit, float64: mean_, sd_ (columns), threshold_, the score that parts right from wrong with the fewest
    errors, each kind weighing the same.
    Raises: NotFittedError; ShapeError for other columns; InputError when all labels are alike.
    Source: arXiv:2510.10494; its baselines are `Confidence` and the number of tokens.
    """

    signs: tuple[float, ...] = (1.0, -1.0, 1.0)
    control: str | None = None
    seed: int = 0
    target: ClassVar[str] = "own"  # columns are what `signs` says: not just any rows

    def fit(self, x: Float[Tensor, "trace signal"], y: Values) -> "TraceScore":
        """x: signals of calibration traces; y: was each right?"""
        if self.control not in (None, "shuffle", "random"):
            raise InputError(f"control={self.control!r} is none of this score; there are 'shuffle' and 'random'.")
        x = self._columns(x)
        right = flags(y, "y", len(x))
        if right.min() == right.max():
            raise InputError(
                "all calibration traces are of one kind: there is nothing to tell apart.\n  sample more, or hotter."
            )
        if self.control == "shuffle":
            right = generator(self.seed).permutation(right)
        known = torch.isfinite(x)
        count = known.sum(0).clamp(min=1)
        filled = torch.where(known, x, 0.0)
        self.mean_ = filled.sum(0) / count
        spread = (torch.where(known, x - self.mean_, 0.0).square().sum(0) / count).sqrt()
        self.sd_ = torch.where(spread > 0, spread, torch.ones_like(spread))
        self.threshold_ = torch.tensor(_threshold(self.transform(x).numpy(), right), dtype=torch.float64)
        return self

    def transform(self, x: Float[Tensor, "trace signal"]) -> Float[Tensor, " trace"]:
        """One score a trace; higher is better."""
        if not hasattr(self, "mean_"):
            raise NotFittedError("this score has no scales yet.\n  call fit(signals, right) with calibration traces.")
        x = self._columns(x)
        if self.control == "random":
            drawn = generator(self.seed + 1).standard_normal(len(x))
            return torch.from_numpy(drawn)
        z = torch.where(torch.isfinite(x), (x - self.mean_) / self.sd_, 0.0)
        return z @ torch.tensor(self.signs, dtype=torch.float64)

    def predict(self, x: Float[Tensor, "trace signal"]) -> Tensor:
        """Is each trace good?"""
        return self.transform(x) >= self.threshold_

    def score(self, x: Float[Tensor, "trace signal"], y: Values) -> float:
        """The area under the ROC curve: 0.5 when the score says nothing."""
        return self.area(x, y, n=1).value

    def area(self, x: Float[Tensor, "trace signal"], y: Values, *, length: Values | None = None, **how: Any) -> Auc:
        """The same with its interval and its permutation p. length: tokens of each trace; then only pairs of about
        equal length are compared, which is what is left of a signal that grows with length. More as in `nulls.auc`."""
        return auc(self.transform(x), y, by=length, **how)

    def _columns(self, x: Tensor) -> Tensor:
        x = x.detach().double().cpu()
        if x.ndim != 2 or x.shape[1] != len(self.signs):
            raise ShapeError(
                f"signals of shape {tuple(x.shape)} for {len(self.signs)} signs: give one row a trace and one column a"
                " sign."
            )
        return x


def signal_areas(
    table: Float[Tensor, "trace signal"],
    names: Sequence[str],
    right: Values,
    *,
    signs: Sequence[float] | None = None,
    **how: Any,
) -> dict[str, Auc]:
    """The area of each signal by itself, with its sign; unknown values are left out of their own signal."""
    right_ = torch.as_tensor(np.asarray(right)).bool()
    signs = signs if signs is not None else [1.0] * len(names)
    out = {}
    by = how.pop("by", None)
    for name, sign, column in zip(names, signs, table.T, strict=True):
        known = torch.isfinite(column)
        more = {} if by is None else {"by": torch.as_tensor(np.asarray(by))[known]}
        out[name] = auc(sign * column[known], right_[known], **more, **how)
    return out


def _threshold(score: np.ndarray, right: np.ndarray) -> float:
    """The lowest score that is accepted when right and wrong weigh the same."""
    values = np.unique(score)
    accepted = score[None] >= values[:, None]
    balanced = (accepted & (right > 0)).sum(1) / right.sum() - (accepted & (right == 0)).sum(1) / (1 - right).sum()
    return float(values[int(balanced.argmax())])
