"""Where does a curve break? Two segments in place of one, with an interval of the place and a null.

"line": y = a + b x + c max(x - k, 0), two lines that meet at k; the null is one line.
"step": y = a before k, y = b from k on; the null is a constant.
For every candidate k the least-squares fit; the best k is the break, and the share of the null's squared error that it
explains is the statistic.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.interval import Interval
from inscape.core.nulls.bootstrap import interval_of
from inscape.core.nulls.permutation import permutation_p
from inscape.core.nulls.values import Seed, Values, array, check_draws, generator, resamples, vector

SHAPES = ("line", "step")
FEW = 6  # items from which the null flips whole items


@dataclass(frozen=True, eq=False)
class Changepoint:
    """The break of a curve: `at`, in units of x, and how much better two segments are than one.

    explained: share of the squared error around one segment that the second takes away, 0 to 1. p, null: the same where
    there is no break. before, after: slopes (of "step": levels) on both sides. fitted: the two segments at x.
    """

    at: Interval
    explained: float
    p: float
    null: Float[Tensor, " draw"]
    before: float
    after: float
    x: Float[Tensor, " point"]
    fitted: Float[Tensor, " point"]
    shape: str

    def __float__(self) -> float:
        return self.at.value

    def __str__(self) -> str:
        return f"break at {self.at}, explains {self.explained:.0%} of what one {self.shape} leaves, p = {self.p:.3g}"


def changepoint(
    curve: Values,
    x: Values | None = None,
    *,
    shape: str = "line",
    margin: int = 2,
    n: int = 1000,
    level: float = 0.95,
    seed: Seed = 0,
) -> Changepoint:
    """The place where a curve changes its slope or its level, with an interval and a null.

    Give the curves of all items, [item, point], where there are several (walks, seeds, subjects): the interval then
    draws items, and from 6 items on the null turns the signs of whole items around their own segment, which leaves as
    it is how neighbouring points of one item depend on one another. A single curve, [point], takes its residuals as
    exchangeable: where they are not (running means, training losses), p is too small.

    A break is always found; p says whether it means something. x: where the points stand, such as log2 of a length;
    0, 1, 2, ... when left out. shape: "line" for a change of slope, "step" for a jump. margin: points that each segment
    has at least. n: resamples, and draws of the null.
    Cost: (2n + 1) x candidates small products; candidates are the points and three places between any two.
    Raises: InputError for too few points, x that does not rise or a curve that is one segment exactly; ShapeError.
    Source: Hinkley 1971 (two lines that meet); grid search and resampling in place of its asymptotic interval.
    """
    if shape not in SHAPES:
        raise InputError(f"shape={shape!r}: a curve can break as {' or '.join(SHAPES)}.")
    check_draws(n, level)
    held = array(curve, "curve")
    held = held[None] if held.ndim == 1 else held
    if held.ndim != 2:
        raise ShapeError(f"the curve has the shape {held.shape}; give [point], or [item, point] for several items.")
    points = np.arange(held.shape[1], dtype=float) if x is None else vector(x, "x", held.shape[1])
    if margin < 1 or held.shape[1] < 2 * margin + 1 or bool((np.diff(points) <= 0).any()):
        raise InputError(
            f"{held.shape[1]} points cannot be cut into two segments of {margin} or more, or x does not rise.\n"
            "  measure at more places, in rising order."
        )
    fit = _Fit(points, shape, margin)
    mean, rng = held.mean(0), generator(seed)
    value, explained = (float(v[0]) for v in fit.best(mean[None])[:2])
    residual = held - fit.null(held)
    rough = mean - fit.null(mean[None])[0]
    if float(np.abs(rough).max()) <= 1e-12 * max(1.0, float(np.abs(mean).max())):
        raise InputError(f"the curve is one {'line' if shape == 'line' else 'level'} exactly: nothing breaks.")
    if len(held) >= FEW:
        null = (rng.choice([-1.0, 1.0], (n, len(held))) @ residual) / len(held)
    else:
        null = np.stack([rng.permutation(rough) for _ in range(n)])
    under = fit.best(null)[1]
    if len(held) > 1:
        drawn = np.concatenate([w @ held / len(held) for w in resamples(len(held), n, rng)])
    else:
        curve_fit = fit.at(mean, value)[0]
        drawn = curve_fit + np.stack([rng.choice(mean - curve_fit, len(mean)) for _ in range(n)])
    places = fit.best(drawn)[0]
    fitted, before, after = fit.at(mean, value)
    return Changepoint(
        interval_of(value, places, level, len(held)), explained, float(permutation_p(explained, under)),
        torch.from_numpy(under), before, after, torch.from_numpy(points), torch.from_numpy(fitted), shape,
    )  # fmt: skip


class _Fit:
    """Least squares for every candidate break, as projections made once."""

    def __init__(self, x: np.ndarray, shape: str, margin: int) -> None:
        self.x, self.shape = x, shape
        self.candidates = self._places(margin)
        one = [np.ones_like(x), x] if shape == "line" else [np.ones_like(x)]
        self.flat = np.linalg.qr(np.stack(one, 1))[0]
        more = []
        for k in self.candidates:  # what the break adds, free of what one segment has
            column = self._bend(k) - self.flat @ (self.flat.T @ self._bend(k))
            more.append(column / max(float(np.linalg.norm(column)), 1e-300))
        self.more = np.stack(more, 1)

    def _places(self, margin: int) -> np.ndarray:
        """Breaks that leave `margin` points on each side: of a line, between points too."""
        if self.shape == "step":
            return self.x[margin : len(self.x) - margin + 1]
        first, last = self.x[margin - 1], self.x[len(self.x) - margin]
        between = self.x[:-1, None] + np.diff(self.x)[:, None] * np.linspace(0, 1, 4, endpoint=False)
        fine = between.ravel()
        return fine[(fine >= first) & (fine <= last) & (fine > self.x[0])]

    def _bend(self, k: float) -> np.ndarray:
        return np.maximum(self.x - k, 0) if self.shape == "line" else (self.x >= k).astype(float)

    def null(self, y: np.ndarray) -> np.ndarray:
        return (y @ self.flat) @ self.flat.T

    def best(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the break, the share of the error it explains) of every row."""
        rest = y - self.null(y)
        gain = (rest @ self.more) ** 2
        which = gain.argmax(1)
        total = np.maximum((rest**2).sum(1), 1e-300)
        return self.candidates[which], gain[np.arange(len(y)), which] / total

    def at(self, y: np.ndarray, k: float) -> tuple[np.ndarray, float, float]:
        """The fit with its break at k, and its slopes or levels."""
        columns = np.stack([np.ones_like(self.x), *([self.x] if self.shape == "line" else []), self._bend(k)], 1)
        weight = np.linalg.lstsq(columns, y, rcond=None)[0]
        before = weight[1] if self.shape == "line" else weight[0]
        return columns @ weight, float(before), float(before + weight[-1])
