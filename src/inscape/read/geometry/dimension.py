"""How many directions one can move in among the rows: intrinsic dimension from the two nearest neighbours of each.

If rows lie evenly around each point of a set of dimension D, the ratio r2 / r1 of the distances to the two nearest
rows has the distribution `P(r2 / r1 > m) = m^-D`, whatever the density: log ratios are exponential with mean 1 / D.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.readout import Rows, check_control
from inscape.read.similarity.columns import held_rows
from inscape.read.similarity.neighbours import nearest


@dataclass(frozen=True, eq=False)
class TwoNN:
    """An intrinsic dimension. value: by maximum likelihood, with its interval. fit: by a straight line, as published.

    fit_error: the largest distance between the observed and the fitted distribution of ratios, 0.1 is much: rows do not
    lie as assumed, and the dimension means little. gaussian: the same of normal rows of the same covariance, as many: a
    set that bends has fewer dimensions than that. duplicates: rows with a copy, left out. ratios: r2 / r1, sorted.
    """

    value: float
    interval: Interval
    fit: float
    fit_error: float
    gaussian: float | None
    duplicates: int
    n: int
    ratios: Float[Tensor, " n"]

    def __float__(self) -> float:
        return self.value


def two_nn(
    x: Rows,
    *,
    discard: float = 0.1,
    control: str | None = "gaussian",
    level: float = 0.95,
    budget_bytes: int = 2 << 30,
    device: Any = None,
    seed: int = 0,
) -> TwoNN:
    """Intrinsic dimension from the two nearest neighbours of each row.

    Choose it for sets that bend; `spectrum` counts linear directions and how evenly they are used. It sees the scale of
    neighbours: noise at that scale adds its own dimensions, so fewer rows (a larger scale) can give fewer. Above about
    ten dimensions it is too small at any affordable n (boundaries): compare with `gaussian`, not with d.
    Neighbouring tokens of one text are no independent draws, and a copy of a prompt makes its rows look like few
    dimensions: take one row a text.
    discard: share of the largest ratios that is left out (censored), which neighbours of lower density dominate.
    Cost: n^2 d in blocks of 16 million distances, twice with the control.
    Raises: InputError for fewer than 10 different rows, a share outside [0, 1), and rows above the budget.
    Source: Facco et al. 2017, arXiv:1803.06992 (fit); the likelihood with censored ratios by Denti et al. 2022. The
    interval takes ratios as independent, which those of rows near each other are not: it is somewhat too narrow.
    """
    check_control(control, ("gaussian",), name="an intrinsic dimension")
    if not 0 <= discard < 1:
        raise InputError(f"discard={discard}: a share of the ratios, from 0 up to 1.")
    rows = held_rows(x, "x", budget_bytes)
    rows = rows.to(device) if device is not None else rows
    rows = rows - rows.mean(0)
    ratios, duplicates = _ratios(rows)
    value, fit, error = _dimension(ratios, discard)
    gaussian = None
    if control is not None:
        draw = torch.Generator().manual_seed(seed)
        mix = (
            torch.randn(len(rows), len(rows), generator=draw, dtype=torch.float64)
            if len(rows) < rows.shape[1]
            else None
        )
        like = (mix.to(rows) @ rows if mix is not None else _normal_like(rows, draw)) / len(rows) ** 0.5
        gaussian = _dimension(_ratios(like)[0], discard)[0]
    kept = max(2, len(ratios) - int(discard * len(ratios)))
    ends = [value * _chi(2 * kept, q) / (2 * kept) for q in ((1 - level) / 2, (1 + level) / 2)]
    interval = Interval(value, ends[0], ends[1], level, len(ratios))
    return TwoNN(value, interval, fit, error, gaussian, duplicates, len(rows), ratios.cpu())


def _normal_like(rows: Tensor, draw: torch.Generator) -> Tensor:
    values, vectors = torch.linalg.eigh(rows.T @ rows)
    drawn = torch.randn(len(rows), len(values), generator=draw, dtype=torch.float64).to(rows)
    return drawn * values.clamp(min=0).sqrt() @ vectors.T


def _ratios(rows: Tensor) -> tuple[Tensor, int]:
    if len(rows) < 10:
        raise InputError(
            f"{len(rows)} rows have too few neighbours for a dimension: ten are needed, hundreds are good."
        )
    squared = nearest(rows, 2)[1]
    scale = float(squared[:, 1].median())
    real = squared[:, 0] > 1e-12 * max(scale, 1e-300)  # nearer than rounding: a copy
    if int(real.sum()) < 10:
        raise InputError(f"only {int(real.sum())} of {len(rows)} rows have no copy.\n  leave copies out first.")
    return (squared[real, 1] / squared[real, 0]).sqrt().sort().values, int((~real).sum())


def _dimension(ratios: Tensor, discard: float) -> tuple[float, float, float]:
    """(maximum likelihood, straight line through the origin, largest distance of the distributions)."""
    n = len(ratios)
    kept = max(2, n - int(discard * n))
    logs = ratios.log()
    total = float(logs[:kept].sum() + (n - kept) * logs[kept - 1])
    value = (kept - 1) / max(total, 1e-300)
    place = torch.arange(1, n + 1, dtype=torch.float64, device=ratios.device) / n
    part = slice(0, min(kept, n - 1))  # the last has -log(1 - F) = infinity
    y = -(1 - place[part]).log()
    fit = float((logs[part] * y).sum() / logs[part].square().sum().clamp(min=1e-300))
    error = float((place - (1 - (-value * logs).exp()))[:kept].abs().max())
    return value, fit, error


def _chi(freedom: int, q: float) -> float:
    """A quantile of chi squared, by Wilson & Hilferty: right to a thousandth from 20 degrees of freedom on."""
    a = 2 / (9 * freedom)
    return freedom * (1 - a + NormalDist().inv_cdf(q) * a**0.5) ** 3
