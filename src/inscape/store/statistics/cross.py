"""Covariance between the units of two sites, and the linear CKA that follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import FileError, InputError, ShapeError
from inscape.store.statistics.contract import Rows, State, expect, expect_count, need, same_kind, same_units, taken
from inscape.store.statistics.moments import Covariance, centred_rows, joined, zeros


@dataclass(eq=False)
class Cross:
    """Cross-covariance of two columns: `M = sum (x - mean_x)(y - mean_y)^T`, covariance `M / (n - 1)`.

    With the `Covariance` of each it gives linear CKA, CCA and the least-squares map from one site to the other; they
    are kept apart so that many pairs share them.
    Cost: n d_x d_y multiplications in float64; 8 d_x d_y bytes.
    Learned: n, mean_x_, mean_y_, covariance_ (d_x, d_y), scatter_ (M itself).
    Raises: as `Covariance`; ShapeError when x and y are not of the same rows.
    Source: Chan, Golub & LeVeque 1983, with two means in place of one.
    """

    n: int = field(default=0, init=False)
    _x: Tensor | None = field(default=None, init=False, repr=False)
    _y: Tensor | None = field(default=None, init=False, repr=False)
    _scatter: Tensor | None = field(default=None, init=False, repr=False)
    sites: ClassVar[int] = 2

    @property
    def kind(self) -> str:
        return "cross"

    def fresh(self) -> "Cross":
        return type(self)()

    def update(self, x: Float[Tensor, "n d_x"], y: Float[Tensor, "m d_y"], rows: Rows = None) -> "Cross":
        if len(x) != len(y):
            raise ShapeError(f"a cross-covariance takes both columns of the same rows; got {len(x):,} and {len(y):,}.")
        x, y = taken(x, self._x, "cross-covariance"), taken(y, self._y, "cross-covariance")
        if not len(x):
            return self
        (mean_x, x), (mean_y, y) = centred_rows(x), centred_rows(y)
        n = self._shifted(len(x), mean_x, mean_y)
        assert self._scatter is not None
        self._scatter.addmm_(x.T, y)
        self.n = n
        return self

    def merge(self, other: "Cross") -> "Cross":
        same_kind(self, other)
        if other._x is None or other._y is None or other._scatter is None:
            return self
        if self._x is not None and self._y is not None:
            same_units(self._x, other._x, "cross-covariance")
            same_units(self._y, other._y, "cross-covariance")
        n = self._shifted(other.n, other._x, other._y)
        assert self._scatter is not None
        self._scatter += other._scatter.to(self._scatter.device)
        self.n = n
        return self

    def _shifted(self, n: int, x: Tensor, y: Tensor) -> int:
        if self._x is None or self._y is None or self._scatter is None:
            self._x, self._y, self._scatter = x.clone(), y.clone(), zeros(len(x), len(y), x.device)
            return n
        weight, shift_x = joined(self.n, self._x, n, x)
        _, shift_y = joined(self.n, self._y, n, y)
        self._scatter.addr_(shift_x, shift_y, alpha=weight)
        return self.n + n

    @property
    def mean_x_(self) -> Float[Tensor, " d_x"]:
        need(self.n, 1, "a mean")
        assert self._x is not None
        return self._x.clone()

    @property
    def mean_y_(self) -> Float[Tensor, " d_y"]:
        need(self.n, 1, "a mean")
        assert self._y is not None
        return self._y.clone()

    @property
    def scatter_(self) -> Float[Tensor, "d_x d_y"]:
        need(self.n, 1, "a scatter")
        assert self._scatter is not None
        return self._scatter.clone()

    @property
    def covariance_(self) -> Float[Tensor, "d_x d_y"]:
        need(self.n, 2, "a covariance")
        return self.scatter_.div_(self.n - 1)

    def state(self) -> State:
        return {"mean_x": self.mean_x_, "mean_y": self.mean_y_, "scatter": self.scatter_}, {"n": self.n}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], about: Mapping[str, int]) -> "Cross":
        one = (torch.float64, (None,))
        expect(tensors, {"mean_x": one, "mean_y": one, "scatter": (torch.float64, (None, None))}, "a cross-covariance")
        x, y, scatter = tensors["mean_x"], tensors["mean_y"], tensors["scatter"]
        if scatter.shape != (len(x), len(y)):
            raise FileError(f"no state of a cross-covariance: {tuple(scatter.shape)} for {len(x)} by {len(y)} units.")
        made = cls()
        made.n = expect_count(about, "n", "a cross-covariance", 1)
        made._x, made._y, made._scatter = x, y, scatter
        return made


def linear_cka(between: Cross, x: Covariance, y: Covariance) -> float:
    """Linear CKA of two sites: `|M_xy|_F^2 / (|M_xx|_F |M_yy|_F)`, from 0 to 1, blind to rotation and scale.

    Exact for the rows seen, whatever their number; biased upwards when n is not well above d, as every plain CKA is.
    Raises: InputError when the three were not filled from the same rows, or a site does not vary.
    Source: Kornblith et al. 2019, arXiv:1905.00414, eq. 3 in its feature form.
    """
    need(between.n, 2, "CKA")
    apart = between.n != x.n or between.n != y.n
    apart = apart or not _close(between.mean_x_, x) or not _close(between.mean_y_, y)
    if apart:
        raise InputError(
            f"CKA takes one set of rows: {between.n:,} between the sites, {x.n:,} and {y.n:,} within.\n"
            "  these differ in number or mean: fill all three in one pass over the same columns, in the order (x, y)."
        )
    within = torch.linalg.matrix_norm(x.scatter_) * torch.linalg.matrix_norm(y.scatter_)
    if not float(within):
        raise InputError("CKA is not defined where a site is the same in every row.")
    return float(torch.linalg.matrix_norm(between.scatter_).square() / within)


def _close(mean: Tensor, of: Covariance) -> bool:
    if mean.shape != of.mean_.shape:
        return False
    tolerance = 1e-9 * (mean.abs() + (of.variance_ if of.n > 1 else torch.zeros_like(mean)).sqrt())
    return bool(((mean - of.mean_).abs() <= tolerance + 1e-300).all())
