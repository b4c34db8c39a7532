"""Do probabilities mean what they say? Expected calibration error over equal bins of confidence."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError, ShapeError


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often predictions of a confidence are right. error: mean |accuracy - confidence| by bin.

    confidence, accuracy: means of each bin, NaN where it is empty. count: predictions in it. Bins are (low, high].
    """

    error: float
    confidence: Float[Tensor, " bin"]
    accuracy: Float[Tensor, " bin"]
    count: Int[Tensor, " bin"]

    def __float__(self) -> float:
        return self.error


def ece(probabilities: Float[Tensor, "n classes"], labels: Int[Tensor, " labels"], *, bins: int = 15) -> Calibration:
    """Expected calibration error: sum over bins of confidence of count / n * |accuracy - confidence|.

    confidence: the largest probability; right where its class is the label. 0 is best; a model that is always sure has
    its error rate. It is biased upwards for few predictions (about sqrt(bins / n) / 2): compare at equal n.
    Raises: InputError for rows that do not sum to 1 (give softmax, not logits); ShapeError for unlike lengths.
    Source: Naeini et al. 2015; 15 equal bins as in Guo et al. 2017, arXiv:1706.04599.
    """
    if bins < 1:
        raise InputError(f"ece(bins={bins}): at least one.")
    if len(probabilities) != len(labels) or not len(labels):
        raise ShapeError(f"{len(probabilities)} rows of probabilities and {len(labels)} labels: give one each.")
    p = probabilities.double().cpu()
    if not bool(torch.isfinite(p).all()) or float((p.sum(1) - 1).abs().max()) > 1e-3 or float(p.min()) < 0:
        raise InputError("ece takes probabilities: rows of at least 0 that sum to 1.\n  give logits.softmax(-1).")
    confidence, said = p.max(1)
    right = (said == labels.cpu()).double()
    at = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count = torch.bincount(at, minlength=bins)
    total = torch.zeros(2, bins, dtype=torch.float64).index_add_(1, at, torch.stack([confidence, right]))
    gap = float((total[0] - total[1]).abs().sum()) / len(p)
    mean = torch.where(count > 0, total / count.clamp(min=1), torch.nan)
    return Calibration(gap, mean[0], mean[1], count)
