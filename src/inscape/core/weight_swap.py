"""Other values in a model's own parameters, and the former ones back, bit by bit."""

from collections.abc import Mapping

import torch
from torch import Tensor

from inscape.core.errors import ModelError


def swap_weights(
    places: Mapping[str, Tensor], there: Mapping[str, Tensor], other: Mapping[str, Tensor], when: str
) -> None:
    """Write `other` into parameters that hold `there`, by name; nothing is written where one of them was changed.

    when: what was done to them last ("tuned"), for the error. Raises: ModelError where the change would be lost.
    """
    changed = [name for name, place in places.items() if not torch.equal(place, there[name])]
    if changed:
        raise ModelError(
            f"{changed[0]} was changed since it was {when}; putting other weights there would lose that change.\n"
            "  undo the later change first."
        )
    with torch.no_grad():
        for name, place in places.items():
            place.copy_(other[name])
