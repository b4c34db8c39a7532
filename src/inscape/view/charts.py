"""Figures as Vega-Lite specs: lines, bars, a heatmap and dots, each with its control drawn in grey beside it.

Every function takes plain values (lists, arrays, tensors) and gives a plain dict: no method, model or engine is known
here. A spec names roles and never colours; `theme.vega_config` decides how they look, so one spec serves paper and
screen, light and dark.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inscape.core.errors import ShapeError
from inscape.core.extra import report_package
from inscape.view.chart_parts import TIP, Scale, along, finished, known, legend_columns, upward, within_budget
from inscape.view.heatmap import heatmap
from inscape.view.numbers import number, plain, row

__all__ = ["bars", "dots", "heatmap", "lines"]

DASHES = ([5, 4], [2, 3], [9, 4], [9, 3, 2, 3])


def lines(
    series: Mapping[str, Iterable[Any]],
    *,
    x: Iterable[Any] | None = None,
    band: Mapping[str, tuple[Iterable[Any], Iterable[Any]]] | None = None,
    control: Mapping[str, Iterable[Any]] | None = None,
    x_title: str = "layer",
    y_title: str = "",
    scale: Scale = "linear",
    zero: bool = False,
    title: str = "",
    width: int = 680,
    height: int = 260,
) -> dict[str, Any]:
    """Values along the layers (or any axis): one coloured line a series, controls dashed in grey.

    Choose it when the order along x means something; choose `bars` for things without an order. Values that are not
    finite are gaps. `band` gives (low, high) of a series or control by its name; `x` is 0, 1, 2 ... unless given; names
    are fine.

    Raises: ShapeError for series of different lengths, or a band without its series.
    """
    alt = report_package("altair", "a chart")
    controls = dict(control or {})
    named = {**series, **controls}
    if not series or len(named) != len(series) + len(controls):
        raise ShapeError("lines needs at least one series, and names that differ between series and controls.")
    first = plain(next(iter(series.values())))
    steps = list(range(len(first))) if x is None else list(plain(x))
    values = {name: row(line, f"series {name!r}", len(steps)) for name, line in named.items()}
    within_budget(len(steps) * len(values))
    across = along(alt, steps, x_title)
    up = upward(alt, [v for line in values.values() for v in line], y_title, scale, zero)

    def rows(names: Iterable[str]) -> Any:
        return alt.Data(
            values=[
                {"x": at, "y": y, "series": name} for name in names for at, y in zip(steps, values[name], strict=True)
            ]
        )

    wide = legend_columns([list(series), list(controls)], width)
    legend = alt.Legend(symbolType="stroke", symbolOpacity=1, columns=wide[0]) if len(named) > 1 else None
    colour = alt.Color("series:N", scale=alt.Scale(domain=list(series), range="category"), legend=legend)
    layers = []
    if band:
        known("band", band, named)
        for those, how in ((controls, {"style": "control", "strokeWidth": 0}), (series, {"color": colour})):
            mine = {name: ends for name, ends in band.items() if name in those}
            layers += [_band(alt, mine, steps, across, **how)] if mine else []
    dots = {"point": {"size": 28, "filled": True}} if len(steps) <= 40 else {}
    layers.append(alt.Chart(rows(series)).mark_line(**dots).encode(x=across, y=up, color=colour))
    if controls:
        dash = alt.StrokeDash(
            "series:N",
            scale=alt.Scale(domain=list(controls), range=[DASHES[i % len(DASHES)] for i in range(len(controls))]),
            # the later dashes are long: a short stroke would not tell them apart
            legend=alt.Legend(
                symbolType="stroke", columns=wide[1], **({"symbolSize": 900} if len(controls) > 2 else {})
            ),
        )
        base = alt.Chart(rows(controls)).mark_line(style="control", strokeWidth=1.75)
        layers.append(base.encode(x=across, y=up, strokeDash=dash))
    layers.append(_hover_rule(alt, steps, values, across, x_title))
    return finished(alt.layer(*layers), title, width, height)


def bars(
    values: Mapping[str, Any],
    *,
    chance: float | None = None,
    chance_label: str = "chance",
    control: Mapping[str, Any] | None = None,
    control_label: str = "control",
    interval: Mapping[str, tuple[Any, Any]] | None = None,
    group: Mapping[str, str] | None = None,
    x_title: str = "",
    y_title: str = "",
    sideways: bool = False,
    title: str = "",
    width: int = 680,
    height: int | None = None,
) -> dict[str, Any]:
    """One bar a name, a dashed rule at chance, and beside each bar a grey tick where its control came out.

    Choose `sideways` for long names. `interval` draws (low, high) on a bar; `group` colours bars by kind. Bars begin
    at zero always; for values far from it choose `dots`. Names keep the order they are given in.

    Raises: ShapeError without values, or for a control, interval or group of a name that has no bar.
    """
    alt = report_package("altair", "a chart")
    if not values:
        raise ShapeError(
            "bars needs at least one value.\n  a section without values is better skipped with its reason."
        )
    for what, extra in (("control", control), ("interval", interval), ("group", group)):
        known(what, extra, values)
    names = list(values)
    rows = [{"name": name, "value": number(values[name]), "group": (group or {}).get(name, "")} for name in names]
    side = (alt.X if sideways else alt.Y)("value:Q", title=y_title or None, axis=alt.Axis(tickCount=6))
    flat = sideways or sum(map(len, names)) + len(names) <= 90
    labels = alt.Axis(labelAngle=0 if flat else -60, labelLimit=220, grid=False, domain=False, ticks=False)
    key = (alt.Y if sideways else alt.X)(
        "name:N", sort=names, title=x_title or None, axis=labels, scale=alt.Scale(paddingInner=0.24)
    )
    place = {"y" if sideways else "x": key}
    across = "x" if sideways else "y"
    tips = [
        alt.Tooltip("name:N", title=x_title or "name"),
        alt.Tooltip("value:Q", title=y_title or "value", format=TIP),
    ]
    encoding = {**place, across: side, "tooltip": tips}
    if group:
        encoding["color"] = alt.Color(
            "group:N", scale=alt.Scale(domain=list(dict.fromkeys(group.values())), range="category")
        )
    layers = [alt.Chart(alt.Data(values=rows)).mark_bar(cornerRadiusEnd=2).encode(**encoding)]
    if interval:
        spans = [{"name": n, "low": number(low), "high": number(high)} for n, (low, high) in interval.items()]
        ends = {across: (alt.X if sideways else alt.Y)("low:Q"), f"{across}2": "high:Q"}
        layers.append(alt.Chart(alt.Data(values=spans)).mark_rule(style="interval").encode(**place, **ends))
    if control:
        ticks = [{"name": n, "value": number(v), "what": control_label} for n, v in control.items()]
        stroke = "M0,-1V1" if sideways else "M-1,0H1"
        shape = alt.Shape("what:N", scale=alt.Scale(range=[stroke]), legend=alt.Legend(symbolSize=120))
        mark = alt.Chart(alt.Data(values=ticks)).mark_point(
            style="control", size=170, strokeWidth=2.5, opacity=1, filled=False
        )
        at = {**place, across: (alt.X if sideways else alt.Y)("value:Q")}
        # A ring of paper keeps the tick apart from a bar that is longer than it.
        base = alt.Chart(alt.Data(values=ticks))
        layers.append(base.mark_point(style="halo", shape=stroke, size=210, strokeWidth=6, filled=False).encode(**at))
        layers.append(
            mark.encode(
                **at,
                shape=shape,
                tooltip=[alt.Tooltip("name:N"), alt.Tooltip("value:Q", title=control_label, format=TIP)],
            )
        )
    if chance is not None:
        layers += _chance(alt, float(chance), chance_label, sideways)
    tall = height if height is not None else (max(60, 24 * len(names)) if sideways else 240)
    return finished(alt.layer(*layers), title, width, tall)


def dots(
    x: Iterable[Any],
    y: Iterable[Any],
    *,
    names: Sequence[str] | None = None,
    group: Sequence[str] | None = None,
    control: tuple[Iterable[Any], Iterable[Any]] | None = None,
    control_label: str = "control",
    x_title: str = "",
    y_title: str = "",
    x_scale: Scale = "linear",
    y_scale: Scale = "linear",
    label: Sequence[str] = (),
    title: str = "",
    width: int = 680,
    height: int = 340,
) -> dict[str, Any]:
    """One dot a pair of values; control pairs are hollow and grey; the names in `label` are written beside their dots.

    Choose it for two numbers of one thing (a head's score against its effect). Pairs with a gap are not drawn.

    Raises: ShapeError when x, y, names and group differ in length, or a label is no name.
    """
    alt = report_package("altair", "a chart")
    right, up = row(x, "x"), row(y, "y")
    listed, kinds = list(names or [""] * len(right)), list(group or [""] * len(right))
    if not len(right) == len(up) == len(listed) == len(kinds):
        raise ShapeError(
            f"dots has {len(right)} x, {len(up)} y, {len(listed)} names and {len(kinds)} groups.\n"
            f"  give one of each a dot."
        )
    known("label", dict.fromkeys(label), dict.fromkeys(listed))
    within_budget(len(right))
    points = [
        {"x": a, "y": b, "name": n, "group": g}
        for a, b, n, g in zip(right, up, listed, kinds, strict=True)
        if a is not None and b is not None
    ]
    east = alt.X(
        "x:Q",
        title=x_title or None,
        scale=alt.Scale(type=x_scale, zero=False, nice=True),
        axis=alt.Axis(grid=True, tickCount=7),
    )
    north = alt.Y("y:Q", title=y_title or None, scale=alt.Scale(type=y_scale, zero=False, nice=True))
    tips = [
        alt.Tooltip("name:N"),
        alt.Tooltip("x:Q", title=x_title or "x", format=TIP),
        alt.Tooltip("y:Q", title=y_title or "y", format=TIP),
    ]
    encoding: dict[str, Any] = {"x": east, "y": north, "tooltip": tips}
    if group is not None:
        encoding["color"] = alt.Color("group:N", scale=alt.Scale(domain=list(dict.fromkeys(kinds)), range="category"))
    layers = [alt.Chart(alt.Data(values=points)).mark_circle(size=52, opacity=0.85).encode(**encoding)]
    if control is not None:
        cx, cy = row(control[0], "control x"), row(control[1], "control y")
        null = [
            {"x": a, "y": b, "what": control_label}
            for a, b in zip(cx, cy, strict=True)
            if a is not None and b is not None
        ]
        shape = alt.Shape("what:N", scale=alt.Scale(range=["circle"]))
        layers.append(
            alt.Chart(alt.Data(values=null))
            .mark_point(style="control", size=34, strokeWidth=1.25, filled=False)
            .encode(x=east, y=north, shape=shape)
        )
    chosen = [point for point in points if point["name"] in set(label)]
    if chosen:
        layers.append(
            alt.Chart(alt.Data(values=chosen))
            .mark_text(style="chance-label", align="left", dx=8)
            .encode(x=east, y=north, text="name:N")
        )
    return finished(alt.layer(*layers), title, width, height)


def _band(alt: Any, band: Mapping[str, Any], steps: list[Any], across: Any, color: Any = None, **style: Any) -> Any:
    """Areas between two ends: coloured by their series, or in the style of a control, one apart from another."""
    rows = []
    for name, (low, high) in band.items():
        ends = row(low, f"band of {name!r}", len(steps)), row(high, f"band of {name!r}", len(steps))
        rows += [
            {"x": x, "low": a, "high": b, "series": name}
            for x, a, b in zip(steps, *ends, strict=True)
            if a is not None and b is not None
        ]
    kinds = {"color": color} if color is not None else {"detail": "series:N"}
    area = alt.Chart(alt.Data(values=rows)).mark_area(opacity=0.16, **style)
    return area.encode(x=across, y=alt.Y("low:Q"), y2="high:Q", **kinds)


def _hover_rule(alt: Any, steps: list[Any], values: Mapping[str, list[float | None]], across: Any, x_title: str) -> Any:
    """A rule that follows the pointer to the nearest x, with every series' value there in one tooltip."""
    keys = {name: f"v{index}" for index, name in enumerate(values)}
    wide = [{"x": x, **{keys[name]: values[name][index] for name in values}} for index, x in enumerate(steps)]
    tips = [alt.Tooltip("x", type=across.to_dict()["type"], title=x_title or "x")]
    tips += [alt.Tooltip(keys[name], type="quantitative", title=name, format=TIP) for name in values]
    near = alt.selection_point(
        name="near", nearest=True, on="pointermove", clear="pointerout", fields=["x"], empty=False
    )
    shown = alt.when(near).then(alt.value(1)).otherwise(alt.value(0))
    return (
        alt.Chart(alt.Data(values=wide), name="rule")
        .mark_rule(style="hover-rule")
        .encode(x=across, opacity=shown, tooltip=tips)
        .add_params(near)
    )


def _chance(alt: Any, chance: float, label: str, sideways: bool) -> list[Any]:
    data = alt.Data(values=[{"chance": chance, "label": f"{label} {chance:.3g}"}])
    at = {"x": alt.X("chance:Q")} if sideways else {"y": alt.Y("chance:Q")}
    edge = {"y": alt.value(-3)} if sideways else {"x": alt.value("width")}
    # The label stands in the margin beyond the rule, where no bar can lie under it.
    text = {"align": "center", "baseline": "bottom"} if sideways else {"align": "left", "baseline": "middle", "dx": 6}
    base = alt.Chart(data)
    return [
        base.mark_rule(style="halo", strokeWidth=4).encode(**at),
        base.mark_rule(style="chance").encode(**at),
        base.mark_text(style="chance-label", **text).encode(**at, **edge, text="label:N"),
    ]
