"""From sums over pairs of items to HSIC, CKA, and what shuffled pairing would give: shared by both ways to the sums.

For centred kernels K, L of the same n items (K 1 = 0):
    inner = sum_ij K_ij L_ij,  diagonals = sum_i K_ii L_ii,  trace = sum_i K_ii
    biased   HSIC = inner / (n - 1)^2                                                       Gretton et al. 2005
    debiased HSIC = (inner - n/(n-2) diagonals + trace_K trace_L / ((n-1)(n-2))) / (n (n-3)) Song et al. 2012, eq. 5,
                                                                                    its terms simplified by K 1 = 0
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError

SURE = 1e-6  # no smaller p is given: so far out the law is a guess


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over pairs of items of all kernels with all, centred. cubes: trace of K^3, for the skew of the null."""

    n: int
    inner: Float[Tensor, "k k"]
    diagonals: Float[Tensor, "k k"]
    traces: Float[Tensor, " k"]
    cubes: Float[Tensor, " k"] | None = None

    def hsic(self, debiased: bool) -> Float[Tensor, "k k"]:
        n = self.n
        if not debiased:
            return self.inner / (n - 1) ** 2
        t = self.traces
        return (self.inner - n / (n - 2) * self.diagonals + t[:, None] * t / ((n - 1) * (n - 2))) / (n * (n - 3))

    def cka(self, debiased: bool, names: tuple[str, ...]) -> Float[Tensor, "k k"]:
        """HSIC over what each has with itself. Raises: InputError where a site does not vary."""
        found = self.hsic(debiased)
        own = found.diagonal()
        still = (own <= 1e-12 * (self.traces / self.n).square()) | ~(self.traces > 0)
        if bool(still.any()):
            raise InputError(
                f"{names[int(still.nonzero()[0])]!r} is the same in every row (or its rows are all equally "
                "far apart): it is similar to nothing."
            )
        return found / (own[:, None] * own).sqrt()

    def shuffled(self, debiased: bool) -> tuple[Float[Tensor, "k k"], Float[Tensor, "k k"]]:
        """Mean and standard deviation of CKA over all n! pairings of the rows, exactly.

        biased: mean `trace_K trace_L / ((n-1) |K| |L|)`, which is sqrt(PR_K PR_L) / (n-1) of the participation ratios;
        deviation by Kazi-Aoual et al. 1995. debiased: 0 and sqrt(2 / (n (n-3))), whatever the data are.
        """
        n, t, own = self.n, self.traces, self.inner.diagonal()
        if debiased:
            mean = torch.zeros_like(self.inner)
            return mean, torch.full_like(mean, (2 / (n * (n - 3))) ** 0.5)
        size = (own[:, None] * own).sqrt()
        mean = t[:, None] * t / ((n - 1) * size)
        first = (n - 1) * own - t.square()
        second = n * (n + 1) * self.diagonals.diagonal() - (n - 1) * (t.square() + 2 * own)
        variance = 2 * first[:, None] * first / ((n - 1) ** 2 * (n + 1) * (n - 2))
        variance += second[:, None] * second / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
        return mean, variance.clamp(min=0).sqrt() / size

    def p(self, debiased: bool, names: tuple[str, ...]) -> Float[Tensor, "k k"] | None:
        """How often shuffled pairing gives as much, by a gamma law of its mean, deviation and (asymptotic) skew."""
        if self.cubes is None:
            return None
        mean, deviation = self.shuffled(debiased)
        z = (self.cka(debiased, names) - mean) / deviation.clamp(min=1e-300)
        third = self.cubes / self.inner.diagonal().pow(1.5)
        skew = (8**0.5 * third[:, None] * third).clamp(1e-4, 8**0.5)
        shape = 4 / skew.square()
        return torch.special.gammaincc(shape, (shape + z * shape.sqrt()).clamp(min=0)).clamp(min=SURE)
