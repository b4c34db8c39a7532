"""The doses of a dose-response, and the curves that stand beside each other in it: a direction and its controls."""

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls import random_directions
from inscape.models.model import Model

CONTROLS = ("random", "shuffled", "flipped", "wrong_layer")  # by default
AT_EQUAL_KL = "random_kl"
Vectors = dict[str, Tensor]  # site -> vector


def doses_of(doses: Sequence[Any]) -> tuple[float, ...]:
    """In order, 0 among them."""
    try:
        found = sorted({float(d) for d in doses} | {0.0})
    except (TypeError, ValueError) as error:
        raise InputError(f"doses={doses!r}: give numbers, such as [0.05, 0.1, 0.2].") from error
    if len(found) < 2 or not all(abs(d) < float("inf") for d in found):
        raise InputError(f"doses={doses!r}: give one finite number at least that is not 0.")
    return tuple(found)


def curves_of(
    model: Model, made: Directions, controls: Sequence[str], shuffled: Any, n: int, seed: int
) -> tuple[dict[str, Callable[[int], Vectors]], list[str]]:
    """By curve, the vectors of each prompt; and what was left out."""
    if wrong := [c for c in controls if c not in (*CONTROLS, AT_EQUAL_KL)]:
        raise InputError(f"controls={wrong}: there are {', '.join(map(repr, (*CONTROLS, AT_EQUAL_KL)))}.")
    own = {site: d.vector.detach().float().cpu() for site, d in made.items()}
    if any(bool((v == 0).all()) or not bool(torch.isfinite(v).all()) for v in own.values()):
        raise ShapeError("a direction of length zero, or not finite, points nowhere.")
    curves: dict[str, Callable[[int], Vectors]] = {"direction": lambda _: own}
    notes = []
    for control in controls:
        if control in ("random", AT_EQUAL_KL):
            drawn = {s: random_directions(v, 64, seed=seed + 7919 * i) for i, (s, v) in enumerate(own.items())}
            curves[control] = lambda item, drawn=drawn: {s: v[item % 64] for s, v in drawn.items()}
        elif control == "flipped":
            curves["flipped"] = lambda _: own
        elif control == "wrong_layer":
            moved = _moved_layers(model, own)
            if moved is None:
                notes.append("no wrong-layer control: these sites have no counterpart at another layer.")
            else:
                curves["wrong_layer"] = lambda _, moved=moved: moved
        elif shuffled is None:
            notes.append(
                "no shuffled control: give shuffled=fit_shuffles(...) with the texts that the direction is from."
            )
        else:
            several = [_fitting(one, own) for one in shuffled]
            if len(several) < min(8, n):
                warnings.warn(
                    f"{len(several)} shuffles: few shuffles keep some of the direction by chance; give 20.",
                    stacklevel=3,
                )
            curves["shuffled"] = lambda item, several=several: several[item % len(several)]
    return curves, notes


def _fitting(given: Direction | Directions, own: Vectors) -> Vectors:
    made = Directions.of(given) if isinstance(given, Direction) else given
    if missing := [s for s in own if s not in made]:
        raise InputError(
            f"a shuffled direction lacks {missing[0]}, where the direction is: fit them at the same sites."
        )
    return {s: made[s].vector.detach().float().cpu() for s in own}


def _moved_layers(model: Model, own: Vectors) -> Vectors | None:
    """The same vectors half the layers further on, round the end; with vectors everywhere each layer gets another's."""
    out: Vectors = {}
    for site, vector in own.items():
        found = re.search(r"(?<=layers\.)\d+", site)
        if found is None:
            return None
        layer = (int(found[0]) + model.n_layers // 2) % model.n_layers
        there = f"{site[: found.start()]}{layer}{site[found.end() :]}"
        if there == site or there not in model.sites:
            return None
        out[there] = vector
    return out
