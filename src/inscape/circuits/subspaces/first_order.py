"""What exchanging a subspace does to first order: the best one in closed form, and the room there is for illusions.

With m the source's activation minus the base's and g the slope of the base's score, exchanging a unit v changes the
score by (g . v)(v . m), over the rows by v' M v with M the symmetric mean of g m'. The whole exchange changes it by the
trace of M, g . m. For one g and one m the best v loses (|g| |m| - g . m) / 2: much more than the whole exchange,
-g . m, wherever both are long and they are not opposed. What is between the two is the room for an illusion.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.subspaces.contrast import Contrast
from inscape.core.errors import InputError
from inscape.engine.planning import names_of
from inscape.models.model import Model
from inscape.tasks.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Room:
    """A site to first order. V: the best k columns. best, whole: share of the score that exchanging V, or the whole
    site, takes away. room: best - whole.

    A model that is sure of its answer has small slopes: what a large exchange does is then more than is said here.
    """

    site: str
    V: Float[Tensor, "d k"]
    best: float
    whole: float

    @property
    def room(self) -> float:
        """How much more the best subspace does than the whole exchange."""
        return self.best - self.whole


def first_order(
    model: Model, sites: Any, pairs: Pairs | Contrast, k: int = 1, *, at: str | int = "end", batch: int = 16,
    signs: Float[Tensor, " row"] | None = None,
) -> list[Room]:  # fmt: skip
    """The best subspace of k dimensions at each site to first order; see the module's docstring.

    Choose it to see where an illusion could be before anything is searched, and as the start of a search
    (`das(start="slope")`); `das` goes beyond the first order, which it needs where the model is sure.
    sites: a pattern or names. signs: +1 where a row is to lose its score, -1 where it is to gain; all +1 if left out.
    Cost: a forward and backward of the base and a forward of the source, for all sites together. Deterministic.
    Raises: InputError for a site that does not reach the score.
    Source: ours, after the gradient direction of Makelov et al. 2023, arXiv:2311.17030.
    """
    contrast = Contrast.of(pairs, at)
    names = names_of(model, sites)
    slopes: dict[str, list[Tensor]] = {n: [] for n in names}
    moved: dict[str, list[Tensor]] = {n: [] for n in names}
    score: list[Tensor] = []
    for _, part in contrast.parts(batch):
        base = part.run(model, read=names, grad=True)
        value = part.score(base)
        score.append(value.detach().double().cpu())
        found = torch.autograd.grad(value.sum(), [base[n] for n in names], allow_unused=True)
        here = {n: part.value(base, n).detach() for n in names}
        source = part.run(model, "source", read=names, output=False)
        for name, g in zip(names, found, strict=True):
            if g is None:
                raise InputError(f"the score does not depend on {name}.")
            base.values_[name] = g
            slopes[name].append(part.value(base, name).flatten(1).double().cpu())
            moved[name].append((part.value(source, name, "source") - here[name]).flatten(1).double().cpu())
    before = float(torch.cat(score).mean())
    sign = torch.ones(len(contrast)) if signs is None else signs
    return [_room(n, torch.cat(slopes[n]), torch.cat(moved[n]), sign.double(), before, k) for n in names]


def _room(site: str, slope: Tensor, moved: Tensor, sign: Tensor, before: float, k: int) -> Room:
    """By the eigenvectors of -M, which lie in the span of the rows' slopes and differences."""
    n, d = slope.shape
    slope = slope * sign[:, None]
    if not 1 <= k <= d:
        raise InputError(f"k={k}: {site} has {d} dimensions.")
    basis = torch.linalg.svd(torch.cat([slope / slope.norm(), moved / moved.norm()]), full_matrices=False).Vh
    g, m = slope @ basis.T, moved @ basis.T
    values, vectors = torch.linalg.eigh(-(g.T @ m + m.T @ g) / (2 * n))
    if len(values) < k:
        raise InputError(f"k={k}: {n} pairs span {len(values)} dimensions of {site}.")
    best = values.flip(0)[:k].sum()
    return Room(site, (basis.T @ vectors.flip(1)[:, :k]).float(), float(best) / before, _whole(slope, moved) / before)


def _whole(slope: Tensor, moved: Tensor) -> float:
    return -float((slope * moved).sum(1).mean())
