"""The few words that several sections share: names of layers and counted things."""

import re
from collections.abc import Sequence

_LAYER = re.compile(r"(?:layers\.(\d+)|stages\.(\d+)\.blocks\.(\d+))")


def number_of(name: str) -> str:
    """ "layer 3" for any site or block of it."""
    found = _LAYER.search(name)
    if found is None:
        return name
    return f"layer {found[1]}" if found[1] else f"stage {found[2]} block {found[3]}"


def layer_labels(names: Sequence[str]) -> list[str]:
    """Layer numbers as labels of an axis."""
    return [number_of(name).removeprefix("layer ") for name in names]


def layer_axis(names: Sequence[str]) -> list[int | str]:
    """The same as numbers where they are numbers."""
    labels = layer_labels(names)
    return [int(label) for label in labels] if all(label.isdigit() for label in labels) else list(labels)


def times(n: int, one: str, many: str = "") -> str:
    """ "1 head", "3 heads"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
