"""The linear probe of classes: logistic regression, solved exactly, from any number of rows."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.errors import InputError, NotConvergedError
from inscape.core.interval import Interval
from inscape.core.logistic.design import MEMORY, Design
from inscape.core.logistic.minimise import Columns, minimise
from inscape.core.progress import Progress
from inscape.core.readout import (
    Labels,
    Rows,
    Target,
    check_control,
    classes_of,
    labels_of,
    need_fitted,
    origin,
    shuffled,
    units_of,
)
from inscape.read.probes.linear import as_direction, decided, said, weight_of
from inscape.read.probes.scoring import share_right


@dataclass
class LogisticProbe:
    """Linear probe of classes: the weights that make the labels likeliest, with an L2 penalty.

    Minimises `C sum_i -log softmax(W x_i + b)[y_i] + |W|^2 / 2` (scikit-learn's C; for two classes one row of weights
    and a sigmoid); b has no penalty. `standardise` measures the penalty on units of standard deviation 1, and folds
    the scales back into W, so that it reads rows as they are. Choose it where accuracy matters; `MeanDifference` for
    a direction that cannot overfit, `LDA` for few rows, `RidgeProbe` for numbers, `probe_sites` for every layer.

    Cost: two classes up to 2,048 units: two to five (d, d) Hessians over the rows and some twenty gradients. More
    classes or units: gradients alone, some tens. Rows that fit in `memory` (as float32) are read three times, others
    once a gradient. Deterministic.
    Parameters: C, smaller is a stronger penalty. tol: of the largest entry of the gradient of the mean loss (and
    penalty / n), met in float64. max_rounds: gradients. control: "shuffle" fits on labels in another order.
    Learned by fit: weight_ (classes, d), or (1, d) for two, bias_ (classes,), classes_; objective_ (of the line
    above), gradient_ (what is left of it, as tol counts), rounds_, site_, model_ from rows of a store.
    Raises: NotConvergedError; InputError for one class; NotFittedError before fit; ShapeError.
    Source: Alain & Bengio 2016, arXiv:1610.01644; the penalty on standardised units is ours.
    """

    C: float = 1.0
    standardise: bool = True
    tol: float = 1e-8
    max_rounds: int = 500
    control: str | None = None
    seed: int = 0
    memory: int = MEMORY
    target: ClassVar[Target] = "classes"

    def fit(self, x: Rows, y: Labels, *, progress: Progress = None) -> "LogisticProbe":
        check_control(self.control)
        check_penalty(self.C, self.tol)
        units_of(x)
        classes, code = classes_of(y, len(x))
        if self.control == "shuffle":
            code = shuffled(code, self.seed)
        everyone = torch.ones(1, len(x), dtype=torch.bool)
        design = Design({"": x}, everyone, standardise=self.standardise, memory=self.memory)
        columns = Columns(code[:, None], everyone, (0,), len(classes))
        found = minimise(design, columns, C=self.C, tol=self.tol, max_rounds=self.max_rounds, progress=progress)
        self.gradient_ = float(found.gradient)
        if self.gradient_ > self.tol:
            raise NotConvergedError(
                f"the probe ended at a gradient of {self.gradient_:.1e} after {int(found.rounds)} rounds; it was asked "
                f"to reach {self.tol:g}.\n  lower C (there are no best weights where a plane divides the classes), or "
                "raise max_rounds or tol."
            )
        self.weight_, self.bias_ = design.folded(0, found.weight[0, 0])
        self.classes_ = tuple(classes.tolist())
        self.objective_, self.rounds_ = float(found.objective), int(found.rounds)
        self.site_, self.model_ = origin(x)
        return self

    def transform(self, x: Rows) -> Float[Tensor, "n k"]:
        """W x + b: one column for two classes (above 0 for the second), else one a class."""
        need_fitted(self, "weight_")
        return decided(x, self.weight_, self.bias_)

    def probability(self, x: Rows) -> Float[Tensor, "n classes"]:
        """How likely each class is, in the order of `classes_`."""
        z = self.transform(x)
        return torch.cat([-z, z], 1).sigmoid() if z.shape[1] == 1 else z.softmax(1)

    def predict(self, x: Rows) -> np.ndarray:
        """The likeliest class of each row, as the labels were given."""
        return said(self.transform(x), self.classes_)

    def score(self, x: Rows, y: Labels, *, interval: bool = False, by: Labels | None = None) -> float | Interval:
        """Share of rows whose class is told right; `interval=True` with its interval, by item where rows share one."""
        right = torch.from_numpy(self.predict(x) == labels_of(y, len(x)))
        return share_right(right, by) if interval else float(right.double().mean())

    def direction(
        self, site: str = "", *, of: Any = None, source: str = "logistic probe", model: Any = None
    ) -> Direction:
        """The weights of a class as a direction: `ins.add(probe.direction(), 4)` makes it likelier.

        of: the class; left out, the second of two. site, model (or its fingerprint): left out, what the rows of the
        fit knew of themselves.
        """
        need_fitted(self, "weight_")
        return as_direction(self, weight_of(self.weight_, self.classes_, of), site, source, model)


def check_penalty(C: float, tol: float) -> None:
    if not C > 0 or not np.isfinite(C):
        raise InputError(f"C={C}: it is a positive number; smaller is a stronger penalty.")
    if not tol > 0:
        raise InputError(f"tol={tol}: it is the gradient that counts as none, above 0.")
