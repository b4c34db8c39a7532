"""A sweep's grid as a figure: sites up, positions across, each cell what its edit did."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.grid import Grid
from inscape.view.heatmap import heatmap

SHOWN = ("change", "share", "raw")


def grid_figure(grid: Grid, *, show: str = "change", title: str = "", width: int = 680) -> dict[str, Any]:
    """A heatmap [site, position] (or [site, head]) as a Vega-Lite spec; the last site is on top.

    show: "change", the metric less that of the base run; "share", of the way to the other run (`normalised`); "raw".
    Columns are named after the tokens where the positions are all of one prompt's. Heads and positions together stand
    side by side, position by position.
    Raises: InputError for a grid of one axis and an unknown `show`; whatever `normalised` raises.
    """
    if show not in SHOWN:
        raise InputError(f"show={show!r}: it can be {', '.join(SHOWN)}.")
    if len(grid.axes) < 2:
        raise InputError(f"a grid along {grid.axes} alone is no heatmap; draw grid.values as bars.")
    values = {"change": lambda: grid.values - grid.base.mean(), "share": grid.normalised, "raw": lambda: grid.values}
    shown: Tensor = values[show]()
    columns = _columns(grid)
    said = {"change": f"change of {grid.metric}", "share": "share of the difference", "raw": grid.metric}[show]
    return heatmap(
        shown.flatten(1).tolist(), [str(s) for s in grid.sites], columns, diverging=show != "raw", value_title=said,
        rows_up=True, numbers=False, title=title or f"{grid.edit}: {said}", width=width,
    )  # fmt: skip


def _columns(grid: Grid) -> list[str]:
    positions: Sequence[Any] = grid.positions
    if positions and all(isinstance(p, int) for p in positions) and len(positions) == len(grid.tokens):
        positions = [t.strip() or repr(t) for t in grid.tokens]
    names = [str(p) for p in positions] or [""]
    heads = [f"head {h}" for h in grid.heads] or [""]
    return [f"{p} {h}".strip() for p in names for h in heads]
