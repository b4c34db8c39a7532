"""How many directions rows vary in, and how evenly: eigenvalues of their covariance and the numbers made of them."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.readout import Rows, check_control, row_batches
from inscape.store.statistics import Covariance


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Variances along the principal axes of n rows, largest first, with those of the same units shuffled apart.

    values: of the covariance, divided by n - 1. shuffled: the same when every unit's values are dealt to the rows anew,
    which keeps each unit's distribution and leaves no correlation but what n rows have by chance.
    participation_ratio: `(sum v)^2 / sum v^2`: equal directions that would be as even. debiased_ratio: the same without
    the bias of n rows (which see at most n - 1 directions); NaN where n is too small to tell.
    entropy_rank: `exp(H(v / sum v))`. rankme: `exp(H)` of the singular values, which count small directions for more.
    stable_rank: `sum v / max v`; 1 when one direction is all.
    """

    values: Float[Tensor, " d"]
    shuffled: "Spectrum | None"
    debiased_ratio: float
    n: int

    @property
    def total(self) -> float:
        """The whole variance: the mean squared distance from the mean (dispersion)."""
        return float(self.values.sum())

    @property
    def participation_ratio(self) -> float:
        return float(self.values.sum().square() / self.values.square().sum())

    @property
    def entropy_rank(self) -> float:
        return _rank(self.values)

    @property
    def rankme(self) -> float:
        return _rank(self.values.sqrt())

    @property
    def stable_rank(self) -> float:
        return float(self.values.sum() / self.values[0])

    def alpha(self, first: int = 11, last: int | None = None) -> tuple[float, float]:
        """(a, R^2) of `v_i ~ i^-a`, by least squares of logarithms over the places first to last, counted from 1.

        A straight line in logarithms is seen in many spectra that are no power law: report R^2 and the range. last: a
        fifth of the smaller of n and d when left out, as the tail is bent by n. Source: Agrawal et al. 2022,
        arXiv:2202.05808 (alpha-ReQ), who leave the range to the eye.
        """
        end = last or max(first + 9, min(self.n, len(self.values)) // 5)
        end = min(end, int((self.values > 1e-12 * self.values[0]).sum()))
        if first < 1 or end - first < 4:
            raise InputError(
                f"places {first} to {end} of {len(self.values)} variances are too few for a power law.\n"
                "  give first= and last=, five places apart or more, among variances above 0."
            )
        x = torch.arange(first, end + 1, dtype=torch.float64).log()
        y = self.values[first - 1 : end].cpu().log()
        x, y = x - x.mean(), y - y.mean()
        slope = float((x * y).sum() / x.square().sum())
        rest = float((y - slope * x).square().sum() / y.square().sum().clamp(min=1e-300))
        return -slope, 1 - rest


def spectrum(x: Rows, *, control: str | None = "shuffle", device: Any = None, seed: int = 0) -> Spectrum:
    """The variances of rows along their principal axes, in one read of a tensor or a column of any length.

    One massive unit is one direction with most of the variance: a participation ratio near 1 then says nothing of the
    others. Look at `values`, or drop or standardise such units; `two_nn` counts directions as neighbours see them.
    Cost: n d^2 in float64, twice with the control (shuffled inside the stretches that are read); 8 d^2 bytes.
    Raises: InputError for fewer than four rows or rows that do not vary; NotFiniteError.
    """
    check_control(control, name="a spectrum")
    own, apart = Covariance(), Covariance()
    draw = torch.Generator().manual_seed(seed)
    first: Tensor | None = None
    lengths = fourth = 0.0
    carried = torch.empty(0)
    for _, rows in row_batches(x, device=device):
        first = rows.mean(0) if first is None else first
        own.update(rows)
        away = rows - first
        size = away.square().sum(1)
        lengths, fourth = lengths + float(size.sum()), fourth + float(size.square().sum())
        carried = (size @ away) + (carried if len(carried) else 0)
        if control is not None:
            order = torch.rand(rows.shape, generator=draw).argsort(0).to(rows.device)
            apart.update(rows.gather(0, order))
    n = own.n
    if n < 4:
        raise InputError(f"{n} rows have no spectrum to speak of: four are needed, and many more than directions help.")
    scatter = own.scatter_
    values = torch.linalg.eigvalsh(scatter).flip(0).clamp(min=0) / (n - 1)
    if not float(values[0]) > 0:
        raise InputError("all rows are the same: they vary in no direction.")
    assert first is not None
    shift = own.mean_ - first
    gap = float(shift.square().sum())
    # sum |x - mean|^4 from sums about the first stretch's mean (x' = x - first, shift = mean - first)
    diagonal = fourth - 4 * float(shift @ carried) + 2 * gap * lengths + 4 * float(shift @ scatter @ shift) + n * gap**2
    trace = float(scatter.trace())
    squared = (float(scatter.square().sum()) - n / (n - 2) * diagonal + trace**2 / ((n - 1) * (n - 2))) / (n * (n - 3))
    debiased = (trace / (n - 1)) ** 2 / squared if squared > 0 else float("nan")
    shuffled = None
    if control is not None:
        shuffled = Spectrum(torch.linalg.eigvalsh(apart.covariance_).flip(0).clamp(min=0), None, float("nan"), n)
    return Spectrum(values, shuffled, debiased, n)


def _rank(weights: Tensor) -> float:
    p = weights / weights.sum()
    return float(torch.special.entr(p).sum().exp())
