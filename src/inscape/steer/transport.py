"""How far the activations of some samples are from those of others, as distributions, before and under edits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.transport import squared_transport
from inscape.models.model import Model
from inscape.steer.fit_affine import Standard
from inscape.steer.pooled import Pooled, sites_of


@dataclass(frozen=True, eq=False)
class Transport:
    """Squared transport of the source's pooled activations to the target's, summed over the units of a site.

    loss: under the edits; before: without any; floor: between halves of the target, mean over random splits: what two
    samples of one kind are apart, for samples of half the size (above what a perfect map can reach on all of them).
    """

    sites: tuple[str, ...]
    loss: Float[Tensor, " site"]
    before: Float[Tensor, " site"]
    floor: Float[Tensor, " site"]
    n: tuple[int, int]

    @property
    def total(self) -> float:
        return float(self.loss.sum())

    @property
    def left(self) -> float:
        """What the edits leave of the distance: 1 is nothing done, more is farther than before."""
        return float(self.loss.sum() / self.before.sum())


def transport(
    model: Model,
    source: Any,
    target: Any,
    edits: Edit | Sequence[Edit] = (),
    sites: Any = "layers.*.mlp.in",
    *,
    pool: str = "mean",
    scaled: bool = True,
    splits: int = 20,
    seed: int = 0,
    batch_tokens: int = 4096,
    max_length: int | None = None,
) -> Transport:
    """Measure on samples that no map was fitted on how far source is from target inside, with edits and without.

    scaled: every unit's squared distance over its variance within both samples (as they are without edits), so that
    units and sites count alike; False: in squared activations, the paper's loss. On the samples of the fit every number
    is too good. Cost: two forwards of the source, one of the target, up to the last site.
    Raises: InputError for fewer than 4 target samples; as `fit_affine`.
    """
    names = sites_of(model, sites)
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "max_length": max_length}
    here = Pooled.of(model, source, names, pool, "source", **options)
    there = Pooled.of(model, target, names, pool, "target", at_least=4, **options)
    edits = [edits] if isinstance(edits, Edit) else list(edits)
    plain, wanted = here.states(), there.states()
    now = here.states(edits) if edits else plain
    generator = torch.Generator().manual_seed(seed)
    halves = [torch.randperm(len(there), generator=generator).tensor_split(2) for _ in range(splits)]
    rows = []
    for site in names:
        v = wanted[site].double()
        unit = Standard.of(plain[site], wanted[site]).spread.double().square() if scaled else torch.ones_like(v[0])
        apart = [squared_transport(v[a.to(v.device)], v[b.to(v.device)]) for a, b in halves]
        values = squared_transport(now[site].double(), v), squared_transport(plain[site].double(), v)
        rows.append([float((x / unit).sum()) for x in (*values, torch.stack(apart).mean(0))])
    loss, before, floor = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return Transport(names, loss, before, floor, (len(here), len(there)))
