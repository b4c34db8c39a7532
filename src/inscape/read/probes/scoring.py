"""Scores of probes with the interval they are known to: accuracy, F1, AUC and R2, by item where rows share one."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.nulls import Intervals, bootstrap, bootstrap_each, share
from inscape.core.nulls.ranks import Ordered
from inscape.core.nulls.values import groups, resamples
from inscape.core.readout import Labels

METRICS = ("accuracy", "f1", "auc", "r2")
N = 1000  # resamples


def share_right(right: Bool[Tensor, " n"], by: Labels | None = None, *, level: float = 0.95) -> Interval:
    """The share of rows that are right: Wilson's interval, or a bootstrap of items where several rows are of one.

    Where all items are alike a bootstrap has no width, and Wilson's interval of the items is given.
    """
    if by is None:
        return share(right, level=level)
    if bool(right.all()) or not bool(right.any()):
        items = int(groups(by, "by", len(right)).max()) + 1
        return share(np.full(items, bool(right.any())), level=level)
    return bootstrap(right.double(), by=by, level=level)


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
    return bootstrap((truth, said), r2, by=by, level=level, n=N, method="percentile")


def scored(
    metric: str,
    z: Float[Tensor, "site n k"],
    truth: Int[Tensor, " n"] | Float[Tensor, "n k"],
    *,
    by: Labels | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """One metric of every site, from the held-out values of its probe (as `transform` gives them) and the truth.

    truth: class numbers; or numbers [n, k] for "r2". "f1" is of the second class of two, else the mean over classes;
    "auc" is of two classes. Cost: a thousand resamples of items, for "accuracy" without `by` none.
    Raises: InputError for a metric that is none, or not of these values.
    """
    if metric == "accuracy":
        right = codes(z) == truth
        if by is not None:
            found = bootstrap_each(right.double().T, by=by, level=level, seed=seed)
            for s, row in enumerate(right):
                if bool(row.all()) or not bool(row.any()):
                    whole = share_right(row, by, level=level)
                    found.low[s], found.high[s] = whole.low, whole.high
            return found
        each = [share(r, level=level) for r in right]
        low, high, value = (
            torch.tensor([getattr(i, end) for i in each], dtype=torch.float64) for end in ("low", "high", "value")
        )
        return Intervals(value, low, high, level, right.shape[1])
    of = {"f1": _f1, "auc": _auc, "r2": _r2}.get(metric)
    if of is None or (metric == "auc" and z.shape[2] != 1):
        why = "of more than two classes" if of else "of a probe"
        raise InputError(f"{metric!r} is no score {why}; there are {', '.join(METRICS)}.")
    item = groups(by, "by", z.shape[1])
    size = int(item.max()) + 1
    every = np.concatenate([np.ones((1, size)), *resamples(size, N, np.random.default_rng(seed))])
    values = np.stack([of(one, truth, every, item) for one in z])
    value, boot = values[:, 0], values[:, 1:]
    low, high = np.nanquantile(boot, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return Intervals(torch.from_numpy(value), torch.from_numpy(low), torch.from_numpy(high), level, size)


def codes(z: Float[Tensor, "*site n k"]) -> Int[Tensor, "*site n"]:
    """The class number that each row's values say: the second of two above 0, else the largest."""
    return (z[..., 0] > 0).long() if z.shape[-1] == 1 else z.argmax(-1)


def _sums(values: np.ndarray, item: np.ndarray, size: int) -> np.ndarray:
    out = np.zeros((size, values.shape[1]))
    np.add.at(out, item, values)
    return out


def _f1(z: Tensor, truth: Tensor, weight: np.ndarray, item: np.ndarray) -> np.ndarray:
    k = max(2, z.shape[1])
    read, true = (np.eye(k)[c.numpy()] for c in (codes(z), truth))
    both, either = (weight @ _sums(v, item, weight.shape[1]) for v in (read * true, read + true))
    each = np.divide(2 * both, either, out=np.zeros_like(both), where=either > 0)
    return each[:, 1] if k == 2 else each.mean(1)


def _auc(z: Tensor, truth: Tensor, weight: np.ndarray, item: np.ndarray) -> np.ndarray:
    score, y = z[:, 0].numpy(), truth.numpy().astype(float)
    ordered = Ordered(score, np.zeros(len(score), int))
    out = []
    for part in np.array_split(weight, max(1, weight.shape[0] * len(score) >> 22)):
        w = part[:, item]
        won = (w * y * ordered.below(w * (1 - y))).sum(1)
        pairs = (w * y).sum(1) * (w * (1 - y)).sum(1)
        out.append(np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0))
    return np.concatenate(out)


def _r2(z: Tensor, truth: Tensor, weight: np.ndarray, item: np.ndarray) -> np.ndarray:
    y = (truth - truth.mean(0)).numpy()  # centred, so that the difference of squares keeps its digits
    left = ((truth - z) ** 2).numpy()
    size = weight.shape[1]
    n = weight @ np.bincount(item, minlength=size)
    error, one, two = (weight @ _sums(v, item, size) for v in (left, y, y * y))
    spread = two - one**2 / n[:, None]
    return np.where(spread > 0, 1 - error / np.where(spread > 0, spread, 1), np.where(error > 0, 0.0, 1.0)).mean(1)


def majority(truth: Int[Tensor, " n"]) -> float:
    """The share of the most frequent class: what saying always the same gets right."""
    return float(torch.bincount(truth).max() / len(truth))


def check_metrics(metrics: Sequence[str], known: Sequence[str]) -> None:
    """Raise InputError for metrics that a probe has not."""
    wrong = [m for m in metrics if m not in known]
    if wrong or not metrics:
        raise InputError(f"metrics={tuple(metrics)!r}: this kind of probe is scored by {', '.join(known)}.")
