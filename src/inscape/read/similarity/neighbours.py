"""Mutual nearest neighbours: of the k items nearest to one at one site, how many are so at the other?"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError

BLOCK = 1 << 24  # similarities held at once


@dataclass(frozen=True)
class MutualKNN:
    """The mean share of common nearest neighbours, from 0 to 1; by chance it is `k / (n - 1)`, exactly.

    Local where CKA and RSA are global: massive directions and far items do not matter, only who is next to whom.
    Sees a stretch; blind to rotation and scale ("cosine": also to each item's length; "euclidean": to translation).
    Cost: n^2 d a site, in blocks; n k a comparison.
    Parameters: k, neighbours. metric: "cosine", as in the paper, of rows as they are (a common offset makes all cosines
    alike: subtract the mean first where it is large), or "euclidean".
    Raises: InputError for a k that is not below the items less one.
    Source: Huh et al. 2024, arXiv:2405.07987, mutual_knn.
    """

    k: int = 10
    metric: str = "cosine"

    is_distance = False
    symmetric = True

    @property
    def name(self) -> str:
        return f"mutual {self.k}-NN ({self.metric})"

    def prepare(self, x: Float[Tensor, "n d"]) -> Int[Tensor, "n k"]:
        if not 1 <= self.k < len(x) - 1 or self.metric not in ("cosine", "euclidean"):
            raise InputError(
                f"MutualKNN(k={self.k}, metric={self.metric!r}) of {len(x)} items: k is below the items less one, the "
                "metric 'cosine' or 'euclidean'."
            )
        if self.metric == "cosine":
            x = x / x.norm(dim=1, keepdim=True).clamp(min=1e-300)
        else:
            x = x - x.mean(0)
        return nearest(x, self.k)[0]

    def items(self, a: Tensor) -> int:
        return len(a)

    def width(self, a: Tensor, b: Tensor) -> int:
        return a.numel() * self.k

    def compare(self, a: Tensor, b: Tensor, orders: Int[Tensor, "c items"]) -> Float[Tensor, " c"]:
        out = []
        for order in orders.to(b.device):
            back = torch.empty_like(order)
            back[order] = torch.arange(len(order), device=order.device)
            theirs = back[b[order]]  # item i here is item order[i] there, and so are its neighbours
            out.append((a[:, :, None] == theirs[:, None, :]).sum() / a.numel())
        return torch.stack(out).double().cpu()


def nearest(x: Float[Tensor, "n d"], k: int) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """The k nearest other rows of each and their squared distances, nearest first, in blocks of rows."""
    size = x.square().sum(1)
    places, values = [], []
    step = max(1, BLOCK // len(x))
    for start in range(0, len(x), step):
        rows = x[start : start + step]
        apart = size - 2 * rows @ x.T + size[start : start + step, None]
        at = torch.arange(len(rows), device=x.device)
        apart[at, at + start] = torch.inf
        found = apart.topk(k, dim=1, largest=False)
        places.append(found.indices)
        values.append(found.values.clamp(min=0))
    return torch.cat(places), torch.cat(values)
