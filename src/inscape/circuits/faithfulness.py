"""How many heads does it take? Faithfulness and completeness of the first n heads of a ranking, as n grows.

With kept(S) the share of the behaviour that is left when every head outside S is knocked out (`knockout.py`):
faithfulness of n   kept(the first n)
completeness of n   1 - kept(all but the first n)
Beside each stands the same of random rankings with as many heads in each layer at every n. A ranking that finds the
circuit rises early and leaves those behind; where the two lie together, which heads they are does not matter.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.heads_out import HeadsOut, Kept
from inscape.core.circuit import Circuit, circuit_of
from inscape.core.errors import InputError
from inscape.core.grid import Grid
from inscape.core.nulls.bootstrap import Intervals
from inscape.core.nulls.matched import layer_matched_orders
from inscape.core.nulls.permutation import Tested, permutation_p
from inscape.core.progress import Progress
from inscape.models.model import Model

Ranking = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class FaithfulnessCurve:
    """Both shares for the first n heads of a ranking, at each of `sizes`: means over pairs, with bootstrap intervals.

    faithfulness_null, completeness_null: the same of each random ranking; p: how often those do as well, size by size.
    faithfulness_area, completeness_area: the area under the whole curve as a share of its width, beside the random
    rankings' areas: one test of the ranking that chooses no n. n_heads: how many heads the model has.
    """

    order: Ranking
    sizes: tuple[int, ...]
    faithfulness: Intervals
    completeness: Intervals
    faithfulness_null: Float[Tensor, "ranking size"]
    completeness_null: Float[Tensor, "ranking size"]
    faithfulness_p: Float[Tensor, " size"]
    completeness_p: Float[Tensor, " size"]
    faithfulness_area: Tested
    completeness_area: Tested
    n_heads: int
    n_pairs: int

    def needed(self, share: float = 0.8) -> int | None:
        """The smallest of `sizes` from which on the heads keep at least this share; None where they never do."""
        enough = (self.faithfulness.value >= share).tolist()
        first = next((i for i in range(len(enough)) if all(enough[i:])), None)
        return None if first is None else self.sizes[first]

    def __str__(self) -> str:
        area = self.faithfulness_area
        lines = [
            f"{'n':>4}  kept by these n           random   p        gone without them         random   p",
            *(
                f"{n:>4}  {_said(self.faithfulness, i)}  {_mean(self.faithfulness_null, i):>6}  "
                f"{float(self.faithfulness_p[i]):<7.2g}  {_said(self.completeness, i)}  "
                f"{_mean(self.completeness_null, i):>6}  {float(self.completeness_p[i]):<7.2g}".rstrip()
                for i, n in enumerate(self.sizes)
            ),
            f"of {self.n_heads} heads, {self.n_pairs} pairs; area {area.observed:.3f}, p {area.p:.2g}",
        ]
        return "\n".join(lines)


def _said(found: Intervals, i: int) -> str:
    return f"{float(found.value[i]):>6.3f} [{float(found.low[i]):>6.3f}, {float(found.high[i]):>6.3f}]"


def _mean(null: Tensor, i: int) -> str:
    return f"{float(null[:, i].mean()):.3f}" if len(null) else "-"


def ranked_heads(model: Model, grid: Grid, *, signed: bool = False) -> Ranking:
    """Every head of a grid [site, head], the largest effect first: what `path_patching` or `sweep(heads="all")` gives.

    An effect is the mean change of the metric, towards the other prompt's. signed: from the most helpful to the most
    harmful, instead of by size. Heads that were not measured are left out.
    Raises: InputError for a grid of other axes, or of sites outside the model's layers.
    """
    if grid.axes != ("site", "head"):
        raise InputError(
            f"this grid has the axes {', '.join(grid.axes)}; heads are ranked by a grid of sites and heads.\n"
            "  path_patching gives one; so does sweep(sites='layers.*.attn.z', heads='all', positions=None)."
        )
    effect = grid.values - grid.base.mean()
    if grid.other is not None:
        effect = effect * torch.sign(grid.other.mean() - grid.base.mean())
    size = (effect if signed else effect.abs()).nan_to_num(-torch.inf).flatten()
    layers = [model.layer_of(s) for s in grid.sites]
    found = []
    for i in size.argsort(descending=True, stable=True).tolist():
        row, head = divmod(i, effect.shape[1])
        if torch.isfinite(effect[row, head]):
            found.append((layers[row], grid.heads[head]))
    return tuple(found)


def faithfulness_curve(
    model: Model,
    order: Circuit | Iterable[tuple[int, int]],
    clean: Any,
    corrupted: Any = None,
    *,
    sizes: Sequence[int] | None = None,
    metric: Any = None,
    how: str = "resample",
    control: str | None = "layer-matched",
    n_sets: int = 20,
    padding_side: str | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> FaithfulnessCurve:
    """What the first n heads of a ranking keep alone, and what is gone without them, for growing n.

    order: (layer, head) pairs, the most important first (`ranked_heads` makes them of a grid), or a circuit, whose
        nodes are ranked by the size of their weights. Rank on other pairs than those given here: a ranking is always
        good on the pairs that made it. sizes: the n; when left out, up to the length of the ranking in steps that grow.
    control: "layer-matched" random rankings, `n_sets` of them; None for none. The rest as in `knock_out`, the sibling
        for one circuit, with its minimality; MLPs are left to recompute.
    Cost: 2 (1 + n_sets) runs a size and pair, whole ones, packed together.
    Raises: InputError for a ranking that is empty, names a head twice or one the model does not have, for sizes it does
    not reach; as `knock_out`.
    Source: Wang et al. 2022, arXiv:2211.00593, section 4, for a single circuit; curves over the size of the circuit
    as in Conmy et al. 2023, arXiv:2304.14997. Random rankings are ours.
    """
    if control not in (None, "layer-matched"):
        raise InputError(f"control={control!r}: it can be 'layer-matched' or None.")
    job = HeadsOut.of("faithfulness_curve", model, clean, corrupted, metric, how, False, padding_side, progress)
    ranking = _ranking(order)
    job.checked(circuit_of(ranking))
    chosen = _sizes(len(ranking)) if sizes is None else tuple(sizes)
    if not chosen or list(chosen) != sorted(set(chosen)) or not 1 <= chosen[0] <= chosen[-1] <= len(ranking):
        raise InputError(
            f"sizes={chosen}: they are rising numbers from 1 to {len(ranking)}, the heads of this ranking."
        )
    drawn = layer_matched_orders(ranking, job.by_layer, n=n_sets, seed=seed) if control is not None else []
    every = frozenset(job.heads)
    firsts = [frozenset(line[:n]) for line in (ranking, *drawn) for n in chosen]
    kept = job.kept([*firsts, *(every - s for s in firsts)])
    keeps, lacks = (_intervals(kept, len(chosen), start, seed) for start in (0, len(firsts)))
    share = kept.share.reshape(2, 1 + len(drawn), len(chosen))
    shares = share[0], 1 - share[1]
    nulls = [s[1:] for s in shares]
    area_kept, area_gone = (_tested(_area(s, chosen)) for s in shares)
    return FaithfulnessCurve(
        ranking, chosen, keeps, lacks, nulls[0], nulls[1], _p(keeps.value, nulls[0]), _p(lacks.value, nulls[1]),
        area_kept, area_gone, len(every), job.both.n,
    )  # fmt: skip


def _ranking(order: Circuit | Iterable[tuple[int, int]]) -> Ranking:
    if isinstance(order, Circuit):
        nodes = sorted(order.nodes.items(), key=lambda item: -abs(item[1]))
        return tuple((n.layer, n.head) for n, _ in nodes if n.head is not None)
    ranking = tuple((int(a), int(b)) for a, b in order)
    twice = next((h for i, h in enumerate(ranking) if h in ranking[:i]), None)
    if twice is not None:
        raise InputError(f"head {twice[0]}.{twice[1]} is in this ranking twice.")
    return ranking


def _sizes(n: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, 16 ... and n: two steps an octave."""
    steps = {s for k in range(n.bit_length()) for s in (2**k, 3 * 2**k) if s < n}
    return (*sorted(steps), n)


def _intervals(kept: Kept, n: int, start: int, seed: int) -> Intervals:
    """n sets from `start` on, the ranking's own at every size; past the first they are what is gone, not kept."""
    made = [kept.interval(start + i, seed, gone=start > 0) for i in range(n)]
    value, low, high = (
        torch.tensor([getattr(m, end) for m in made], dtype=torch.float64) for end in ("value", "low", "high")
    )
    return Intervals(value, low, high, made[0].level, made[0].n_items)


def _p(value: Tensor, null: Tensor) -> Tensor:
    return permutation_p(value, null) if len(null) else torch.full_like(value, torch.nan)


def _tested(areas: Tensor) -> Tested:
    """The first of these areas beside the others."""
    return Tested(float(areas[0]), float(_p(areas[0], areas[1:])), areas[1:])


def _area(curves: Tensor, sizes: Sequence[int]) -> Tensor:
    """Area under each curve [curve, size] from 0 heads, which keep nothing, to the last size, over its width."""
    x = torch.tensor([0, *sizes], dtype=curves.dtype)
    return torch.trapezoid(torch.nn.functional.pad(curves, (1, 0)), x) / sizes[-1]
