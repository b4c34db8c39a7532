"""The heuristics as readouts, so that they are compared with a trained net on the same splits."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.readout import Labels, check_control, need_fitted
from inscape.read.signatures.detection import area, check_labels, detect
from inscape.read.signatures.heuristics import HEURISTICS, min_k, min_k_plus
from inscape.read.signatures.signature import Signatures

STEPS, RIDGE = 50, 1e-3


@dataclass
class SignatureBaseline:
    """One number a signature, turned into a probability: `sigma(w z(x) + b)`, z the standardised heuristic.

    `fit` learns which way round it goes and how sharply, nothing else, in float64: a heuristic that says nothing is
    near 0.5 on held-out items whatever the labels. Choose it before `LOSNet`, and beside it.

    Cost: none to speak of. Deterministic. Parameters: heuristic, a name of `HEURISTICS`; share, of the lowest tokens in
    min_k and min_k_plus. control: "shuffle", labels in another order.
    Learned by fit: weight_, bias_, mean_, spread_.
    Raises: NotFittedError before fit; InputError for labels of one class, an unknown name, or texts that are not known.
    """

    target: ClassVar[str] = "own"

    heuristic: str = "mean_log_prob"
    share: float = 0.2
    control: str | None = None
    seed: int = 0

    def fit(
        self, x: Signatures, y: Labels, *, groups: Labels | None = None, valid: object = None
    ) -> "SignatureBaseline":
        """Learn slope and threshold. groups, valid: as in `LOSNet`, and not needed here."""
        check_control(self.control, ("shuffle",), "SignatureBaseline")
        truth, value = check_labels(y, len(x)).double(), self.transform(x)
        if self.control == "shuffle":
            truth = truth[torch.randperm(len(truth), generator=torch.Generator().manual_seed(self.seed))]
        self.mean_, self.spread_ = float(value.mean()), max(float(value.std(correction=0)), 1e-12)
        design = torch.stack([(value - self.mean_) / self.spread_, torch.ones_like(value)], 1)
        beta = torch.zeros(2, dtype=torch.float64)
        for _ in range(STEPS):  # Newton; the ridge keeps what is told perfectly at a finite slope
            p = torch.sigmoid(design @ beta)
            hessian = design.T @ ((p * (1 - p))[:, None] * design) + RIDGE * torch.eye(2, dtype=torch.float64)
            beta = beta + torch.linalg.solve(hessian, design.T @ (truth - p) - RIDGE * beta).clamp(-2, 2)
        self.weight_, self.bias_ = float(beta[0]), float(beta[1])
        return self

    def transform(self, x: Signatures) -> Float[Tensor, " item"]:
        """The heuristic itself, which needs no fit."""
        if self.heuristic not in HEURISTICS:
            raise InputError(f"there is no heuristic {self.heuristic!r}; there are {', '.join(HEURISTICS)}.")
        if self.heuristic in ("min_k", "min_k_plus"):
            return (min_k if self.heuristic == "min_k" else min_k_plus)(x, self.share)
        return HEURISTICS[self.heuristic](x)

    def decision(self, x: Signatures) -> Float[Tensor, " item"]:
        """The logit of yes."""
        need_fitted(self, "weight_")
        return self.weight_ * (self.transform(x) - self.mean_) / self.spread_ + self.bias_

    def predict_proba(self, x: Signatures) -> Float[Tensor, " item"]:
        """The probability of yes."""
        return torch.sigmoid(self.decision(x))

    def predict(self, x: Signatures) -> Bool[Tensor, " item"]:
        """Yes where it is more probable than no."""
        return self.decision(x) > 0

    def score(self, x: Signatures, y: Labels, *, interval: bool = False, by: Labels | None = None) -> float | Interval:
        """The area under the ROC curve; with an interval by item, or by group."""
        said = self.decision(x)
        return detect(said, y, groups=by).auc if interval else area(said, check_labels(y, len(x)))


def signature_baselines(x: Signatures | None = None) -> dict[str, SignatureBaseline]:
    """Every heuristic as a readout of its own, by name; the zlib ratio only where `x` knows its texts."""
    names = [n for n in HEURISTICS if n != "zlib_ratio" or (x is not None and bool(x.texts))]
    return {name: SignatureBaseline(name) for name in names}
