"""Directions between two sets of texts, at every layer at once.

1. Texts of both sides are read together, some hundred at a time: batches of like length, no head, one vector a text.
2. Each site's statistics take them in, in float64: moments of both sides, and what the method keeps besides.
3. The direction is turned so that the positive side projects higher, and given its length.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.errors import InputError
from inscape.core.nulls import random_directions
from inscape.core.progress import Progress, tell
from inscape.models.model import Model
from inscape.steer.fitting import SiteFit, exchanged, logistic_weights
from inscape.steer.states import TextStates, check_texts

METHODS = ("mean_difference", "pca_difference", "pca", "mean", "logistic")
ONE_SIDED = ("mean", "pca")
CONTROLS = ("shuffle", "pairs", "random")


def fit_directions(
    model: Model,
    positive: Sequence[Any],
    negative: Sequence[Any] | None = None,
    sites: Any = "layers.*.resid_post",
    *,
    method: str = "mean_difference",
    position: Any = "last",
    centre: bool = True,
    C: float = 1.0,
    control: str | None = None,
    seed: int = 0,
    source: str = "",
    batch_tokens: int = 4096,
    max_length: int | None = None,
    progress: Progress = None,
) -> Directions:
    """The direction from negative to positive texts at every site: `ins.add` it to move a model that way.

    h is a text's state at a site (`position`: "last", "mean", a place among its tokens, or a slice, list or
    `ins.span`, averaged). By method:
      "mean_difference"  mean h(positive) - mean h(negative), in its own length
      "pca_difference"   first component of h(positive_i) - h(negative_i), pairs by index
      "logistic"         weights of the logistic regression of the side, penalty C on standardised units
      "mean"             mean h(positive), in its own length; takes no negatives
      "pca"              first component of h(positive); negatives, where given, only turn and scale it
    Take "mean_difference" unless you know why not. Centred components (`centre`, as in scikit-learn) leave out what all
    differences share, which is the mean difference: "pca_difference" then finds how the pairs differ from one another.

    Sign: the positive side projects higher (of "pca" without negatives: the mean is positive). Length: components and
    weights are given that of the mean difference, or without negatives the standard deviation along them.
    control: a direction of the same length that should not work. "shuffle": sides exchanged for half of the texts (of
    "pca_difference": components of differences within a side); "pairs": partners exchanged; "random": evenly drawn.
    Shuffles of few pairs keep some of the direction by chance where pairs differ in strength: take a set of them,
    `steer.shuffles.fit_shuffles`.

    Cost: one forward of each text without the head, stopped after the last site: 0.4 of a whole forward on Gemma 3
    270M. Memory: two vectors a site; for all but the means the states of all texts, or (d, d) a site where fewer.
    Raises: InputError for empty or unpaired lists, fewer than 2 pairs for a component, the same texts on both sides or
    states that do not differ; SiteError, TokenError, NotFiniteError. Warns for one text a side.
    Source: Rimsky et al. 2023, arXiv:2312.06681 (means); Zou et al. 2023, arXiv:2310.01405 (components). Shuffling
    labels is no control of their components, which find what varies most whatever it is called: hence ours.
    """
    high, low = checked(positive, negative, method, control)
    if not C > 0:
        raise InputError(f"C={C}: it is a positive number; smaller is a stronger penalty.")
    n, m, is_dark = len(high), len(low), control == "shuffle"
    reader = TextStates(model, sites, position, batch_tokens, max_length)
    generator = torch.Generator().manual_seed(seed)
    if control == "pairs":
        low = [low[i] for i in torch.randperm(m, generator=generator).tolist()]
    said = exchanged(n, m, generator) if is_dark else (torch.ones(n).bool(), torch.zeros(m).bool())
    fits = {site: SiteFit(method, centre, is_dark) for site in reader.sites}
    step = reader.step(2 if m else 1)
    for start in range(0, max(n, m), step):
        tell(progress, f"reading {n + m} texts at {len(fits)} sites", start / max(n, m))
        part = slice(start, start + step)
        states = reader.both(high[part], low[part], first=start)
        for site, x in states.items():
            fits[site].update(x, len(high[part]), torch.cat([flags[part] for flags in said]))
    tell(progress, f"solving {len(fits)} sites", 1.0)
    for site, fit in fits.items():
        fit.check(site, position)
    found = logistic_weights(fits, C) if method == "logistic" else {site: fit.vector() for site, fit in fits.items()}
    about = source or f"{method} of {n} texts{f' from {m}' if m else ''} at {position}"
    about = f"{control} control of {about}" if control else about
    fingerprint = model.fingerprint
    made = []
    for i, (site, vector) in enumerate(found.items()):
        vector = fits[site].finished(vector)
        if control == "random":
            vector = random_directions(vector, seed=seed + 7919 * i)[0]
        made.append(Direction(site, vector.float(), about, fingerprint))
    return Directions.of(*made)


def checked(positive: Any, negative: Any, method: str, control: str | None) -> tuple[list[Any], list[Any]]:
    """Both lists, when this method and control can take them."""
    if method not in METHODS:
        raise InputError(f"method={method!r} is none of {', '.join(map(repr, METHODS))}.")
    if control is not None and control not in CONTROLS:
        raise InputError(f"control={control!r} is none of {', '.join(map(repr, CONTROLS))}, or None.")
    high = check_texts(positive, "positive")
    low = check_texts(negative, "negative") if negative is not None else []
    if negative is None and method not in ONE_SIDED:
        raise InputError(f"method={method!r} needs negative texts too; 'mean' and 'pca' do with positive ones.")
    if negative is not None and method == "mean":
        raise InputError("method='mean' takes positive texts alone; with negatives take 'mean_difference'.")
    pairing = "control='pairs'" if control == "pairs" else "method='pca_difference'"
    is_paired = control == "pairs" or method == "pca_difference"
    if is_paired and len(high) != len(low):
        raise InputError(
            f"{len(high)} positive and {len(low)} negative texts: {pairing} pairs them by index.\n"
            "  give lists of equal length, or take method='mean_difference', which needs no pairs."
        )
    if method in ("pca", "pca_difference") and len(high) < 2:
        raise InputError(f"method={method!r} needs 2 {'pairs' if is_paired else 'texts'} at least; there is 1.")
    if control == "shuffle" and method in ONE_SIDED:
        raise InputError(f"method={method!r} has no sides to shuffle: take control='random'.")
    if control in ("shuffle", "pairs") and min(len(high), len(low)) < 2:
        raise InputError(f"control={control!r} exchanges texts: it needs two a side at least.")
    if low and _named(high) == _named(low):
        raise InputError("positive and negative are the same texts, so nothing lies between them.")
    if min(len(high), len(low) or 2) < 2:
        warnings.warn("a direction from one text a side is mostly about that text: give more.", stacklevel=3)
    return high, low


def _named(texts: list[Any]) -> list[str] | int:
    """Texts to compare, whatever their order; arrays are not compared."""
    return sorted(map(repr, texts)) if all(isinstance(t, (str, list, tuple)) for t in texts) else id(texts)
