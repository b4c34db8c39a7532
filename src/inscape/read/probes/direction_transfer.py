"""Is a direction of one model the same in another, and does it read the other's states?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.interval import Interval
from inscape.core.nulls import random_directions, share
from inscape.core.nulls.permutation import permutation_p
from inscape.core.nulls.values import check_draws, groups
from inscape.core.readout import Labels, labels_of
from inscape.core.step import Step
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.read.probes.mean_difference import MeanDifference


@dataclass(frozen=True, eq=False)
class DirectionTransfer:
    """A direction fitted in each of two models on the same items, and what each reads in the second, held out.

    cosine: of the two, fitted on all items. cosine_null: of the second's with random directions that vary as its data
    do, and p. own, moved: share of the second model's held-out items told right by its own direction, and by the first
    model's; as_is: by the first model's with its own threshold too. random: by the best random direction in 95 of 100.
    by_group: own and moved for each group that was held out.
    """

    cosine: float
    cosine_null: Float[Tensor, " draw"]
    p: float
    own: Interval
    moved: Interval
    as_is: Interval
    random: float
    by_group: dict[str, tuple[float, float]]

    @property
    def lost(self) -> float:
        """Share of items that the own direction tells right and the moved one does not, net."""
        return self.own.value - self.moved.value

    def __str__(self) -> str:
        line = float(self.cosine_null.abs().quantile(0.95))
        return (
            f"cosine {self.cosine:.3f} (random below {line:.3f}); accuracy own {self.own}, moved {self.moved}, "
            f"as is {self.as_is}, random below {self.random:.3f}"
        )


def direction_transfer(
    source: Float[Tensor, "n d"],
    target: Float[Tensor, "m k"],
    labels: Shaped[Tensor, " _"],
    group: Shaped[np.ndarray, " _"] | Shaped[Tensor, " _"] | list[str] | None = None,
    *,
    folds: int = 5,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> DirectionTransfer:
    """Fit the mean difference in two models on the same items; read the second's held-out states with both.

    source, target: states of the same items at a site of the same width, such as one layer's at the last token of a
    statement. labels: yes or no. group: a name an item (its data set): each group is held out in turn, so that nothing
    but the label is shared; without, `folds` random parts. A direction with the threshold of the model it comes from
    also needs equal offsets (`as_is`); `moved` takes the threshold from the second model's training items.
    n: random directions. Choose `MeanDifference` for one model; CKA or Procrustes for whole spaces.
    Cost: (folds or groups) fits, n x m x d.
    Raises: ShapeError for other items or widths; InputError for labels of one kind (also in all groups but one).
    Source: Du et al. 2025, arXiv:2504.02904 (leave one data set out); thresholds half way, theirs by a logistic fit.
    """
    check_draws(n, level)
    if source.shape != target.shape or len(labels) != len(source):
        raise ShapeError(
            f"states {tuple(source.shape)} and {tuple(target.shape)} with {len(labels)} labels: give the same items at "
            "sites of the same width."
        )
    yes = (labels > 0).cpu() if labels.dtype != torch.bool else labels.cpu()
    x, y = source.detach().double().cpu(), target.detach().double().cpu()
    parts, names = _parts(group, len(yes), folds, seed)
    own, moved, as_is = (torch.zeros(len(yes), dtype=torch.bool) for _ in range(3))
    drawn, right = None, torch.zeros(n, dtype=torch.float64)
    for part in range(int(parts.max()) + 1):
        held = parts == part
        if bool(yes[~held].all()) or not bool(yes[~held].any()):
            raise InputError(f"without {names[part]} all labels are alike: every group needs items of both kinds.")
        a, b = (MeanDifference().fit(z[~held], yes[~held]) for z in (x, y))
        own[held], as_is[held] = b.predict(y[held]) == yes[held], a.predict(x=y[held]) == yes[held]
        moved[held] = _told(a.weight_[None], y[~held], yes[~held], y[held])[0] == yes[held]
        drawn = random_directions(b.weight_, n, data=y[~held], seed=seed + part)
        right += (_told(drawn, y[~held], yes[~held], y[held]) == yes[held]).double().sum(1)
    a, b = (MeanDifference().fit(z, yes).weight_ for z in (x, y))
    null = torch.cosine_similarity(random_directions(b, n, data=y, seed=seed), b[None], dim=1)
    cosine = float(torch.cosine_similarity(a, b, dim=0))
    by = {names[i]: (_mean(own[parts == i]), _mean(moved[parts == i])) for i in range(int(parts.max()) + 1)}
    return DirectionTransfer(
        cosine, null, float(permutation_p(abs(cosine), null.abs())), share(own, level=level), share(moved, level=level),
        share(as_is, level=level), float((right / len(yes)).quantile(0.95)), by if group is not None else {},
    )  # fmt: skip


def same_direction(
    inputs: Sequence[Any],
    labels: Shaped[Tensor, " _"],
    site: str,
    group: Sequence[str] | None = None,
    *,
    at: Int[Tensor, " n"] | None = None,
    batch: int = 32,
    n: int = 1000,
    seed: int = 0,
) -> Callable[[Model, Model], dict[str, float | Interval]]:
    """A test for `compare_models`: is a direction the same in two models, and does one read the other's states?

    inputs: texts or lists of ids, with labels yes or no and maybe a group each. site: of the width of both models.
    at: the position of each, counted among real tokens; the last when left out. Further arguments, and what the numbers
    mean: as `direction_transfer`.
    """

    def states(model: Model) -> Float[Tensor, "n d"]:
        rows = []
        for start in range(0, len(inputs), batch):
            trace = run(model, list(inputs[start : start + batch]), read=site, output=False)
            assert trace.mask is not None
            real = Step.of_mask(trace.mask)
            wanted = real.lengths - 1 if at is None else at[start : start + batch]
            column = (real.real == wanted[:, None]).long().argmax(1)
            rows.append(trace[site][torch.arange(len(column)), column.to(trace[site].device)].float().cpu())
        return torch.cat(rows)

    def test(one: Model, other: Model) -> dict[str, float | Interval]:
        found = direction_transfer(
            states(one), states(other), labels, list(group) if group is not None else None, n=n, seed=seed
        )
        return {
            "cosine": found.cosine, "cosine of 95 in 100 random": float(found.cosine_null.abs().quantile(0.95)),
            "own accuracy": found.own, "moved accuracy": found.moved, "random accuracy": found.random,
        }  # fmt: skip

    return test


def _told(
    weight: Float[Tensor, "r d"], train: Float[Tensor, "n d"], yes: Bool[Tensor, " n"], held: Float[Tensor, "m d"]
) -> Bool[Tensor, "r m"]:
    """What each direction says of the held-out items, signed and with its threshold by the training items."""
    along, new = weight @ train.T, weight @ held.T
    high, low = along[:, yes].mean(1), along[:, ~yes].mean(1)
    above = new > ((high + low) / 2)[:, None]
    return above ^ (high < low)[:, None]


def _parts(group: Labels | None, n: int, folds: int, seed: int) -> tuple[Int[Tensor, " n"], list[str]]:
    if group is None:
        if not 2 <= folds <= n:
            raise InputError(f"folds={folds} of {n} items: 2 or more, and no more than items.")
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        return order % folds, [f"part {i}" for i in range(folds)]
    listed = labels_of(group, n, "group")
    numbers = groups(listed, "group", n)
    names = {int(k): str(v) for k, v in zip(numbers, listed.tolist(), strict=True)}
    if len(names) < 2:
        raise InputError("one group cannot be held out from itself: give two or more, or no group.")
    return torch.from_numpy(numbers), [names[i] for i in range(len(names))]


def _mean(x: Tensor) -> float:
    return float(x.double().mean())
