"""Is a direction any good? How far it sets two sides apart, on texts it has not seen, and beside what."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls import Intervals, auc, random_directions
from inscape.core.progress import Progress, tell
from inscape.models.model import Model
from inscape.steer.states import TextStates, check_texts


@dataclass(frozen=True, eq=False)
class Quality:
    """What directions say of texts they were not fitted on, by site; each beside what tells good from none.

    separation: d', the gap of the two sides' mean projections in pooled standard deviations. auc: share of pairs of a
    positive and a negative text that the projection ranks right, with its interval by text; p: of it, sides shuffled.
    random_auc: what one in twenty random directions, drawn as the states vary, reaches (95th percentile of AUCs, either
    sign). refit: cosine with the mean difference of these texts, of the given direction. halves: cosine between mean
    differences of two halves of them, mean over random splits, with the middle 95 % of the splits. random_cosine: the
    95th percentile of |cosine| to random directions as the states vary, the null of refit and halves.
    """

    sites: tuple[str, ...]
    separation: Float[Tensor, " site"]
    auc: Intervals
    p: Float[Tensor, " site"]
    random_auc: Float[Tensor, " site"]
    refit: Float[Tensor, " site"]
    halves: Intervals
    random_cosine: Float[Tensor, " site"]
    n: tuple[int, int]

    @property
    def best(self) -> str:
        """The site of the largest separation among those whose AUC is above its null; the largest of all if none."""
        good = self.auc.low > torch.maximum(self.random_auc, torch.tensor(0.5))
        value = torch.where(good, self.separation, -torch.inf) if bool(good.any()) else self.separation
        return self.sites[int(value.argmax())]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sites at which a direction does no better than a control, in words."""
        out = []
        for i, site in enumerate(self.sites):
            if not float(self.auc.low[i]) > 0.5:
                out.append(f"{site}: its ranking of the sides may be chance (AUC {_span(self.auc, i)}).")
            elif float(self.auc.value[i]) <= float(self.random_auc[i]):
                out.append(
                    f"{site}: random directions rank the sides as well (AUC {float(self.auc.value[i]):.2f}, theirs "
                    f"{float(self.random_auc[i]):.2f})."
                )
            if not float(self.halves.low[i]) > float(self.random_cosine[i]):
                out.append(f"{site}: halves of these texts give unlike directions (cosine {_span(self.halves, i)}).")
        return tuple(out)

    def rows(self) -> list[dict[str, Any]]:
        """One row a site, for tables."""
        numbers = {"separation": self.separation, "auc": self.auc.value, "auc_low": self.auc.low,
                   "auc_high": self.auc.high, "p": self.p, "random_auc": self.random_auc, "refit": self.refit,
                   "halves": self.halves.value, "random_cosine": self.random_cosine}  # fmt: skip
        return [{"site": s} | {k: float(v[i]) for k, v in numbers.items()} for i, s in enumerate(self.sites)]


