"""What the charts share: axes, the budget of marks, and the finishing of a spec."""

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any, Literal

from inscape.core.errors import ShapeError
from inscape.view.theme import LIGHT, vega_config

MAX_MARKS = 40_000  # an SVG of more takes seconds to draw and tens of MB
TIP = ".4~g"  # numbers in tooltips
Scale = Literal["linear", "log", "symlog"]
TITLE_LETTER = 8  # about as many pixels a letter of a title takes
LEGEND_LETTER, LEGEND_SYMBOL = 6.4, 42  # a letter of a name in a legend, and its mark with the room around it


def upward(alt: Any, values: list[float | None], title: str, scale: Scale, zero: bool) -> Any:
    """The y axis; on a log scale lines at 1, 2, 5 or only at the powers of ten, not at all nine between."""
    if scale != "log":
        return alt.Y("y:Q", title=title or None, scale=alt.Scale(type=scale, zero=zero))
    above = [value for value in values if value is not None and value > 0]
    if not above or len(above) < sum(value is not None for value in values):
        raise ShapeError("a log scale needs values above zero, and some are not.\n  take scale='symlog' or 'linear'.")
    low, high = math.floor(math.log10(min(above))), math.ceil(math.log10(max(above)))
    marks = [step * 10.0**power for power in range(low, high + 1) for step in ((1, 2, 5) if high - low <= 3 else (1,))]
    return alt.Y(
        "y:Q",
        title=title or None,
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=marks, tickCount=len(marks), format="~g", labelOverlap=False),
    )


def along(alt: Any, steps: list[Any], title: str) -> Any:
    """The x axis: a number line for numbers, names in their order for anything else."""
    if all(isinstance(step, (int, float)) for step in steps):
        whole = all(float(step).is_integer() for step in steps)
        return alt.X(
            "x:Q",
            title=title or None,
            scale=alt.Scale(nice=False, zero=False, padding=8),
            axis=alt.Axis(tickMinStep=1) if whole else alt.Axis(),
        )
    angle = 0 if len(steps) <= 14 else -60
    return alt.X(
        "x:O", sort=steps, title=title or None, axis=alt.Axis(labelAngle=angle, labelOverlap="greedy", labelLimit=160)
    )


def known(what: str, given: Mapping[str, Any] | None, names: Mapping[str, Any]) -> None:
    unknown = [name for name in given or {} if name not in names]
    if unknown:
        raise ShapeError(
            f"{what} names {', '.join(map(repr, unknown[:5]))}, which is not drawn.\n"
            f"  there is {', '.join(map(repr, list(names)[:8]))}."
        )


def within_budget(marks: int) -> None:
    if marks > MAX_MARKS:
        raise ShapeError(
            f"this chart would draw {marks:,} marks; a readable one has at most {MAX_MARKS:,}.\n"
            f"  reduce the values first, or give fewer rows."
        )


def legend_columns(legends: Sequence[Sequence[str]], width: int) -> list[int]:
    """Columns of legends that stand side by side, so that they fit into a width in as few rows as can be."""
    columns = [1] * len(legends)
    for rows in range(max(map(len, legends)), 0, -1):  # the fewest rows last
        wider = [max(1, math.ceil(len(names) / rows)) for names in legends]
        if sum(_legend_width(names, n) for names, n in zip(legends, wider, strict=True)) <= width:
            columns = wider
    return columns


def _legend_width(names: Sequence[str], columns: int) -> float:
    """Every column is as wide as the longest name in it; names go on row by row."""
    longest = [max((len(name) for name in names[i::columns]), default=0) for i in range(columns)]
    return sum((LEGEND_SYMBOL + LEGEND_LETTER * n for n in longest if n), 0.0)


def finished(chart: Any, title: str, width: int, height: int) -> dict[str, Any]:
    sized = chart.properties(width=width, height=height)
    written = wrap(title, max(40, width // TITLE_LETTER))  # a title wider than its chart would make it all margin
    spec = (sized.properties(title=written if len(written) > 1 else title) if title else sized).to_dict()
    return {**spec, "config": vega_config(LIGHT)}
