"""Several charts as one figure: panels in rows, lettered as in print."""

from collections.abc import Collection, Sequence
from typing import Any

from inscape.core.errors import ShapeError
from inscape.view.theme import LIGHT, vega_config

CHANNELS = ("color", "strokeDash", "shape")


def panels(
    rows: Sequence[Sequence[dict[str, Any]]],
    *,
    own_colours: Collection[int] = (),
    title: str = "",
    letters: bool = True,
) -> dict[str, Any]:
    """Charts, as `charts` makes them, side by side in rows: one Vega-Lite spec, each panel with its own axes.

    The charts of a row share their colours and one legend, but for the rows (counted from 0) in `own_colours`: maps of
    other quantities. Titles stand above their charts, after a letter where `letters`. Choose the charts' own width and
    height so that the rows are equally wide.
    Raises: ShapeError without charts.
    """
    if not rows or not all(rows):
        raise ShapeError("panels needs at least one chart in every row.")
    number, lines = 0, []
    for i, row in enumerate(rows):
        made = []
        for chart in row:
            spec = {k: v for k, v in chart.items() if k not in ("config", "$schema", "datasets")}
            text = spec.pop("title", "")
            said = f"{'abcdefghijklmnopqrstuvwxyz'[number % 26]}\u2002{text}" if letters else text
            made.append({**spec, **({"title": said} if said else {})})
            number += 1
        how = {"scale": dict.fromkeys(CHANNELS, "independent" if i in own_colours else "shared")}
        lines.append({"hconcat": made, "spacing": 56, "resolve": how})
    apart = {"scale": dict.fromkeys(CHANNELS, "independent")}
    schema = rows[0][0].get("$schema", "https://vega.github.io/schema/vega-lite/v6.json")
    spec = {"$schema": schema, "vconcat": lines, "spacing": 44, "resolve": apart, "config": vega_config(LIGHT)}
    return {**spec, "title": title} if title else spec
