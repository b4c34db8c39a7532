"""Principal components: exact from the covariance while that fits, else from a sketch with a known error.

The sketch is Frequent Directions: a matrix B of `2 k` (or more) rows whose B^T B stays just below the scatter
M = sum (x - mean)(x - mean)^T.
1. Centred rows of a batch are put under B, and so is the row sqrt(ab/(a+b)) (mean_b - mean_a): with it B^T B gains
   exactly what M gains (see `moments`).
2. When B has grown past its length l, it is turned to its singular vectors and s, the (l+1)-th largest squared singular
   value, is taken from all of them; rows that fall to 0 are dropped.
3. M loses at most s in any direction each time: 0 <= M - B^T B <= (sum of s), as matrices.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import FileError, InputError
from inscape.store.statistics.contract import Rows, State, expect, expect_count, need, same_kind, same_units, taken
from inscape.store.statistics.moments import Covariance, centred_rows, joined


@dataclass(frozen=True, eq=False)
class Components:
    """Directions of largest variance, largest first. error: what a variance may be too small by (0 when exact).

    A component's sign is the one that makes its entry of largest magnitude positive, the first of equals.
    """

    mean: Float[Tensor, " d"]
    components: Float[Tensor, "k d"]
    variance: Float[Tensor, " k"]
    total_variance: float
    error: float = 0.0

    @property
    def ratio(self) -> Float[Tensor, " k"]:
        """Each component's share of the whole variance; 0 when nothing varies."""
        return self.variance / self.total_variance if self.total_variance else torch.zeros_like(self.variance)


@dataclass(eq=False)
class PCA:
    """The k leading principal components of rows, merged like any other statistic.

    Up to `exact_below` units it keeps the covariance and is exact; above, a Frequent Directions sketch of `length`
    rows. Choose it over `Covariance` when only leading directions are wanted or d^2 numbers do not fit.
    Error of the sketch: every variance is too small by at most `components_.error`, which is at most
    (variance outside the first j components) / (length - j) for every j < length; directions are as sure as the gaps
    between variances are wide against it.
    Cost: exact, as `Covariance`; sketched, about 6 n length d multiplications, 32 length d bytes.
    Parameters: k, components. length: rows of the sketch, 4 k when left out. exact_below: units.
    Learned: n, mean_, components_ (a `Components`).
    Raises: InputError for impossible settings and for more components than rows or units allow; as `Moments` else.
    Source: Liberty 2013, arXiv:1206.0594, and Ghashami et al. 2016, arXiv:1501.01711 (the bound and merging); the
    rows are centred here, by the mean-shift row of step 1.
    """

    k: int = 16
    length: int | None = None
    exact_below: int = 4096
    n: int = field(default=0, init=False)
    _exact: Covariance | None = field(default=None, init=False, repr=False)
    _mean: Tensor | None = field(default=None, init=False, repr=False)
    _sketch: Tensor | None = field(default=None, init=False, repr=False)
    _total: float = field(default=0.0, init=False, repr=False)  # trace of M
    _taken: float = field(default=0.0, init=False, repr=False)  # sum of s
    sites: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.k < 1 or (self.length is not None and self.length <= self.k):
            raise InputError(f"PCA(k={self.k}, length={self.length}): k is at least 1, length more than k.")

    @property
    def kind(self) -> str:
        return f"pca-{self.k}-{self._length}-{self.exact_below}"

    @property
    def _length(self) -> int:
        return self.length or 4 * self.k

    def fresh(self) -> "PCA":
        return type(self)(self.k, self.length, self.exact_below)

    def update(self, x: Float[Tensor, "n d"], rows: Rows = None) -> "PCA":
        x = taken(x, self._exact._mean if self._exact is not None else self._mean, "PCA")
        if not len(x):
            return self
        if x.shape[1] <= self.exact_below:
            self._exact = (self._exact or Covariance()).update(x)
        else:
            for part in x.split(self._length):  # a decomposition of 2 l rows each time, whatever the batch
                mean, centred = centred_rows(part)
                self._shifted(self.n, len(part), mean)
                self._total += float(centred.square().sum())
                self._under(centred)
                self.n += len(part)
            return self
        self.n = self._exact.n
        return self

    def merge(self, other: "PCA") -> "PCA":
        same_kind(self, other)
        if not other.n:
            return self
        if self.n:
            same_units(self._seen(self), self._seen(other), "PCA")
        if other._exact is not None:
            self._exact = (self._exact or Covariance()).merge(other._exact)
        elif other._mean is not None and other._sketch is not None:
            self._shifted(self.n, other.n, other._mean)
            self._total, self._taken = self._total + other._total, self._taken + other._taken
            self._under(other._sketch)
        self.n += other.n
        return self

    @staticmethod
    def _seen(of: "PCA") -> Tensor:
        found = of._exact._mean if of._exact is not None else of._mean
        assert found is not None
        return found

    def _shifted(self, a: int, b: int, mean: Tensor) -> None:
        if self._mean is None or self._sketch is None:
            self._mean = mean.clone()
            self._sketch = mean.new_zeros(0, len(mean))
            return
        weight, shift = joined(a, self._mean, b, mean)
        row = weight**0.5 * shift
        self._total += float(row.square().sum())
        self._under(row[None])

    def _under(self, rows: Tensor) -> None:
        """Put rows under the sketch and shrink it to its length."""
        assert self._sketch is not None
        stacked = torch.cat([self._sketch, rows.to(self._sketch.device)])
        if len(stacked) > 2 * self._length:
            stacked, taken_ = shrunk(stacked, self._length)
            self._taken += taken_
        self._sketch = stacked

    @property
    def mean_(self) -> Float[Tensor, " d"]:
        need(self.n, 1, "a mean")
        return self._seen(self).clone()

    @property
    def components_(self) -> Components:
        need(self.n, 2, "principal components")
        if self._exact is not None:
            return components_of(self._exact, self.k)
        assert self._sketch is not None
        _, s, found = torch.linalg.svd(self._sketch, full_matrices=False)
        _enough(self.k, min(len(s), self.n - 1), "rows")
        return Components(
            self.mean_, signed(found[: self.k]), s[: self.k].square() / (self.n - 1),
            self._total / (self.n - 1), self._taken / (self.n - 1),
        )  # fmt: skip

    def state(self) -> State:
        need(self.n, 1, "a file of components")
        about = {"k": self.k, "length": self._length, "exact_below": self.exact_below, "n": self.n}
        if self._exact is not None:
            return self._exact.state()[0], about
        assert self._sketch is not None
        numbers = torch.tensor([self._total, self._taken], dtype=torch.float64)
        return {"mean": self.mean_, "sketch": self._sketch.clone(), "total_taken": numbers}, about

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], about: Mapping[str, int]) -> "PCA":
        k, length = expect_count(about, "k", "PCA", 1), expect_count(about, "length", "PCA", 2)
        if length <= k:
            raise FileError(f"no state of PCA: {k} components from {length} rows.")
        made = cls(k, length, expect_count(about, "exact_below", "PCA"))
        made.n = expect_count(about, "n", "PCA", 1)
        if "scatter" in tensors:
            made._exact = Covariance.from_state(tensors, about)
            return made
        one, two = (torch.float64, (None,)), (torch.float64, (None, None))
        expect(tensors, {"mean": one, "sketch": two, "total_taken": (torch.float64, (2,))}, "PCA")
        if tensors["sketch"].shape[1] != len(tensors["mean"]):
            raise FileError("no state of PCA: mean and sketch are of unlike width.")
        made._mean, made._sketch = tensors["mean"], tensors["sketch"]
        made._total, made._taken = tensors["total_taken"].tolist()
        return made


