"""The first principal component of rows that come in pieces, exact for few rows of many units and for many."""

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.store.statistics.moments import Covariance, centred_rows


class Leading:
    """The direction along which rows vary most (or, without centring, are longest): the leading singular vector.

    Rows are kept while they are fewer than their units, and solved by their n x n products; then they are folded into
    a covariance. Both in float64. centre: take the mean of the rows away first.
    Cost: n^2 d and one n x n decomposition, or n d^2 and one d x d decomposition.
    """

    def __init__(self, centre: bool = True) -> None:
        self.centre, self.n = centre, 0
        self._rows: list[Tensor] = []
        self._folded: Covariance | None = None

    def update(self, x: Float[Tensor, "m d"]) -> None:
        self.n += len(x)
        if self._folded is not None:
            self._folded.update(x)
            return
        self._rows.append(x)
        if self.n > max(256, x.shape[1]):
            self._folded = Covariance()
            for part in self._rows:
                self._folded.update(part)
            self._rows = []

    def component(self) -> tuple[Float[Tensor, " d"], float]:
        """The unit vector and the mean square along it (n - 1 in place of n when centred); its sign says nothing."""
        free = max(1, self.n - self.centre)
        if self._folded is not None:
            scatter = self._folded.scatter_
            if not self.centre:
                scatter += self.n * torch.outer(self._folded.mean_, self._folded.mean_)
            values, vectors = torch.linalg.eigh(scatter)
            return vectors[:, -1], float(values[-1].clamp(min=0)) / free
        rows = torch.cat(self._rows)
        x = centred_rows(rows)[1] if self.centre else rows.double()
        values, vectors = torch.linalg.eigh(x @ x.T)
        found = x.T @ vectors[:, -1]
        length = float(found.norm())
        return found / length if length > 0 else found, float(values[-1].clamp(min=0)) / free
