"""The linear probe of classes in closed form: linear discriminant analysis with a shrunk covariance."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.readout import (
    Labels,
    Rows,
    Target,
    check_control,
    classes_of,
    labels_of,
    need_fitted,
    origin,
    row_batches,
    shuffled,
    units_of,
)
from inscape.read.probes.linear import as_direction, decided, said, weight_of
from inscape.read.probes.scoring import share_right
from inscape.store.statistics.moments import zeros


@dataclass
class LDA:
    """Linear probe of classes: Gaussian classes of one covariance S, shrunk towards a diagonal of equal entries.

    W_k = S^-1 mean_k,  b_k = -mean_k . W_k / 2 + log share_k,  predict the largest W_k . x + b_k,
    S = (1 - s) S_within + s mean(variances).  For two classes the difference of both is kept.
    It is the difference of means seen through the spread within classes: choose it for few rows or as a closed form;
    `MeanDifference` for the plain difference, `LogisticProbe` where classes are not Gaussian and rows are many.

    Cost: two passes over the rows, n d^2 multiplications and one (d, d) solve in float64; 8 d^2 bytes. Deterministic.
    Parameters: shrinkage, s from 0 to 1, or "auto": the one that Ledoit & Wolf estimate, on units of standard deviation
    1 within classes. control: "shuffle" fits on labels in another order, drawn by `seed`.
    Learned by fit: weight_ (classes, d), or (1, d) for two, bias_, classes_, shrinkage_; site_, model_.
    Raises: InputError for one class, a shrinkage that is none, or a singular S; NotFittedError before fit; ShapeError.
    Source: Ledoit & Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices; scikit-learn's
    solver "lsqr" for a number. Ours estimates "auto" once, from all classes' rows without their means; there by class.
    """

    shrinkage: float | str = "auto"
    control: str | None = None
    seed: int = 0
    target: ClassVar[Target] = "classes"

    def fit(self, x: Rows, y: Labels) -> "LDA":
        check_control(self.control)
        if self.shrinkage != "auto" and not (isinstance(self.shrinkage, int | float) and 0 <= self.shrinkage <= 1):
            raise InputError(f"shrinkage={self.shrinkage!r}: it is a number from 0 to 1, or 'auto'.")
        units_of(x)
        classes, code = classes_of(y, len(x))
        if self.control == "shuffle":
            code = shuffled(code, self.seed)
        mean, scale, count = _means(x, code, len(classes))
        covariance, estimated = _within(x, code, mean, scale if self.shrinkage == "auto" else torch.ones_like(scale))
        s = estimated if self.shrinkage == "auto" else float(self.shrinkage)
        middle = float(covariance.diagonal().mean())
        covariance *= 1 - s
        covariance.diagonal().add_(s * middle)
        used = scale if self.shrinkage == "auto" else torch.ones_like(scale)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if bool(failed) or float(factor.diagonal().min()) < 1e-7 * float(factor.diagonal().max()):
            raise InputError(
                f"{len(x):,} rows of {len(used):,} units have a singular covariance within classes.\n"
                "  give a shrinkage above 0 (or 'auto'), or more rows."
            )
        weight = torch.cholesky_solve((mean / used).T, factor).T / used
        bias = -0.5 * (weight * mean).sum(1) + (count / len(x)).log()
        if len(classes) == 2:
            weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        self.weight_: Float[Tensor, "k d"] = weight
        self.bias_: Float[Tensor, " k"] = bias
        self.classes_, self.shrinkage_ = tuple(classes.tolist()), s
        self.site_, self.model_ = origin(x)
        return self

    def transform(self, x: Rows) -> Float[Tensor, "n k"]:
        """W x + b: one column for two classes (above 0 for the second), else one a class."""
        need_fitted(self, "weight_")
        return decided(x, self.weight_, self.bias_)

    def predict(self, x: Rows) -> np.ndarray:
        """The likeliest class of each row, as the labels were given."""
        return said(self.transform(x), self.classes_)

    def score(self, x: Rows, y: Labels, *, interval: bool = False, by: Labels | None = None) -> float | Interval:
        """Share of rows whose class is told right; `interval=True` with its interval, by item where rows share one."""
        right = torch.from_numpy(self.predict(x) == labels_of(y, len(x)))
        return share_right(right, by) if interval else float(right.double().mean())

    def direction(self, site: str = "", *, of: Any = None, source: str = "LDA", model: Any = None) -> Direction:
        """The weights of a class as a direction; as `LogisticProbe.direction`."""
        need_fitted(self, "weight_")
        return as_direction(self, weight_of(self.weight_, self.classes_, of), site, source, model)


def _means(x: Rows, code: Tensor, k: int) -> tuple[Float[Tensor, "k d"], Float[Tensor, " d"], Float[Tensor, " k"]]:
    """Means of classes, the spread of every unit within them (1 where there is none), and the size of each class."""
    d = units_of(x)
    shift, sums, squares = (torch.zeros(n, d, dtype=torch.float64) for n in (1, k, 1))
    for rows, part in row_batches(x):
        part = part.cpu()
        if rows.start == 0:
            shift = part.mean(0, keepdim=True)
        part = part - shift
        sums.index_add_(0, code[rows], part)
        squares += part.square().sum(0)
    count = torch.bincount(code, minlength=k).double()
    left = (squares[0] - (sums.square() / count[:, None]).sum(0)).clamp(min=0)
    left[left <= 1e-13 * (squares[0] + len(x) * shift[0].square())] = 0
    scale = (left / len(x)).sqrt()
    scale[scale == 0] = 1
    return shift + sums / count[:, None], scale, count


def _within(x: Rows, code: Tensor, mean: Tensor, scale: Tensor) -> tuple[Float[Tensor, "d d"], float]:
    """The covariance of rows without their class's mean, in units of `scale`, and the shrinkage it asks for."""
    d, n = mean.shape[1], len(x)
    total = zeros(d, d, mean.device)
    fourth = 0.0
    for rows, part in row_batches(x):
        left = (part.cpu() - mean[code[rows]]) / scale
        total.addmm_(left.T, left)
        fourth += float(left.square().sum(1).square().sum())
    total /= n
    mu, squares = float(total.diagonal().mean()), float(total.square().sum())
    noise = (fourth / n - squares) / (d * n)
    apart = (squares - d * mu**2) / d
    return total, 0.0 if noise <= 0 else 1.0 if apart <= 0 else min(noise, apart) / apart
