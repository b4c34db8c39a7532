"""Which series of a result its one figure shows, and how: words only, drawn by `view`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Drawing:
    """How a result is drawn.

    kind: "lines" along an axis, "bars" one a name, "dots" the first two series against each other, "heatmap" one
    series of rows. show: series that are drawn; all that are not controls if left out. control: series drawn in grey
    beside them (for bars, one for the whole figure). band: series -> the two series of its ends.
    x, y: values or names along the axes (of bars: the names; of dots: the name of each; y of a heatmap: its rows, the
    last on top where y_title is "layer"). A heatmap of both signs has colours that part at zero.
    """

    kind: Literal["lines", "bars", "dots", "heatmap"] = "lines"
    show: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    band: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    x: tuple[str | float, ...] = ()
    y: tuple[str | float, ...] = ()
    x_title: str = ""
    y_title: str = ""
    scale: Literal["linear", "log", "symlog"] = "linear"
    chance: int | float | None = None
    title: str = ""
    caption: str = ""
