"""What of a state says in which language, and what says what is meant: parallel sentences, layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.errors import InputError
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.read.lenses.states import layer_names
from inscape.read.probes import MeanDifference

LARGE = 2.0  # spreads that a unit's means have to lie apart for it to carry the language


@dataclass(frozen=True, eq=False)
class LanguageDirections:
    """One direction a layer, from the states of one language to those of the other.

    units: how many units' means lie more than two spreads apart (a unit's spread within its language).
    units_shuffled: the same with sentences dealt to the languages at random.
    same: mean cosine of a sentence with its translation, each without its language's mean. other: with the translation
    of another sentence. first_retrieved: share of sentences whose nearest in the other language is their translation.
    """

    layers: tuple[str, ...]
    directions: tuple[Direction, ...]
    units: Float[Tensor, " layer"]
    units_shuffled: Float[Tensor, " layer"]
    same: Float[Tensor, " layer"]
    other: Float[Tensor, " layer"]
    first_retrieved: Float[Tensor, " layer"]
    n_sentences: int


def language_directions(
    model: Model,
    one: Sequence[Any],
    two: Sequence[Any],
    layers: Any = None,
    *,
    reduce: Any = "mean",
    names: tuple[str, str] = ("one", "two"),
    seed: int = 0,
) -> LanguageDirections:
    """Compare parallel sentences: text i of `one` means what text i of `two` means.

    The direction is the difference of the languages' means (`MeanDifference`), to be added, projected out or compared.
    reduce: what to keep of each text, its mean over tokens by default, "last" for the last token.
    Chance of `first_retrieved` is 1 / n. Cost: one forward without its head a text.
    Raises: InputError for unequal lists or fewer than three pairs.
    """
    if len(one) != len(two) or len(one) < 3:
        raise InputError(f"{len(one)} and {len(two)} texts: parallel sentences come in pairs, three or more.")
    sites = layer_names(model, layers)
    first = run(model, list(one), read=list(sites), reduce=reduce)
    second = run(model, list(two), read=list(sites), reduce=reduce)
    is_two = torch.arange(2 * len(one)) >= len(one)
    dealt = is_two[torch.randperm(len(is_two), generator=torch.Generator().manual_seed(seed))]
    found, directions = [], []
    for site in sites:
        a, b = first[site].double().cpu(), second[site].double().cpu()
        both = torch.cat([a, b])
        probe = MeanDifference().fit(both, is_two)
        directions.append(
            probe.direction(site, source=f"mean of {names[1]} minus mean of {names[0]}", model=model.fingerprint)
        )
        a, b = (torch.nn.functional.normalize(x - x.mean(0), dim=1) for x in (a, b))
        cosine = a @ b.T
        n = len(cosine)
        own = cosine.diagonal()
        found.append(
            (
                _apart(both, is_two), _apart(both, dealt), own.mean(), (cosine.sum() - own.sum()) / (n * n - n),
                (cosine.argmax(1) == torch.arange(n)).double().mean(),
            )
        )  # fmt: skip
    units, dealt_units, same, other, first_of = (torch.tensor([float(row[i]) for row in found]) for i in range(5))
    return LanguageDirections(sites, tuple(directions), units, dealt_units, same, other, first_of, len(one))


def _apart(x: Float[Tensor, "n d"], yes: Tensor) -> float:
    """Units whose means lie more than LARGE spreads apart."""
    difference = MeanDifference().fit(x, yes).weight_.abs()
    spread = ((x[yes].var(0) + x[~yes].var(0)) / 2).sqrt()
    return float((difference > LARGE * spread).sum())
