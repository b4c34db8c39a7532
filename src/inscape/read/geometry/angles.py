"""How much two subspaces share: principal angles, overlap of projections, and what random subspaces share."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls.permutation import permutation_p
from inscape.core.nulls.values import check_draws
from inscape.core.readout import check_control

HELD = 1 << 24


@dataclass(frozen=True, eq=False)
class SubspaceAngles:
    """angles: in radians, smallest first. overlap: `|P_A P_B|^2 / min(k_A, k_B)`, mean squared cosine of the angles: 1
    when one holds the other. expected: of random subspaces, `max(k_A, k_B) / d`. null, p: overlaps of random ones, and
    how often one is as large.
    """

    angles: Float[Tensor, " k"]
    overlap: float
    expected: float
    p: float | None
    null: Float[Tensor, " draws"] | None

    def __float__(self) -> float:
        return self.overlap


def subspace_angles(
    a: Float[Tensor, "k_a d"],
    b: Float[Tensor, "k_b units"],
    *,
    control: str | None = "random",
    n: int = 1000,
    seed: int = 0,
) -> SubspaceAngles:
    """The principal angles between the spaces that the rows of a and of b span, beside random subspaces.

    Rows need not be orthogonal or of one length (principal components, directions, rows of a weight). The smallest
    angle alone is small for any two spaces with k_A + k_B near d. Random spaces spread evenly over all units;
    activations do not: what any two sets of them share is asked by taking b from other data.
    Cost: one decomposition; n of d x k_B with the control.
    Raises: ShapeError for other widths; InputError for rows that are linearly dependent.
    Source: Bjorck & Golub 1973, sines for small angles (as scipy.linalg.subspace_angles).
    """
    check_control(control, ("random",), name="subspace angles")
    check_draws(n)
    if a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"subspaces of one space are compared: one has {a.shape[1]:,} units, the other {b.shape[1]:,}."
        )
    left, right = _basis(a, "a"), _basis(b, "b")
    if left.shape[1] < right.shape[1]:
        left, right = right, left
    both = left.T @ right
    cosine = torch.linalg.svdvals(both).clamp(max=1)
    sine = torch.linalg.svdvals(right - left @ both).clamp(max=1).flip(0)
    angles = torch.where(cosine**2 >= 0.5, sine.asin(), cosine.acos())
    k, (d, wide) = right.shape[1], left.shape
    overlap = float(both.square().sum()) / k
    if control is None:
        return SubspaceAngles(angles, overlap, wide / d, None, None)
    draw = torch.Generator().manual_seed(seed)
    null = []
    for start in range(0, n, max(1, HELD // (d * k))):
        count = min(n - start, max(1, HELD // (d * k)))
        drawn = torch.linalg.qr(torch.randn(count, d, k, generator=draw, dtype=torch.float64)).Q
        null.append(drawn[:, :wide].square().sum((1, 2)) / k)  # against any fixed space alike: the first axes
    found = torch.cat(null)
    return SubspaceAngles(angles, overlap, wide / d, float(permutation_p(overlap, found)), found)


def _basis(rows: Tensor, name: str) -> Float[Tensor, "d k"]:
    wide = rows.detach().cpu().double()
    wide = wide / wide.norm(dim=1, keepdim=True).clamp(min=1e-300)
    if len(wide) > wide.shape[1]:
        raise InputError(f"{len(wide)} directions in {wide.shape[1]} units are linearly dependent ({name}).")
    s = torch.linalg.svdvals(wide)
    if not float(s[-1]) > 1e-10 * float(s[0]):
        raise InputError(
            f"the directions of {name} are linearly dependent: they span fewer dimensions than there are rows."
        )
    return torch.linalg.qr(wide.T).Q
