"""Several charts as one figure: panels in rows, lettered as in print."""

from collections.abc import Sequence
from typing import Any

from inscape.core.errors import ShapeError
from inscape.view.theme import LIGHT, vega_config


def panels(rows: Sequence[Sequence[dict[str, Any]]], *, title: str = "", letters: bool = True) -> dict[str, Any]:
    """Charts, as `charts` makes them, side by side in rows: one Vega-Lite spec, each panel with its own scales.

    The titles of the charts stand above them, after a letter where `letters`. Choose the charts' own width and height
    so that the rows are equally wide.
    Raises: ShapeError without charts.
    """
    if not rows or not all(rows):
        raise ShapeError("panels needs at least one chart in every row.")
    number, lines = 0, []
    for row in rows:
        made = []
        for chart in row:
            spec = {k: v for k, v in chart.items() if k not in ("config", "$schema", "datasets")}
            text = spec.pop("title", "")
            said = f"{'abcdefghijklmnopqrstuvwxyz'[number % 26]}   {text}" if letters else text
            made.append({**spec, **({"title": said} if said else {})})
            number += 1
        lines.append({"hconcat": made, "spacing": 56})
    apart = {"scale": {"color": "independent", "strokeDash": "independent", "shape": "independent"}}
    schema = rows[0][0].get("$schema", "https://vega.github.io/schema/vega-lite/v6.json")
    spec = {"$schema": schema, "vconcat": lines, "spacing": 44, "resolve": apart, "config": vega_config(LIGHT)}
    return {**spec, "title": title} if title else spec
