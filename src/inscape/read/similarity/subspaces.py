"""Two sites turned onto each other: orthogonal Procrustes, and canonical correlations in their several forms."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError

KINDS = ("cca", "svcca", "pwcca")


@dataclass(frozen=True)
class Procrustes:
    """How well one site is the other turned, moved and scaled: `R^2 = |X^T Y|_*^2 / (|X|^2 |Y|^2)`, X and Y centred.

    A metric in its "distance" form, `2 - 2 |X^T Y|_* / (|X| |Y|)`, where CKA is none; stricter than CKA, as small
    directions must match too. With fewer items than dimensions everything turns onto everything in part: look at the
    shuffled value, or at held-out rows (`map_layers(how="orthogonal")`).
    Cost: one decomposition a site, d^3; a product and d^3 a comparison.
    Source: Schonemann 1966; Ding et al. 2021, arXiv:2108.01661; R^2 is 1 - scipy.spatial.procrustes' disparity.
    """

    kind: str = "r2"

    symmetric = True

    @property
    def name(self) -> str:
        return f"Procrustes {'R2' if self.kind == 'r2' else self.kind}"

    @property
    def is_distance(self) -> bool:
        return self.kind == "distance"

    def prepare(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n r"]:
        if self.kind not in ("r2", "distance"):
            raise InputError(f"kind={self.kind!r}: there are 'r2' and 'distance'.")
        u, s = spectrum(x)
        return u * (s / s.norm())

    def items(self, a: Tensor) -> int:
        return len(a)

    def width(self, a: Tensor, b: Tensor) -> int:
        return a.shape[1] * b.shape[1] + len(b) * b.shape[1]

    def compare(self, a: Tensor, b: Tensor, orders: Int[Tensor, "c items"]) -> Float[Tensor, " c"]:
        both = a.T @ b[orders.to(b.device)]
        if both.shape[1] > both.shape[2]:
            both = both.mT
        nuclear = torch.linalg.svdvals(both).sum(-1).cpu()
        return nuclear.square() if self.kind == "r2" else 2 - 2 * nuclear


@dataclass(frozen=True)
class CCA:
    """Do the same directions of items exist at both sites, however strongly each varies? From canonical correlations r.

    "cca": mean r^2, over the smaller of both widths. "svcca": the same of the leading components that explain `share`
    of the variance. "pwcca": mean r, weighted by how much of x each canonical variable accounts for (x is the first
    site: not symmetric). Blind to every invertible map, so small directions count like large ones, which is what CKA
    misses and also what lets noise in: of unrelated sites it is `max(r_x, r_y) / (n - 1)` (r: dimensions kept). Take n
    far above d, svcca, or a penalty; whether a relation holds on other items is asked of `map_layers`.
    penalty: added to the variances, as a share of their mean.
    Cost: one decomposition a site, d^3; a product of widths a comparison, d^3 for pwcca.
    Raises: InputError when the dimensions kept are not below the items less one: everything correlates perfectly then.
    Source: Hotelling 1936; Raghu et al. 2017, arXiv:1706.05806 (mean r there, r^2 here); Morcos et al. 2018,
    arXiv:1806.05759.
    """

    kind: str = "svcca"
    share: float = 0.99
    penalty: float = 0.0

    is_distance = False

    @property
    def name(self) -> str:
        return self.kind.upper()

    @property
    def symmetric(self) -> bool:
        return self.kind != "pwcca"

    def prepare(self, x: Float[Tensor, "n d"]) -> dict[str, Any]:
        if self.kind not in KINDS or not 0 < self.share <= 1 or self.penalty < 0:
            raise InputError(
                f"kind={self.kind!r}, share={self.share}, penalty={self.penalty}: there are {', '.join(KINDS)}"
                "; a share in (0, 1]; a penalty of 0 or more."
            )
        u, s = spectrum(x)
        if self.kind == "svcca":
            above = s.square().flip(0).cumsum(0).flip(0) / s.square().sum()  # variance from each component on
            kept = int((above > 1 - self.share).sum())
            u, s = u[:, : max(1, kept)], s[: max(1, kept)]
        if u.shape[1] >= len(x) - 1 and self.penalty == 0:
            raise InputError(
                f"{len(x)} items in {u.shape[1]} dimensions correlate perfectly with anything.\n"
                "  take more items, kind='svcca' with a smaller share=, or a penalty."
            )
        soft = s / (s.square() + self.penalty * s.square().mean()).sqrt()
        found = {"basis": u * soft}
        return found | {"units": (x - x.mean(0)).T @ u} if self.kind == "pwcca" else found

    def items(self, a: dict[str, Any]) -> int:
        return len(a["basis"])

    def width(self, a: dict[str, Any], b: dict[str, Any]) -> int:
        return a["basis"].shape[1] * b["basis"].shape[1] + b["basis"].numel()

    def compare(self, a: dict[str, Any], b: dict[str, Any], orders: Int[Tensor, "c items"]) -> Float[Tensor, " c"]:
        mine, theirs = a["basis"], b["basis"]
        both = mine.T @ theirs[orders.to(theirs.device)]
        if self.kind != "pwcca":
            return (both.square().sum((1, 2)) / min(both.shape[1:])).cpu()
        u, r, _ = torch.linalg.svd(both, full_matrices=False)
        weight = (a["units"] @ u).abs().sum(1)  # how much of all units lies along each canonical variable
        return ((weight * r.clamp(max=1)).sum(1) / weight.sum(1)).cpu()


def spectrum(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n r"], Float[Tensor, " r"]]:
    """Centred rows as u s, turned to their principal axes, without empty ones. Raises InputError for no variance.

    By the smaller of both Gram matrices, which is several times as fast as a decomposition of the rows; directions
    below 1e-6 of the largest are rounding and left out.
    """
    x = x - x.mean(0)
    if len(x) <= x.shape[1]:
        values, u = torch.linalg.eigh(x @ x.T)
    else:
        values, v = torch.linalg.eigh(x.T @ x)
        u = x @ v
    values, u = values.flip(0).clamp(min=0), u.flip(1)
    kept = values > 1e-12 * float(values[0])
    if not float(values[0]) > 0:
        raise InputError("a site is the same for every item, and lies as nothing does.")
    s = values[kept].sqrt()
    return (u[:, kept] if len(x) <= x.shape[1] else u[:, kept] / s), s
