"""Scores of probes with the interval they are known to."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.interval import Interval
from inscape.core.nulls import bootstrap, share
from inscape.core.readout import Labels


def share_right(right: Bool[Tensor, " n"], by: Labels | None = None, *, level: float = 0.95) -> Interval:
    """The share of rows that are right: Wilson's interval, or a bootstrap of items where several rows are of one."""
    return share(right, level=level) if by is None else bootstrap(right.double(), by=by, level=level)


def r2(truth: Float[Tensor, "n k"], said: Float[Tensor, "n k"]) -> float:
    """Share of the variance of the truth that is explained, mean over outputs; below 0 worse than its mean."""
    left = (truth - said).square().sum(0)
    spread = (truth - truth.mean(0)).square().sum(0)
    per = torch.where(spread > 0, 1 - left / spread.clamp(min=1e-300), torch.where(left > 0, 0.0, 1.0))
    return float(per.mean())


def r2_interval(
    truth: Float[Tensor, "n k"], said: Float[Tensor, "n k"], by: Labels | None = None, *, level: float = 0.95
) -> Interval:
    """`r2` with a bootstrap of items."""
    return bootstrap((truth, said), r2, by=by, level=level, n=1000, method="percentile")