def components_of(covariance: Covariance, k: int) -> Components:
    """The k leading components of a covariance, exact. Cost: one symmetric eigendecomposition, d^3."""
    need(covariance.n, 2, "principal components")
    matrix = covariance.covariance_
    _enough(k, min(len(matrix), covariance.n - 1), "units and rows")
    values, vectors = torch.linalg.eigh(matrix)
    values, vectors = values.flip(0)[:k].clamp(min=0), vectors.flip(1).T[:k]
    return Components(covariance.mean_, signed(vectors), values, float(matrix.trace()))


def signed(components: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """Directions turned so that the entry of largest magnitude, the first of equals, is positive."""
    at = components.abs().argmax(1, keepdim=True)
    return components * torch.where(components.gather(1, at) < 0, -1.0, 1.0)


def shrunk(rows: Float[Tensor, "m d"], length: int) -> tuple[Float[Tensor, "l d"], float]:
    """At most `length` rows whose Gram matrix is that of `rows` less at most s in any direction; and s.

    By the eigenvectors of the small matrix rows rows^T: ten times the speed of a decomposition of the rows, and its
    rounding, float64's of the largest value, is far below s wherever s matters.
    """
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    s = float(values[length]) if len(values) > length else 0.0
    values, vectors = values[:length], vectors[:, :length]
    kept = values > max(s, float(values[0]) * 1e-15 * len(rows))
    factor = ((values[kept] - s) / values[kept]).sqrt()
    return factor[:, None] * (vectors[:, kept].T @ rows), s


def _enough(k: int, there: int, what: str) -> None:
    if k > there:
        raise InputError(f"{k} principal components were asked for; the {what} seen have {max(0, there)}.")
