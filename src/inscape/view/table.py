"""The data of a plain table: columns with names, rows of text and numbers."""

from collections.abc import Sequence
from typing import Any

from inscape.core.errors import ShapeError
from inscape.view.text import escape


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Data for a `Figure("table", ...)`; numbers are set right and shortened, None is a dash.

    Choose it when the reader looks values up; a pattern is seen sooner in a chart.
    Raises: ShapeError when a row is not as long as the columns.
    """
    for index, line in enumerate(rows):
        if len(line) != len(columns):
            raise ShapeError(f"row {index} has {len(line)} cells where there are {len(columns)} columns.")
    return {"columns": [str(name) for name in columns], "rows": [list(line) for line in rows]}


def table_html(data: dict[str, Any]) -> str:
    """The table as HTML, every cell escaped."""
    columns, rows = data["columns"], data["rows"]
    right = [
        all(_is_number(line[at]) or line[at] is None for line in rows) and bool(rows) for at in range(len(columns))
    ]
    head = "".join(f'<th scope="col"{_class(right[at])}>{escape(name)}</th>' for at, name in enumerate(columns))
    body = "".join(
        "<tr>"
        + "".join(f"<td{_class(right[at])}>{escape(_shown(value))}</td>" for at, value in enumerate(line))
        + "</tr>"
        for line in rows
    )
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _class(right: bool) -> str:
    return ' class="number"' if right else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    if value is None:
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}".replace("-", "\u2212")
    return str(value).replace("\n", "\u21b5").replace("\t", "\u21e5")  # a cell is one line; a token may be a newline
