"""Rank-one weight edits and one-dimensional patches are one thing: what a fact edit writes, as a direction before it.

With W the weights after a site, W' = W + w u' changes what is written by w (u . x). A change of the activation along
v = W^+ w by (u . x) writes the same wherever w lies in what W can write, W v = w: always, where W is wide and of full
rank, as an MLP's down projection is.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.weights.origins import plain_weight
from inscape.core.direction import Direction
from inscape.core.edit import Edit, make_edit
from inscape.core.edits.sources import patch
from inscape.core.errors import EditError, ModelError
from inscape.engine.planning import point_of
from inscape.models.model import Model


@dataclass(frozen=True, eq=False)
class RankOne:
    """A rank-one change of the weights after a site, and the direction in the site that does the same.

    write, read: w and u of the change w u'. direction: v. missing: |W v - w| / |w|, what no activation can write.
    cosine: of v with u: 1 where the edit writes along what it reads; a patch direction found otherwise can be compared
    with either.
    """

    model: Model
    site: str
    write: Float[Tensor, " out"]
    read: Float[Tensor, " d"]
    direction: Direction
    missing: float
    cosine: float

    @contextlib.contextmanager
    def weights(self) -> Iterator[None]:
        """The weights with the change, until the `with` ends; afterwards they are as they were, bit for bit."""
        rows = _weight_after(self.model, self.site)
        before = rows.clone()
        try:
            rows.copy_((before.double() + torch.outer(self.read, self.write).to(rows.device)).to(rows))
            yield
        finally:
            rows.copy_(before)

    def edit(self, **places: Any) -> Edit:
        """The same change as an edit of the activations, on any input: x + v (u . x). Takes at= and rows=."""

        def fn(x: Tensor) -> Tensor:
            flat = x.reshape(*x.shape[:2], -1).to(torch.promote_types(x.dtype, torch.float32))
            moved = (flat @ self.read.to(flat))[..., None] * self.direction.vector.flatten().to(flat)
            return x + moved.reshape(x.shape).to(x.dtype)

        return make_edit(self.site, fn, f"rank one at {self.site}", **places)

    def patch(self, recorded: Float[Tensor, "batch pos *axes"], **places: Any) -> Edit:
        """The same on the inputs whose values of the site are given, as a patch along v and nothing else."""
        flat = recorded.flatten(2).double()
        v = self.direction.vector.flatten().double().to(flat.device)
        source = flat + (flat @ self.read.double().to(flat.device))[..., None] * v
        along = Direction(self.site, v.to(recorded.dtype), "rank-one edit")
        return patch(self.site, source.reshape(recorded.shape).to(recorded.dtype), along=along, **places)


def rank1_equivalent(
    model: Model, site: str, change: Float[Tensor, "out d"] | tuple[Float[Tensor, " out"], Float[Tensor, " d"]]
) -> RankOne:
    """The direction at a site whose patch equals a rank-one edit of the weights after it.

    change: the matrix [out, d] that is added to the weights, or its two vectors (w, u). Choose it to ask whether a fact
    edit and a patch direction are the same intervention, and with `audit` whether the model used it before.
    Cost: one pseudo-inverse of the weights. Raises: EditError for a change of higher rank or of another size;
    ModelError for a site without plain weights after it.
    Source: Makelov et al. 2023, arXiv:2311.17030, on Meng et al. 2022, arXiv:2202.05262.
    """
    weight = _weight_after(model, site).T.double().cpu()
    write, read = _vectors(change)
    if write.shape != weight.shape[:1] or read.shape != weight.shape[1:]:
        raise EditError(
            f"the change is ({len(write)}, {len(read)}); the weights after {site} are {tuple(weight.shape)}."
        )
    v = torch.linalg.pinv(weight) @ write
    missing = float((weight @ v - write).norm() / write.norm())
    cosine = float(torch.nn.functional.cosine_similarity(v, read, 0))
    found = Direction(site, v, "equivalent of a rank-one edit", model.fingerprint)
    return RankOne(model, site, write, read, found, missing, cosine)


def _vectors(change: Tensor | tuple[Tensor, Tensor]) -> tuple[Float[Tensor, " out"], Float[Tensor, " d"]]:
    if isinstance(change, tuple):
        return change[0].detach().double().cpu(), change[1].detach().double().cpu()
    u, s, vh = torch.linalg.svd(change.detach().double().cpu(), full_matrices=False)
    if float(s[0]) == 0.0 or (len(s) > 1 and float(s[1]) > 1e-4 * float(s[0])):
        raise EditError(
            f"the change has singular values {s[0]:.3g}, {s[1] if len(s) > 1 else 0:.3g}, ...: it is not of rank one.\n"
            "  give its first component, or two vectors (w, u)."
        )
    return u[:, 0] * s[0], vh[0]


def _weight_after(model: Model, site: str) -> Float[Tensor, "d out"]:
    point = point_of(model, site)
    weight = plain_weight(point.module) if point.kind == "module" and point.side == "in" else None
    if weight is None or point.scale is not None or point.part is not None or point.span is not None:
        raise ModelError(
            f"{site} is not what a plain weight matrix takes in; sites that are: layers.*.mlp.act, layers.*.attn.z."
        )
    return weight.detach()
