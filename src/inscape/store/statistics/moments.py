"""Count, mean, variance and covariance of rows, in float64, by batches.

A batch is centred on its own mean before anything is squared, so a large mean costs no digits; batches are joined by
the pairwise update of Chan, Golub & LeVeque:
    n = a + b,  D = mean_b - mean_a,  mean = mean_a + D b/n,  M = M_a + M_b + D D^T ab/n
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import FileError, InputError
from inscape.store.statistics.contract import Rows, State, expect, expect_count, need, same_kind, same_units, taken

BLOCK = 256  # units; smaller saves more of the lower triangle and slows the products
CACHED = 1 << 18  # numbers of float64 that are gone over in a core's own cache: three times as fast as from memory
LIMIT_BYTES = 4 << 30  # a matrix above this is refused: d = 23,170


@dataclass(eq=False)
class Moments:
    """Count, mean and variance of every unit: `M = sum (x - mean)^2`, variance `M / (n - 1)`.

    Choose it for scales and centres; choose `Covariance` when units are to be compared with one another.
    Cost: about three reads of the batch, from a core's cache; 16 bytes a unit. The same for any cuts and order to
    float64 rounding, also far from 0.
    Learned: n, mean_, variance_, std_ (one row has no variance).
    Raises: NotFiniteError, ShapeError, InputError from update; InputError from a result of too few rows.
    Source: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1.
    """

    n: int = field(default=0, init=False)
    _mean: Tensor | None = field(default=None, init=False, repr=False)
    _squares: Tensor | None = field(default=None, init=False, repr=False)
    sites: ClassVar[int] = 1

    @property
    def kind(self) -> str:
        return "moments"

    def fresh(self) -> "Moments":
        return type(self)()

    def update(self, x: Float[Tensor, "n d"], rows: Rows = None) -> "Moments":
        x = taken(x, self._mean, "moments")
        for part in x.split(max(64, CACHED // max(1, x.shape[1]))) if len(x) else ():
            mean, centred = centred_rows(part)
            self._join(len(part), mean, centred.square_().sum(0))
        return self

    def merge(self, other: "Moments") -> "Moments":
        same_kind(self, other)
        if other._mean is None or other._squares is None:
            return self
        if self._mean is not None:
            same_units(self._mean, other._mean, "moments")
        return self._join(other.n, other._mean, other._squares)

    def _join(self, n: int, mean: Tensor, squares: Tensor) -> "Moments":
        if self._mean is None or self._squares is None:
            self.n, self._mean, self._squares = n, mean.clone(), squares.clone()
            return self
        weight, shift = joined(self.n, self._mean, n, mean)
        self._squares += squares.to(shift.device) + weight * shift.square()
        self.n += n
        return self

    @property
    def mean_(self) -> Float[Tensor, " d"]:
        need(self.n, 1, "a mean")
        assert self._mean is not None
        return self._mean.clone()

    @property
    def variance_(self) -> Float[Tensor, " d"]:
        need(self.n, 2, "a variance")
        assert self._squares is not None
        return self._squares / (self.n - 1)

    @property
    def std_(self) -> Float[Tensor, " d"]:
        return self.variance_.sqrt()

    def state(self) -> State:
        need(self.n, 1, "a file of moments")
        assert self._squares is not None
        return {"mean": self.mean_, "squares": self._squares.clone()}, {"n": self.n}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], about: Mapping[str, int]) -> "Moments":
        expect(tensors, {"mean": (torch.float64, (None,)), "squares": (torch.float64, (None,))}, "moments")
        if len(tensors["mean"]) != len(tensors["squares"]):
            raise FileError("no state of moments: mean and squares are of unlike length.")
        made = cls()
        made.n = expect_count(about, "n", "moments", 1)
        made._mean, made._squares = tensors["mean"], tensors["squares"]
        return made


@dataclass(eq=False)
class Covariance:
    """Count, mean and the covariance of all units: `M = sum (x - mean)(x - mean)^T`, covariance `M / (n - 1)`.

    Choose it for principal components, whitening, least squares and linear CKA while d^2 numbers fit; above that choose
    `PCA`, or `Moments` when the diagonal is enough.
    Cost: about n d^2 multiplications in float64 (only the upper triangle is computed); 8 d^2 bytes.
    Learned: n, mean_, covariance_, variance_, scatter_ (M itself, not divided).
    Raises: as `Moments`; InputError where the matrix would pass 4 GiB.
    Source: Chan, Golub & LeVeque 1983, as `Moments`, with matrices in place of squares.
    """

    n: int = field(default=0, init=False)
    _mean: Tensor | None = field(default=None, init=False, repr=False)
    _upper: Tensor | None = field(default=None, init=False, repr=False)
    sites: ClassVar[int] = 1

    @property
    def kind(self) -> str:
        return "covariance"

    def fresh(self) -> "Covariance":
        return type(self)()

    def update(self, x: Float[Tensor, "n d"], rows: Rows = None) -> "Covariance":
        x = taken(x, self._mean, "covariance")
        if not len(x):
            return self
        mean, centred = centred_rows(x)
        n = self._shifted(len(x), mean)
        assert self._upper is not None
        for start in range(0, centred.shape[1], BLOCK):
            part = centred[:, start : start + BLOCK]
            self._upper[start : start + BLOCK, start:].addmm_(part.T, centred[:, start:])
        self.n = n
        return self

    def merge(self, other: "Covariance") -> "Covariance":
        same_kind(self, other)
        if other._mean is None or other._upper is None:
            return self
        if self._mean is not None:
            same_units(self._mean, other._mean, "covariance")
        n = self._shifted(other.n, other._mean)
        assert self._upper is not None
        self._upper += other._upper.to(self._upper.device)
        self.n = n
        return self

    def _shifted(self, n: int, mean: Tensor) -> int:
        """Move the mean and add what its moving brings; returns the new count."""
        if self._mean is None or self._upper is None:
            self._mean, self._upper = mean.clone(), zeros(len(mean), len(mean), mean.device)
            return n
        weight, shift = joined(self.n, self._mean, n, mean)
        self._upper.addr_(shift, shift, alpha=weight)
        return self.n + n

    @property
    def mean_(self) -> Float[Tensor, " d"]:
        need(self.n, 1, "a mean")
        assert self._mean is not None
        return self._mean.clone()

    @property
    def scatter_(self) -> Float[Tensor, "d d"]:
        need(self.n, 1, "a scatter")
        assert self._upper is not None
        found = self._upper.triu()
        found += found.triu(1).T
        return found

    @property
    def covariance_(self) -> Float[Tensor, "d d"]:
        need(self.n, 2, "a covariance")
        return self.scatter_.div_(self.n - 1)

    @property
    def variance_(self) -> Float[Tensor, " d"]:
        need(self.n, 2, "a variance")
        assert self._upper is not None
        return self._upper.diagonal() / (self.n - 1)

    def state(self) -> State:
        return {"mean": self.mean_, "scatter": self.scatter_}, {"n": self.n}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], about: Mapping[str, int]) -> "Covariance":
        expect(tensors, {"mean": (torch.float64, (None,)), "scatter": (torch.float64, (None, None))}, "covariance")
        d = len(tensors["mean"])
        if tensors["scatter"].shape != (d, d):
            raise FileError(f"no state of a covariance: {tuple(tensors['scatter'].shape)} for {d} units.")
        made = cls()
        made.n = expect_count(about, "n", "covariance", 1)
        made._mean, made._upper = tensors["mean"], tensors["scatter"]
        return made


def centred_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of rows and the rows without it, both float64; the rounding of the first mean is taken out again."""
    centred = x.double() if x.dtype != torch.float64 else x.clone()
    mean = centred.mean(0)
    centred -= mean
    left = centred.mean(0)
    centred -= left
    return mean + left, centred


def joined(a: int, mean: Tensor, b: int, other: Tensor) -> tuple[float, Tensor]:
    """Move `mean` of a rows to that of a + b, in place; returns ab/(a + b) and how far the means lay apart."""
    shift = other.to(mean.device) - mean
    mean += shift * (b / (a + b))
    return a * (b / (a + b)), shift


def zeros(rows: int, columns: int, device: torch.device) -> Tensor:
    """A matrix of float64. Raises InputError rather than asking for more than 4 GiB."""
    if rows * columns * 8 > LIMIT_BYTES:
        raise InputError(
            f"a covariance of {rows:,} by {columns:,} units takes {rows * columns * 8 / 1e9:,.1f} GB.\n"
            "  use PCA for the leading directions, Moments for the variances, or record a projection (ins.project)."
        )
    return torch.zeros(rows, columns, dtype=torch.float64, device=device)
