"""The one figure of a result: its series as `Drawing` says, through `view`."""

from collections.abc import Mapping, Sequence
from typing import Any

from inscape.core.drawing import Drawing
from inscape.core.errors import PaperError
from inscape.core.paper import Result
from inscape.view import charts
from inscape.view.png import png


def figure(result: Result) -> dict[str, Any]:
    """The figure as a Vega-Lite spec.

    Without a `Drawing`: every series along one axis as lines, else what was measured as bars, its controls as ticks.
    Raises: PaperError when a drawing names a series that is not there; MissingExtraError without `inscape[report]`.
    """
    drawing = result.figure or Drawing()
    title = drawing.title or result.paper.title
    names = drawing.show or tuple(n for n in result.series if n not in _beside(drawing))
    if not names:
        return _measured(result, title)
    shown, beside = _series(result, names), _series(result, drawing.control)
    steps = list(drawing.x) or None
    titles: dict[str, Any] = {"x_title": drawing.x_title, "y_title": drawing.y_title, "title": title}
    if drawing.kind == "heatmap":
        rows = shown[names[0]]
        columns = steps or range(len(rows[0]) if rows and isinstance(rows[0], list) else 0)
        cells = [value for row in rows if isinstance(row, list) for value in row]
        return charts.heatmap(
            rows, list(drawing.y) or range(len(rows)), columns, value_title=names[0],
            diverging=min(cells, default=0) < 0 < max(cells, default=0), rows_up=drawing.y_title == "layer", **titles,
        )  # fmt: skip
    if drawing.kind == "dots":
        x, y = list(shown.values())[:2] if len(shown) > 1 else _pair(result, names)
        grey = list(beside.values())
        titles |= {"x_title": drawing.x_title or names[0], "y_title": drawing.y_title or names[1]}
        labels = [str(step) for step in steps or ()]
        return charts.dots(
            x, y, names=labels or None, label=labels if len(labels) <= 15 else (), control_label=next(iter(beside), ""),
            control=(grey[0], grey[1]) if len(grey) > 1 else None, x_scale=drawing.scale,
            y_scale=drawing.scale, **titles,
        )  # fmt: skip
    if drawing.kind == "bars":
        (name, values), *_ = shown.items()
        keys = [str(step) for step in steps or range(len(values))]
        grey = next(iter(beside.items()), None)
        ends = _series(result, drawing.band[name]) if name in drawing.band else None
        return charts.bars(
            dict(zip(keys, values, strict=True)), chance=drawing.chance,
            control=dict(zip(keys, grey[1], strict=True)) if grey else None,
            control_label=grey[0] if grey else "control",
            interval=dict(zip(keys, zip(*ends.values(), strict=True), strict=True)) if ends else None,
            sideways=max(map(len, keys)) > 12, **titles,
        )  # fmt: skip
    band = {name: tuple(_series(result, ends).values()) for name, ends in drawing.band.items()}
    return charts.lines(shown, x=steps, control=beside or None, band=band or None, scale=drawing.scale, **titles)


def figure_png(result: Result) -> bytes:
    """The figure as PNG bytes, sharp on a screen."""
    return png(figure(result))


def _beside(drawing: Drawing) -> set[str]:
    return {*drawing.control, *(end for ends in drawing.band.values() for end in ends)}


def _series(result: Result, names: Sequence[str]) -> dict[str, Any]:
    missing = [name for name in names if name not in result.series]
    if missing:
        raise PaperError(
            f"the figure of {result.paper.name!r} draws {missing[0]!r}, which was not measured.\n"
            f"  its series are {', '.join(map(repr, result.series)) or 'none'}."
        )
    return {name: result.series[name] for name in names}


def _pair(result: Result, names: Sequence[str]) -> Any:
    raise PaperError(f"the figure of {result.paper.name!r} needs two series for its dots, and names {len(names)}.")


def _measured(result: Result, title: str) -> dict[str, Any]:
    finite: Mapping[str, float] = {v.claim.name: v.measured for v in result.verdicts if v.measured is not None}
    if not finite:
        raise PaperError(f"{result.paper.name!r} measured nothing that could be drawn.")
    controls = {v.claim.name: v.control for v in result.verdicts if v.control is not None and v.claim.name in finite}
    return charts.bars(finite, control=controls or None, sideways=True, title=title)
