"""The linear probe of numbers, and the linear map from one site to another: least squares with an L2 penalty."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core import readout
from inscape.core.direction import Direction
from inscape.core.errors import InputError, ShapeError
from inscape.core.interval import Interval
from inscape.core.readout import (
    Labels,
    Rows,
    Target,
    check_control,
    labels_of,
    need_fitted,
    origin,
    picked,
    row_batches,
    units_of,
)
from inscape.read.probes.linear import as_direction, decided
from inscape.read.probes.scoring import r2, r2_interval
from inscape.store.statistics import Covariance, Cross


@dataclass
class RidgeProbe:
    """Linear probe of numbers: the least-squares map from activations to targets, with an L2 penalty.

    Solves `min_W sum_i |W x_i + b - y_i|^2 + penalty |W|^2` by its normal equations, in float64, in one step; b has no
    penalty. `standardise` measures the penalty on units of standard deviation 1, and folds the scales back into W.
    Choose it for real-valued targets, for a first look, and (y rows of another site) as the map between two sites or
    models; choose `LogisticProbe` for classes.

    Cost: one pass over the rows, n d (d + k) multiplications, one (d, d) solve; 8 d^2 bytes whatever n is.
    Parameters: penalty, scikit-learn's alpha; 0 needs more samples than d. control: "shuffle" fits on targets in
    another order, drawn by `seed`.
    Learned by fit: weight_ (k, d), bias_ (k,), is_one_: the target was one number a row; site_, model_.
    Raises: InputError for a penalty below 0, or a singular system; NotFittedError before fit; ShapeError.
    Source: Alain & Bengio 2016, arXiv:1610.01644; squared loss here, cross-entropy there.
    """

    penalty: float = 1.0
    standardise: bool = True
    control: str | None = None
    seed: int = 0
    target: ClassVar[Target] = "numbers"

    def fit(self, x: Rows, y: Labels | Rows) -> "RidgeProbe":
        check_control(self.control)
        if not self.penalty >= 0:
            raise InputError(f"penalty={self.penalty}: it is 0 or a positive number.")
        units_of(x)
        y, is_one = targets_of(y, len(x))
        if self.control == "shuffle":
            y = picked(y, torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed)))
        within, between = Covariance(), Cross()
        for part, wanted in pairs(x, y):
            within.update(part)
            between.update(part, wanted)
        gram, cross = within.scatter_.cpu(), between.scatter_.cpu()
        scale = (gram.diagonal() / len(x)).sqrt() if self.standardise else torch.ones(len(gram), dtype=torch.float64)
        scale[scale == 0] = 1
        gram /= scale[:, None] * scale
        gram.diagonal().add_(self.penalty)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if bool(failed) or float(factor.diagonal().min()) < 1e-7 * float(factor.diagonal().max()):
            raise InputError(
                f"{len(x):,} rows of {len(gram):,} units with penalty={self.penalty:g} have no one best map: units "
                "depend on one another.\n  give a larger penalty, or more rows."
            )
        weight = torch.cholesky_solve(cross / scale[:, None], factor) / scale[:, None]
        self.weight_: Float[Tensor, "k d"] = weight.T.contiguous()
        self.bias_: Float[Tensor, " k"] = between.mean_y_.cpu() - between.mean_x_.cpu() @ weight
        self.is_one_ = is_one
        self.site_, self.model_ = origin(x)
        return self

    def predict(self, x: Rows) -> Float[Tensor, "n *k"]:
        """W x + b; one number a row where the target was."""
        need_fitted(self, "weight_")
        out = decided(x, self.weight_, self.bias_)
        return out[:, 0] if self.is_one_ else out

    def transform(self, x: Rows) -> Float[Tensor, "n k"]:
        """W x + b as rows [n, k]: activations of the one site in the space of the other."""
        need_fitted(self, "weight_")
        return decided(x, self.weight_, self.bias_)

    def score(self, x: Rows, y: Labels | Rows, *, interval: bool = False, by: Labels | None = None) -> float | Interval:
        """R2, the share of variance explained, mean over outputs; `interval=True` by drawing items again."""
        need_fitted(self, "weight_")
        units_of(x, d=self.weight_.shape[1])
        y, _ = targets_of(y, len(x))
        truth = torch.cat([part.cpu() for _, part in row_batches(y, name="y")])
        if truth.shape[1] != len(self.bias_):
            raise ShapeError(f"it was fitted on {len(self.bias_):,} targets a row; these have {truth.shape[1]:,}.")
        read = self.transform(x)
        return r2_interval(truth, read, by) if interval else r2(truth, read)

    def direction(
        self, site: str = "", *, of: int = 0, source: str = "ridge probe", model: str | None = None
    ) -> Direction:
        """The weights of one output as a direction. site, model: left out, what the rows of the fit knew."""
        need_fitted(self, "weight_")
        return as_direction(self, self.weight_[of], site, source, model)


def targets_of(y: Labels | Rows, n: int) -> tuple[Rows, bool]:
    """Targets as rows [n, k], and whether they were one number a row.

    Raises: ShapeError for another number of them; InputError for words.
    """
    if isinstance(y, Rows) and len(y.shape) > 1:
        if len(y) != n:
            raise ShapeError(f"{len(y):,} targets for {n:,} rows: one a row.")
        return (y.detach() if isinstance(y, Tensor) and y.is_floating_point() else y), False
    held = labels_of(y, n, "targets")
    if held.dtype.kind not in "bifu":
        raise InputError(f"targets are numbers; got {held.tolist()[0]!r}: LogisticProbe reads classes.")
    return torch.from_numpy(held.astype("float64"))[:, None], True


def pairs(x: Rows, y: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of x and y together, in float64, as many at once as make a chunk of the wider."""
    step = 8 * max(1, readout.BATCH_BYTES // (8 * max(units_of(x), units_of(y, "y"))))
    both = (
        row_batches(x, batch_bytes=step * units_of(x)),
        row_batches(y, batch_bytes=step * units_of(y, "y"), name="y"),
    )
    for (_, part), (_, wanted) in zip(*both, strict=True):
        yield part, wanted.to(part.device)
