"""What reads a site: a matrix whose row space is all that goes on, and the split of a subspace by it.

With W the linear map that leaves the site and Q an orthonormal basis of its row space, V_row = Q Q' V goes on and
V_null = V - V_row is invisible to whoever reads through W.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.subspaces.contrast import Contrast
from inscape.circuits.weights.origins import plain_weight
from inscape.core.errors import InputError, ModelError, ShapeError
from inscape.engine.planning import names_of, point_of
from inscape.models.model import Model

WEIGHT_TOL, JACOBIAN_TOL = 1e-5, 1e-2  # singular values below this share of the largest count as none


@dataclass(frozen=True, eq=False)
class Reader:
    """A linear map out of a site. matrix: [out, d]; what: in words; tol: singular values that count, of the largest."""

    matrix: Float[Tensor, "out d"]
    what: str
    tol: float

    @property
    def basis(self) -> Float[Tensor, "d rank"]:
        """An orthonormal basis of what it reads."""
        _, s, vh = torch.linalg.svd(self.matrix.double(), full_matrices=False)
        if float(s[0]) == 0.0:
            raise InputError(f"the reader ({self.what}) is zero: it reads nothing.")
        return vh[s > self.tol * s[0]].T


@dataclass(frozen=True, eq=False)
class Split:
    """A subspace in two parts. row, null: bases of the parts; row_share, null_share: |V_row| / |V|, |V_null| / |V|."""

    row: Float[Tensor, "d _"]
    null: Float[Tensor, "d _"]
    rank: int
    row_share: float
    null_share: float


def split(subspace: Float[Tensor, "d k"], reader: Reader) -> Split:
    """The parts of a subspace that a reader sees and does not see; a part that is nothing has no columns."""
    v = torch.linalg.qr(subspace.double()).Q
    basis = reader.basis
    if len(basis) != len(v):
        raise ShapeError(f"the reader ({reader.what}) takes {len(basis)} units, the subspace has {len(v)}.")
    row = basis @ (basis.T @ v)
    null = v - row
    size = v.norm()
    return Split(_spanning(row), _spanning(null), basis.shape[1], float(row.norm() / size), float(null.norm() / size))


def _spanning(v: Tensor) -> Float[Tensor, "d _"]:
    """A basis of the span of columns that may be dependent, or nothing; one column stays as it is."""
    u, s, _ = torch.linalg.svd(v, full_matrices=False)
    kept = u[:, s > 1e-6]
    return v if v.shape[1] == 1 and kept.shape[1] == 1 else kept


def reader_of(
    model: Model, site: str, reader: Any, contrast: Contrast, *, rows: int = 32, tol: float | None = None
) -> Reader:
    """The map out of a site: what is asked for, or with "auto" the weights that take the site in.

    reader: "auto"; a matrix [out, d]; "downstream", the mean Jacobian of the last stream at the last position; or names
    of sites that read this one, whose mean Jacobian at the position of exchange is taken over `rows` base inputs.
    Raises: ModelError for "auto" where no weight matrix takes the site in.
    """
    if isinstance(reader, Tensor):
        return Reader(reader.detach().cpu(), "a given matrix", tol or WEIGHT_TOL)
    if reader == "auto":
        found = weight_after(model, site)
        if found is None:
            raise ModelError(
                f"nothing linear takes {site} in alone, so there is no reader to find.\n"
                "  say who reads it: reader='downstream' (the mean Jacobian of all that follows), names of sites such "
                "as ['layers.3.attn.q'], or a matrix [out, d]."
            )
        return Reader(found, f"weights of {point_of(model, site).path.removesuffix(':in')}", tol or WEIGHT_TOL)
    if reader == "downstream":
        last = "final_norm" if "final_norm" in model.sites else f"{model.blocks[-1].name}.resid_post"
        return Reader(
            _jacobian(model, site, [last], contrast, rows, True), f"mean Jacobian of {last}", tol or JACOBIAN_TOL
        )
    sites = names_of(model, reader)
    matrix = _jacobian(model, site, sites, contrast, rows, False)
    return Reader(matrix, f"mean Jacobian of {', '.join(sites[:3])}{' …' * (len(sites) > 3)}", tol or JACOBIAN_TOL)


def weight_after(model: Model, site: str) -> Float[Tensor, "out d"] | None:
    """The weights of the linear module that takes this site in, [out, d]; None where there is none."""
    point = point_of(model, site)
    weight = plain_weight(point.module) if point.kind == "module" and point.side == "in" else None
    if weight is None or point.part is not None or point.span is not None or point.rules:
        return None
    w = weight.detach().T.cpu().float()
    return w / point.scale if point.scale is not None else w


def _jacobian(
    model: Model, site: str, to: Sequence[str], contrast: Contrast, rows: int, last: bool
) -> Float[Tensor, "out d"]:
    """Mean over base inputs of d(to) / d(site), both at the position of exchange, or `to` at the last position."""
    part = contrast.subset(range(min(rows, len(contrast))))
    trace = part.run(model, read=[site, *to], grad=True, output=False)
    found = []
    for name in to:
        if last and part.at is not None:
            ends = trace.mask.sum(1).cpu() - 1 if trace.mask is not None else part.at
            read = Contrast(part.base, part.source, ends, ends, part.answer, part.wrong, part.metric)
        else:
            read = part
        y = read.value(trace, name).flatten(1)
        for j in range(y.shape[1]):
            (g,) = torch.autograd.grad(y[:, j].sum(), trace[site], retain_graph=True, allow_unused=True)
            if g is None:
                raise InputError(f"{name} does not depend on {site}: it is no reader of it.")
            moved = part.value(_with(trace, site, g), site)
            found.append(moved.flatten(1).double().mean(0).cpu())
    return torch.stack(found)


def _with(trace: Any, site: str, x: Tensor) -> Any:
    from dataclasses import replace

    return replace(trace, values_={site: x})
