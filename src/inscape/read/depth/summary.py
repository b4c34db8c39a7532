"""Where on its way through the layers a curve of scores jumps, converges and peaks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from inscape.core.errors import InputError


@dataclass(frozen=True)
class Points:
    """Relative depths i / n of a curve a_1 .. a_n, None where there is no such point.

    jump: the first rise of a tenth. converge: the last change of 3 %. peak: of the best layer, whose score is `best`.
    """

    jump: float | None
    converge: float | None
    peak: float
    best: float


def points_of(curve: Sequence[float], *, jump: float = 1.1, flat: float = 0.03) -> Points:
    """Jump, converging and peak point of a curve of scores, one a layer.

    b_i = a_i / a_{i-1}; jump: the first i with b_i >= jump; converge: the last i with |b_i - 1| >= flat. A ratio where
    the score before is not above zero has no meaning and is passed over. Both thresholds are those of the source as
    far as known; the points are made of differences of neighbouring layers, so noise of `flat` moves the converging
    point to the end: look at its interval.
    Raises: InputError for NaN, or fewer than two layers.
    Source: Jin et al. 2024, arXiv:2404.07066.
    """
    values = [float(v) for v in curve]
    if len(values) < 2 or not all(math.isfinite(v) for v in values):
        raise InputError(f"a curve of {len(values)} layers, or one with NaN, has no points.")
    ratio = {i: b / a for i, (a, b) in enumerate(pairwise(values), 2) if a > 0}
    n = len(values)
    rises = [i for i, b in ratio.items() if b >= jump - 1e-12]
    moves = [i for i, b in ratio.items() if abs(b - 1) >= flat - 1e-12]
    best = max(range(n), key=lambda i: values[i])
    return Points(rises[0] / n if rises else None, moves[-1] / n if moves else None, (best + 1) / n, values[best])