def quality(
    directions: Direction | Directions,
    model: Model,
    positive: Sequence[Any],
    negative: Sequence[Any],
    *,
    position: Any = "last",
    splits: int = 50,
    n_random: int = 200,
    seed: int = 0,
    batch_tokens: int = 4096,
    max_length: int | None = None,
    progress: Progress = None,
) -> Quality:
    """Measure directions on texts of both sides that they were not fitted on.

    On the texts of the fit every number is too good: with fewer texts than units any labels are set apart. position: as
    in the fit. splits: halvings of the texts (pairs stay together where lists are equally long). n_random: random
    directions, drawn as the states vary about the means of their sides.
    Cost: one forward a text without the head; the states of all texts at all sites are held.
    Raises: ModelError for directions of another model; ShapeError for one that does not fit its site; InputError for
    fewer than 4 texts a side.
    """
    made = Directions.of(directions) if isinstance(directions, Direction) else directions
    high, low = check_texts(positive, "positive"), check_texts(negative, "negative")
    if min(len(high), len(low)) < 4:
        raise InputError(f"{len(high)} and {len(low)} texts: quality takes 4 a side at least, to halve them.")
    model.check_meant(made.model, "these directions are")
    reader = TextStates(model, list(made.sites), position, batch_tokens, max_length)
    parts: dict[str, list[list[Tensor]]] = {site: [[], []] for site in made.sites}
    step = reader.step(2)
    for start in range(0, max(len(high), len(low)), step):
        tell(progress, f"reading {len(high) + len(low)} texts", start / max(len(high), len(low)))
        a, b = high[start : start + step], low[start : start + step]
        for site, x in reader.both(a, b, first=start).items():
            parts[site][0].append(x[: len(a)])
            parts[site][1].append(x[len(a) :])
    found = []
    for i, (site, direction) in enumerate(made.items()):
        tell(progress, f"measuring {site}", i / len(made))
        a, b = (torch.cat(side).flatten(1).double() for side in parts[site])
        if direction.vector.numel() != a.shape[1]:
            raise ShapeError(
                f"the direction at {site} has shape {tuple(direction.vector.shape)}; a state there has {a.shape[1]} "
                "units.\n  a direction a row (contrast_direction) has no quality of its own: take its mean first."
            )
        found.append(_measured(direction.vector.flatten().double().cpu(), a, b, splits, n_random, seed))
    column = {name: torch.tensor([one[name] for one in found], dtype=torch.float64) for name in found[0]}
    n = (len(high), len(low))
    return Quality(
        made.sites, column["separation"], Intervals(column["auc"], column["auc_low"], column["auc_high"], 0.95, sum(n)),
        column["p"], column["random_auc"], column["refit"],
        Intervals(column["halves"], column["halves_low"], column["halves_high"], 0.95, sum(n)),
        column["random_cosine"], n,
    )  # fmt: skip


def _measured(
    v: Float[Tensor, " d"], a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], splits: int, n_random: int, seed: int
) -> dict[str, float]:
    """All numbers of one site."""
    along = torch.cat([a, b]) @ (v / v.norm())
    x, y = along[: len(a)], along[len(a) :]
    pooled = ((x.var() * (len(a) - 1) + y.var() * (len(b) - 1)) / (len(along) - 2)).sqrt()
    side = torch.cat([torch.ones(len(a)), torch.zeros(len(b))])
    area = auc(along, side, seed=seed)
    gap = a.mean(0) - b.mean(0)
    within = torch.cat([a - a.mean(0), b - b.mean(0)])
    drawn = random_directions(v, n_random, data=within, seed=seed)
    drawn = drawn / drawn.norm(dim=1, keepdim=True)
    areas = _areas(torch.cat([a, b]) @ drawn.T, len(a))
    halves = _halves(a, b, splits, seed)
    spread = torch.tensor([0.025, 0.975], dtype=torch.float64)
    cosines = torch.stack([_cosine(drawn, w).abs() for w in (v, gap)])
    return {
        "separation": float((x.mean() - y.mean()) / pooled.clamp(min=1e-300)),
        "auc": area.value, "auc_low": area.interval.low, "auc_high": area.interval.high, "p": area.p,
        "random_auc": float(torch.maximum(areas, 1 - areas).quantile(0.95)),
        "refit": float(_cosine(v, gap)), "halves": float(halves.mean()),
        "halves_low": float(halves.quantile(spread[0])), "halves_high": float(halves.quantile(spread[1])),
        "random_cosine": float(cosines.quantile(0.95, dim=1).max()),
    }  # fmt: skip


def _halves(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], splits: int, seed: int) -> Float[Tensor, " split"]:
    """Cosine between the mean differences of two random halves; pairs are halved together."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(splits):
        of_a = torch.randperm(len(a), generator=generator)
        of_b = of_a if len(a) == len(b) else torch.randperm(len(b), generator=generator)
        parts = [(a[of_a[i::2]].mean(0) - b[of_b[i::2]].mean(0)) for i in (0, 1)]
        out.append(_cosine(*parts))
    return torch.stack(out)


def _areas(values: Float[Tensor, "n k"], n_high: int) -> Float[Tensor, " k"]:
    """Area under the curve of each column, the first rows being positive; ties fall as they come."""
    rank = values.argsort(0).argsort(0)[:n_high].double() + 1
    n_low = len(values) - n_high
    return (rank.sum(0) - n_high * (n_high + 1) / 2) / (n_high * n_low)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


def _span(x: Intervals, i: int) -> str:
    return f"{float(x.value[i]):.2f} [{float(x.low[i]):.2f}, {float(x.high[i]):.2f}]"
