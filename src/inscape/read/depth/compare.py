"""Two conditions of one depth profile: does noise, rounding or tuning move the depth at which a label can be read?"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.nulls.bootstrap import interval_of
from inscape.core.nulls.values import generator, resamples
from inscape.read.depth.concept import DepthProfile
from inscape.read.depth.summary import points_of


@dataclass(frozen=True)
class Shift:
    """One condition against the first one, on the same items.

    converge: shift of the converging point in relative depth; None where it is undefined in either, or in more than one
    in ten resamples. peak: change of the best layer's score. best: change of the score at the first one's best layer.
    """

    converge: Interval | None
    peak: Interval
    best: Interval


def compare_profiles(
    profiles: Mapping[str, DepthProfile], *, jump: float = 1.1, flat: float = 0.03, n: int = 1000, seed: int = 0
) -> dict[str, Shift]:
    """Shift of every other condition against the first: converging point and scores, with intervals by group.

    profiles: by name, of the same items and sites; the first is what the others are compared with. Items are drawn
    together for all conditions, so that what is hard in both cancels. The mean of the items is compared (accuracy; for
    numbers 1 minus the relative squared error). A converging point hangs on single ratios: see `points_of`.
    Each condition has probes of its own, and other training items would have made others: drawing the tested items
    alone leaves 0 out in 13 of 100 comparisons of nothing with nothing. So the ends are moved away from the value by
    sqrt(1 + k / (k - 1)) for k folds, the variance that shared training items add.
    Cost: n curves a condition. Raises: InputError for one profile, or profiles of other items or sites.
    Source: Jin et al. 2024, arXiv:2404.07066; the bootstrap is ours, its width that of Nadeau & Bengio 2003.
    """
    if len(profiles) < 2:
        raise InputError("there is nothing to compare with: give two profiles or more, by name.")
    names = list(profiles)
    first = profiles[names[0]]
    for name in names[1:]:
        other = profiles[name]
        if other.sites != first.sites or not torch.equal(other.groups, first.groups):
            raise InputError(f"{name!r} and {names[0]!r} are of other items or sites, so their items cannot be paired.")
    group = first.groups.numpy()
    n_groups = int(group.max()) + 1
    draws = np.concatenate([*resamples(n_groups, n, generator(seed))])
    size = np.bincount(group, minlength=n_groups).astype(float)
    curves = {name: _curves(p, group, size, draws) for name, p in profiles.items()}
    base = curves[names[0]]
    best = int(base[0].argmax())
    offset = 0.0 if first.classes else 1.0

    def converged(curve: Float[np.ndarray, " site"]) -> float:
        point = points_of((curve + offset).tolist(), jump=jump, flat=flat).converge
        return float("nan") if point is None else point

    folds = min(p.folds for p in profiles.values())
    wide = (1 + folds / (folds - 1)) ** 0.5
    starts = np.array([converged(c) for c in base])
    out = {}
    for name in names[1:]:
        made = curves[name]
        moved = np.array([converged(c) for c in made]) - starts
        known = np.isfinite(moved[0]) and np.isfinite(moved[1:]).mean() >= 0.9
        out[name] = Shift(
            _interval(moved, n_groups, wide) if known else None,
            _interval(made.max(1) - base.max(1), n_groups, wide),
            _interval(made[:, best] - base[:, best], n_groups, wide),
        )
    return out


def _curves(profile: DepthProfile, group: np.ndarray, size: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The curve of all items, and of every resample: [1 + n, site]."""
    total = np.zeros((len(size), len(profile.sites)))
    np.add.at(total, group, profile.per_item.numpy().T)
    whole = total.sum(0) / size.sum()
    return np.concatenate([whole[None], (draws @ total) / (draws @ size)[:, None]])


def _interval(values: np.ndarray, n_items: int, wide: float) -> Interval:
    """The interval of resamples, its ends `wide` times as far from the value."""
    found = interval_of(float(values[0]), values[1:], 0.95, n_items)
    low, high = (found.value + wide * (end - found.value) for end in (found.low, found.high))
    return replace(found, low=low, high=high)
