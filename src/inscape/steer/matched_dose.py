"""The smallest dose that reaches a wanted effect, so that two ways of steering are compared at the same effect."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from inscape.core.errors import InputError


def matched_dose(
    effect: Callable[[float], float], wanted: float, doses: Sequence[float], *, halvings: int = 8
) -> float | None:
    """The smallest dose whose effect is `wanted`, or None where none of `doses` reaches it.

    Doses are tried from the smallest until one reaches it, and the stretch before that is halved. Effects of steering
    rise and fall again, where a search between the ends would find the far side. effect: of a dose, higher is more.
    Cost: an effect a dose up to the first that reaches it, and one a halving.
    Raises: InputError for doses that do not rise from above 0.
    """
    if not doses or any(b <= a for a, b in pairwise((0.0, *doses))):
        raise InputError(f"doses={list(doses)}: give them above 0, from the smallest to the largest.")
    low = 0.0
    for high in doses:
        if effect(high) >= wanted:
            break
        low = high
    else:
        return None
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (low, middle) if effect(middle) >= wanted else (middle, high)
    return high
