"""Products of thin matrices, kept as their factors: what a head does to the stream, never as a d x d matrix."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import ShapeError


@dataclass(frozen=True, eq=False)
class Factored:
    """The matrix `left @ right` of rank r, for row vectors: `x @ left @ right`.

    Everything asked of it costs O(d r^2), not O(d^3): norms and products come from r x r Gram matrices of the factors,
    the SVD from the QR decompositions of both and the SVD of an r x r core.
    """

    left: Float[Tensor, "d_in r"]
    right: Float[Tensor, "r d_out"]

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    @property
    def T(self) -> "Factored":
        return Factored(self.right.T, self.left.T)

    def __matmul__(self, other: "Factored") -> "Factored":
        """The product, as thin as the thinner of the two."""
        middle = self.right @ other.left
        if middle.shape[0] <= middle.shape[1]:
            return Factored(self.left, middle @ other.right)
        return Factored(self.left @ middle, other.right)

    def apply(self, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_out"]:
        """x @ left @ right, in the dtype of the factors."""
        return x.to(self.left) @ self.left @ self.right

    def dense(self) -> Float[Tensor, "d_in d_out"]:
        """The whole matrix: for checks on small models."""
        return self.left @ self.right

    @cached_property
    def norm(self) -> float:
        """Frobenius norm: sqrt(tr(L'L R R'))."""
        total = ((self.left.T @ self.left).double() * (self.right @ self.right.T).double()).sum()
        return float(total.clamp(min=0).sqrt())

    @cached_property
    def components(self) -> "Components":
        """The SVD, strongest first: `sum_i s_i u_i v_i'`; computed in float64."""
        q_left, r_left = torch.linalg.qr(self.left.double())
        q_right, r_right = torch.linalg.qr(self.right.double().T)
        u, s, vh = torch.linalg.svd(r_left @ r_right.T)
        keep = min(len(s), self.left.shape[1])
        dtype = self.left.dtype
        return Components(
            s[:keep].to(dtype), (q_left @ u)[:, :keep].T.contiguous().to(dtype), (vh @ q_right.T)[:keep].to(dtype)
        )


@dataclass(frozen=True, eq=False)
class Components:
    """Rank-one parts `strength_i * read_i' write_i` of a factored matrix, strongest first.

    read: unit directions it reads (of an OV matrix: what is moved; of a QK matrix: the query side). write: unit
    directions it writes (of a QK matrix: the key side). The sign of a pair is arbitrary, and where strengths are
    equal so are the directions within their span: compare subspaces, not vectors.
    """

    strength: Float[Tensor, " r"]
    read: Float[Tensor, "r d_in"]
    write: Float[Tensor, "r d_out"]

    def __len__(self) -> int:
        return len(self.strength)

    def __getitem__(self, i: int) -> Factored:
        """Component i as a matrix of rank one."""
        if not -len(self) <= i < len(self):
            raise ShapeError(f"there is no component {i}: this matrix has rank {len(self)}.")
        return Factored((self.strength[i] * self.read[i])[:, None], self.write[i][None])
