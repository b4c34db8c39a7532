"""Linear concept erasure: the smallest change of states after which no linear probe knows the labels."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.edits.erase import erase
from inscape.core.errors import InputError, ShapeError
from inscape.core.readout import (
    Labels,
    Rows,
    Target,
    check_control,
    classes_of,
    need_fitted,
    origin,
    row_batches,
    shuffled,
    units_of,
)
from inscape.store.statistics.cross import Cross
from inscape.store.statistics.moments import Covariance

SMALL = 1e-12  # of the largest eigenvalue: what float64 leaves of one that is 0


@dataclass
class Eraser:
    """Erases labels from states: `r(x) = x - W^+ P W (x - mean)`, after which states and labels do not covary.

    W = C^(-1/2) whitens (C the covariance of x, W^+ its inverse), P projects on the columns of W C_xz, z the labels.
    Then every linear probe is best off with the shares of the classes: its gradient there is exactly 0 on the rows of
    the fit. Of all affine maps that do this it changes states least, E|r(x) - x|^2. Nonlinear probes may still read.
    Choose it to ask what depends on a concept; `project_out` of a mean difference leaves what correlated units tell.
    With `whiten=False` the projection is orthogonal: exact as well, a larger change, no use of C.

    Cost: one pass over the rows in float64 (n d^2), one (d, d) eigendecomposition; the edit k products a token, k the
    classes less one. Deterministic. With fewer rows than units it erases these rows exactly and others little.
    Parameters: control: "shuffle" erases labels in another order, drawn by `seed`: as many directions, none to find.
    Learned by fit: reads_, writes_ (d, k), mean_ (d,), classes_ (None for numbers), changed_: the share of the
    variance of x that is moved, site_, model_.
    Raises: NotFittedError before fit; InputError for one class or nothing to erase; ShapeError.
    Source: Belrose et al. 2023, arXiv:2306.03819, theorem 4.2; no shrinkage and no cut of small directions here.
    """

    whiten: bool = True
    control: str | None = None
    seed: int = 0
    target: ClassVar[Target] = "classes"

    def fit(self, x: Rows, y: Labels) -> "Eraser":
        """y: classes (names, whole numbers, flags), or numbers [n] or [n, k] of a floating type."""
        check_control(self.control, name="an eraser")
        d = units_of(x)
        z, classes = _targets(y, len(x))
        if self.control == "shuffle":
            z = z[shuffled(torch.arange(len(z)), self.seed)]
        covariance, cross = Covariance(), Cross()
        for rows, part in row_batches(x, device="cpu"):
            covariance.update(part)
            cross.update(part, z[rows])
        values, vectors = torch.linalg.eigh(covariance.covariance_)
        kept = values > SMALL * max(float(values[-1]), 1e-300) * d
        if not bool(kept.any()):
            raise InputError("these rows do not vary: there is nothing to erase from.")
        values, vectors = values[kept], vectors[:, kept]
        if self.whiten:
            inward, outward = (vectors * values**power for power in (-0.5, 0.5))  # from eigenvectors to W and W^+
        else:
            inward = outward = vectors
        basis, s, _ = torch.linalg.svd(inward.T @ cross.covariance_, full_matrices=False)
        scale = 1.0 if not self.whiten else float(z.var(0).sum().sqrt())
        strong = s > 1e-10 * max(scale if self.whiten else float(s[0]), 1e-300)
        if not bool(strong.any()):
            raise InputError("states and labels do not covary at all: there is nothing to erase.")
        self.reads_: Float[Tensor, "d k"] = inward @ basis[:, strong]
        self.writes_: Float[Tensor, "d k"] = outward @ basis[:, strong]
        self.mean_ = covariance.mean_
        self.classes_ = classes
        moved = self.reads_.T @ covariance.covariance_ @ self.reads_
        self.changed_ = float(((self.writes_ @ moved) * self.writes_).sum() / covariance.variance_.sum())
        self.site_, self.model_ = origin(x)
        return self

    def transform(self, x: Rows) -> Float[Tensor, "n d"]:
        """The rows without the labels, in float64."""
        need_fitted(self, "reads_")
        units_of(x, d=len(self.mean_))
        return torch.cat(
            [p - ((p - self.mean_) @ self.reads_) @ self.writes_.T for _, p in row_batches(x, device="cpu")]
        )

    def score(self, x: Rows, y: Labels) -> float:
        """Covariance of states and labels that is left, relative to before: 0 where everything linear is erased."""
        z, _ = _targets(y, len(x))
        raw, left = (Cross().update(rows, z).covariance_.norm() for rows in (_whole(x), self.transform(x)))
        return float(left / raw)

    def edit(self, site: str = "", *, strength: float = 1.0, source: str = "the labels", **places: Any) -> Edit:
        """The erasure as an edit at a site, that of the fit when left out; savable, at any places."""
        need_fitted(self, "reads_")
        where = site or self.site_
        if not where:
            raise InputError(
                "this Eraser was fitted on a tensor, which does not know its site.\n"
                "  write eraser.edit('layers.5.resid_post'), or fit it on a column of a store."
            )
        return erase(where, self.reads_, self.writes_, self.mean_, strength=strength, source=source, **places)


def _whole(x: Rows) -> Float[Tensor, "n d"]:
    return torch.cat([part for _, part in row_batches(x, device="cpu")])


def _targets(y: Any, n: int) -> tuple[Float[Tensor, "n k"], tuple[Any, ...] | None]:
    """What is to be erased as numbers, and the classes: one column a class, or the numbers themselves."""
    held = y if isinstance(y, Tensor) else np.asarray(y)
    if held.dtype.is_floating_point if isinstance(held, Tensor) else held.dtype.kind == "f":
        z = torch.as_tensor(held).detach().cpu().double()
        z = z[:, None] if z.ndim == 1 else z
        if z.ndim != 2 or len(z) != n:
            raise ShapeError(
                f"labels of shape {tuple(z.shape)} for {n:,} rows: [n] or [n, k] numbers, or a class a row."
            )
        if not bool(torch.isfinite(z).all()) or not bool((z != z[0]).any()):
            raise InputError("the numbers to erase hold NaN or infinity, or do not vary.")
        return z, None
    classes, code = classes_of(y, n)
    return torch.nn.functional.one_hot(code, len(classes)).double(), tuple(classes.tolist())
