"""A labelled array as colour, one Vega-Lite spec."""

from collections.abc import Iterable, Sequence
from typing import Any

from inscape.core.extra import report_package
from inscape.view.chart_parts import TIP, finished, within_budget
from inscape.view.numbers import grid


def heatmap(
    values: Iterable[Any],
    rows: Sequence[Any],
    columns: Sequence[Any],
    *,
    diverging: bool = False,
    value_title: str = "",
    x_title: str = "",
    y_title: str = "",
    rows_up: bool = False,
    numbers: bool | None = None,
    title: str = "",
    width: int = 680,
    height: int | None = None,
) -> dict[str, Any]:
    """A labelled array `[row, column]` as colour; `diverging` centres the colours on zero, with equal reach both ways.

    Choose `rows_up` for layers, so that the last is on top. Numbers are written into the cells when there are at most
    120, or as `numbers` says. A value that is not finite leaves its cell empty.

    Raises: ShapeError when labels and values do not fit, or for more than 40,000 cells.
    """
    alt = report_package("altair", "a chart")
    table = grid(values, "the heatmap", len(rows), len(columns))
    within_budget(len(rows) * len(columns))
    down, across = [str(label) for label in rows], [str(label) for label in columns]
    present = [value for line in table for value in line if value is not None] or [0.0]
    reach = max(abs(value) for value in present) or 1.0
    low, high = (-reach, reach) if diverging else (min(present), max(present))
    # Cells are keyed by index: two rows may carry the same label, as tokens do.
    cells = [
        {
            "i": i,
            "j": j,
            "row": down[i],
            "column": across[j],
            "value": value,
            "strong": _is_strong(value, low, high, diverging),
        }
        for i, line in enumerate(table)
        for j, value in enumerate(line)
        if value is not None
    ]
    order = list(range(len(down)))
    x = alt.X(
        "j:O",
        title=x_title or None,
        scale=alt.Scale(domain=list(range(len(across))), paddingInner=0.03),
        axis=_labelled(alt, across, 40),
    )
    y = alt.Y(
        "i:O",
        title=y_title or None,
        scale=alt.Scale(domain=order[::-1] if rows_up else order, paddingInner=0.05),
        axis=_labelled(alt, down, 60),
    )
    scale = alt.Scale(
        domain=[low, high],
        interpolate="lab",
        range="diverging" if diverging else "ramp",
        **({"domainMid": 0} if diverging else {}),
    )
    colour = alt.Color("value:Q", scale=scale, legend=alt.Legend(title=value_title or None))
    tips = [
        alt.Tooltip("row:N", title=y_title or "row"),
        alt.Tooltip("column:N", title=x_title or "column"),
        alt.Tooltip("value:Q", title=value_title or "value", format=TIP),
    ]
    base = alt.Chart(alt.Data(values=cells))
    layers = [base.mark_rect(cornerRadius=2).encode(x=x, y=y, color=colour, tooltip=tips)]
    if numbers if numbers is not None else len(rows) * len(columns) <= 120:
        text = alt.Text("value:Q", format=".2~f" if reach < 100 else ".3~s")
        for style, strong in (("cell-label", False), ("cell-label-strong", True)):
            layers.append(
                base.transform_filter(f"datum.strong === {str(strong).lower()}")
                .mark_text(style=style)
                .encode(x=x, y=y, text=text)
            )
    return finished(
        alt.layer(*layers), title, width, height if height is not None else min(640, max(60, 24 * len(rows)))
    )


def _labelled(alt: Any, labels: list[str], most: int) -> Any:
    """An axis over indices that shows labels, thinned out to what can be read."""
    every = -(-len(labels) // most)
    shown = list(range(0, len(labels), every))
    names = "{" + ",".join(f"'{index}':{_quoted(labels[index])}" for index in shown) + "}"
    upright = max((len(label) for label in labels), default=0) * len(shown) <= 84
    return alt.Axis(
        values=shown,
        labelExpr=f"({names})[datum.value]",
        labelAngle=0 if upright or most > 40 else -60,
        labelLimit=140,
        domain=False,
        ticks=False,
        grid=False,
    )


def _quoted(text: str) -> str:
    """A string literal of Vega's expression language, whatever the label is made of."""
    return (
        "'"
        + "".join(
            char
            if char.isalnum() or char in " .-+·"
            else f"\\u{{{ord(char):x}}}"
            if ord(char) > 0xFFFF
            else f"\\u{ord(char):04x}"
            for char in text
        )
        + "'"
    )


def _is_strong(value: float | None, low: float, high: float, diverging: bool) -> bool:
    if value is None or high == low:
        return False
    return abs(value) / high > 0.62 if diverging else (value - low) / (high - low) > 0.55
