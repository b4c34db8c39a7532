"""Where a model holds what tells true from false: the map of a patching sweep, and whether two models have the same.

Values stay raw: `binned` hides signs and small effects, as the released figures of the source do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.sweep import sweep
from inscape.core.errors import InputError, ShapeError
from inscape.core.grid import Grid
from inscape.core.interval import Interval
from inscape.core.nulls.bootstrap import interval_of
from inscape.core.nulls.permutation import permutation_p
from inscape.core.nulls.values import check_draws, generator, resamples
from inscape.core.progress import Progress
from inscape.models.model import Model

SHUFFLES = ("positions", "cells")


@dataclass(frozen=True, eq=False)
class MapsCompared:
    """Do two maps of the same pairs agree?

    r: Pearson correlation over cells, with an interval over pairs. null: the same with one map shuffled; p: how often
    that is as high. difference: the largest absolute difference of the two binned maps. n_cells: cells compared.
    """

    r: Interval
    p: float
    null: Float[Tensor, " draw"]
    difference: float
    n_cells: int

    def __float__(self) -> float:
        return self.r.value

    def __str__(self) -> str:
        return f"r = {self.r} over {self.n_cells} cells, shuffled {self.null.mean():.2f}, p = {self.p:.3g}"


def patch_map(
    model: Model,
    pairs: Any,
    sites: Any = "layers.*.resid_post",
    *,
    positions: Any = "roles",
    metric: Any = None,
    source: Model | None = None,
    depth: str = "same",
    progress: Progress = None,
) -> Grid:
    """What each layer and position carries of the difference between the two prompts of each pair: `ins.sweep` by role.

    Patches the clean (true) run into the corrupted (false) one and measures logit(answer) - logit(wrong). Give `source`
    to patch states of another model with the same tokens: what they say where they do not belong.
    pairs: a `tasks.Pairs`, such as `tasks.statements`. positions: "roles" for one column a role, or as `sweep` has it.
    Cost and errors: as `ins.sweep`. Source: Du et al. 2025, arXiv:2504.02904 (block outputs, every token).
    """
    if isinstance(positions, str) and positions == "roles":
        if not hasattr(pairs, "roles"):
            raise InputError("positions='roles' needs a tasks.Pairs, which knows them; else give positions='all'.")
        positions = dict(pairs.roles) if pairs.aligned else {
            role: (pairs.corrupted_roles[role], at) for role, at in pairs.roles.items() if role in pairs.corrupted_roles
        }  # fmt: skip
    return sweep(
        model, pairs, sites=sites, positions=positions, metric=metric, source=source, depth=depth, progress=progress
    )


def binned(values: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """20 equal bins from the least to the largest value: the lower ten become 0, the upper 0.1, 0.2, ... 1.

    As the source draws its maps; anything below the middle, negative effects too, is hidden. NaN stays.
    """
    low, high = values[~values.isnan()].min(), values[~values.isnan()].max()
    if not high > low:
        return torch.zeros_like(values)
    which = ((values - low) / (high - low) * 20).floor().clamp(max=19)
    return (which - 9).clamp(min=0) / 10


def compare_maps(
    one: Grid,
    other: Grid,
    *,
    positions: Sequence[Any] | None = None,
    shuffle: str = "positions",
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> MapsCompared:
    """The correlation of two maps over their cells, beside maps in which the columns have changed places.

    Both maps must be of the same pairs and places. Maps are smooth along layers, so that single cells are no
    independent draws: shuffle="positions" exchanges whole columns of one map, which keeps each column's shape;
    "cells" exchanges cells, layer by layer. positions: some of the columns alone, such as subject and object.
    The interval draws pairs. Two maps of one model on two halves of the pairs say how high r can get.
    Raises: ShapeError for maps of other places; InputError for a map without variation or too few columns to exchange.
    """
    if shuffle not in SHUFFLES:
        raise InputError(f"shuffle={shuffle!r}: it can be {' or '.join(SHUFFLES)}.")
    check_draws(n, level)
    if one.axes != other.axes or one.labels != other.labels or one.per_pair.shape != other.per_pair.shape:
        raise ShapeError(
            f"maps over {one.axes} of shape {tuple(one.per_pair.shape)} and {other.axes} of shape "
            f"{tuple(other.per_pair.shape)} (pairs first) cannot be laid on each other.\n"
            "  sweep both models over the same pairs, sites and positions."
        )
    a, b = (_chosen(g, positions) for g in (one, other))
    if float(a.mean(0).std()) == 0 or float(b.mean(0).std()) == 0 or a.shape[2] < (2 if shuffle == "positions" else 1):
        raise InputError(f"a map of {a.shape[1]} x {a.shape[2]} cells that does not vary correlates with nothing.")
    rng, mine, theirs = generator(seed), a.mean(0), b.mean(0)
    value = float(_pearson(mine.flatten()[None], theirs.flatten()[None])[0])
    if shuffle == "positions":
        order = torch.from_numpy(np.stack([rng.permutation(theirs.shape[1]) for _ in range(n)]))
        mixed = theirs[:, order].transpose(0, 1)
    else:
        order = torch.from_numpy(rng.permuted(np.tile(np.arange(theirs.shape[1]), (n, theirs.shape[0], 1)), axis=2))
        mixed = theirs.expand(n, -1, -1).gather(2, order)
    under = _pearson(mine.flatten()[None], mixed.flatten(1))
    drawn = [_pearson(*(torch.from_numpy(w) @ x.flatten(1) / len(a) for x in (a, b)))
             for w in resamples(len(a), n, rng)] if len(a) > 1 else [torch.tensor([value])]  # fmt: skip
    apart = float((binned(mine) - binned(theirs)).abs().max())
    found = interval_of(value, torch.cat(drawn).numpy(), level, len(a))
    return MapsCompared(found, float(permutation_p(value, under)), under, apart, mine.numel())


def restored(own: Grid, moved: Grid) -> float:
    """How much of what a model's own patches do, over all cells, another model's patches do as well.

    `1 - sum (moved - own)^2 / sum own^2`, in effects over the unpatched run: 1 when the other model's states say the
    same here, 0 when they say nothing, below 0 when they say something else. A ratio of two effects would be large too
    where strange states do damage. Raises: ShapeError for maps of other places.
    """
    if own.labels != moved.labels:
        raise ShapeError("the two maps are of other sites or positions: patch both at the same places.")
    a, b = (g.values.double() - g.base.double().mean() for g in (own, moved))
    return 1 - float((b - a).square().sum() / a.square().sum().clamp(min=1e-300))


def same_places(pairs: Any, sites: Any = "layers.*.resid_post", **options: Any) -> Callable[..., Any]:
    """A test for `compare_models`: do two models hold what tells the prompts of these pairs apart at the same places?

    Gives r of their maps with its shuffled null, and restored: patches from the first into the second model beside the
    second's own, where both are of one width and depth. Options as `patch_map`.
    """

    def test(one: Model, other: Model) -> dict[str, float | Interval]:
        a, b = (patch_map(m, pairs, sites, **options) for m in (one, other))
        found = compare_maps(a, b)
        moved = patch_map(other, pairs, sites, source=one, **options)
        return {"r": found.r, "r shuffled": float(found.null.quantile(0.95)), "restored": restored(b, moved)}

    return test


def _chosen(grid: Grid, positions: Sequence[Any] | None) -> Float[Tensor, "pair site position"]:
    """The values pair by pair, of these columns."""
    values = grid.per_pair.double()
    values = values if values.ndim > 2 else values[..., None]
    if positions is None:
        return values.flatten(2)
    missing = [p for p in positions if p not in grid.positions]
    if missing:
        raise InputError(f"the map has no position {missing[0]!r}; it has {', '.join(map(str, grid.positions))}.")
    return values[:, :, [grid.positions.index(p) for p in positions]].flatten(2)


def _pearson(a: Float[Tensor, "r k"], b: Float[Tensor, "s k"]) -> Float[Tensor, " _"]:
    """The correlation of each row."""
    x, y = (v.double() - v.double().mean(1, keepdim=True) for v in (a, b))
    return (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1)).clamp(min=1e-300)
