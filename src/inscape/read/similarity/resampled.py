"""Intervals of CKA over items: every resample is a set of weights on the items, and kernels are computed once.

HSIC without bias is a mean over quadruples of different items (Song et al. 2012). With weights w (how often an item
was drawn) it is the weighted mean over the same quadruples: copies of one item are never paired with each other, which
would look like structure. With Wp = sum w^p, K with an empty diagonal, r = K w, s = L w, KL entry by entry:
    pairs       (w.KL.w)                                    / (W1^2 - W2)
    quadruples  (w.r)(w.s) - 4 sum w^2 r s + 2 (w^2.KL.w^2)  / (W1^4 - 6 W1^2 W2 + 8 W1 W3 + 3 W2^2 - 6 W4)
    triples     sum w r s - (w.KL.w^2)                       / (W1^3 - 3 W1 W2 + 2 W3)
and HSIC = pairs + quadruples - 2 triples.
Cost: n^2 x resamples multiplications a pair of sites; memory a strip of rows of each kernel.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.nulls.values import check_draws, generator, groups, resamples
from inscape.core.progress import Progress, tell
from inscape.core.readout import Labels
from inscape.read.similarity.sample_space import median_distance, rbf

STRIP_BYTES = 96 << 20


def resampled_cka(
    x: Sequence[Tensor],
    kernel: str,
    fraction: float,
    n: int,
    by: Labels | None,
    level: float,
    seed: int,
    progress: Progress,
) -> tuple[Float[Tensor, "k k"], Float[Tensor, "k k"]]:
    """Both ends of the percentile interval of every pair. x: centred rows of each site."""
    check_draws(n, level)
    items, k, device = len(x[0]), len(x), x[0].device
    group = groups(by if by is None or isinstance(by, Tensor | np.ndarray) else list(by), "by", items)
    drawn = np.concatenate(list(resamples(int(group.max()) + 1, n, generator(seed))))
    w = torch.from_numpy(drawn[:, group].T.copy()).float().to(device)  # (items, draws)
    hsic = weighted_hsic(x, w, kernel, fraction, progress)
    own = hsic.diagonal(dim1=0, dim2=1).T
    boot = (hsic / (own[:, None] * own).clamp(min=1e-300).sqrt()).reshape(k * k, n)
    low, high = (boot.quantile(q, dim=1).reshape(k, k) for q in ((1 - level) / 2, (1 + level) / 2))
    return low, high


def weighted_hsic(
    x: Sequence[Tensor], w: Float[Tensor, "items draws"], kernel: str, fraction: float, progress: Progress = None
) -> Float[Tensor, "k k draws"]:
    """HSIC without bias of all pairs of sites for every set of weights."""
    items, k, device = len(x[0]), len(x), x[0].device
    width = [float(median_distance(v)) * fraction for v in x] if kernel == "rbf" else [1.0] * k
    zero = torch.zeros(k, k, w.shape[1], dtype=torch.float64, device=device)
    pairs, cross, squares, triple, four = (zero.clone() for _ in range(5))
    total = torch.zeros(k, w.shape[1], dtype=torch.float64, device=device)
    both = torch.cat([w, w.square()], 1)
    step = max(16, min(items, STRIP_BYTES // (4 * items * k)))
    for start in range(0, items, step):
        rows = slice(start, min(start + step, items))
        a, a2 = w[rows].double(), w[rows].double().square()
        strip = []
        for v, s in zip(x, width, strict=True):
            part = v[rows] @ v.T if kernel == "linear" else rbf(v[rows], v, s) - 0.5
            part.diagonal(rows.start).zero_()
            strip.append(part)
        r = [(part @ w).double() for part in strip]
        for i in range(k):
            total[i] += (a * r[i]).sum(0)
            for j in range(i, k):
                one, two = ((strip[i] * strip[j]) @ both).double().chunk(2, 1)
                pairs[i, j] += (a * one).sum(0)
                cross[i, j] += (a * two).sum(0)
                squares[i, j] += (a2 * two).sum(0)
                triple[i, j] += (a * r[i] * r[j]).sum(0)
                four[i, j] += (a2 * r[i] * r[j]).sum(0)
        tell(progress, f"resamples over {rows.stop:,} of {items:,} rows", rows.stop / items)
    p1, p2, p3, p4 = (w.double().pow(m).sum(0) for m in (1, 2, 3, 4))
    hsic = pairs / (p1**2 - p2)
    hsic += (total[:, None] * total - 4 * four + 2 * squares) / (
        p1**4 - 6 * p1**2 * p2 + 8 * p1 * p3 + 3 * p2**2 - 6 * p4
    )
    hsic -= 2 * (triple - cross) / (p1**3 - 3 * p1 * p2 + 2 * p3)
    upper = torch.ones(k, k, device=device).triu().bool()[..., None]
    return torch.where(upper, hsic, hsic.transpose(0, 1))
