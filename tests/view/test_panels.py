"""Panels hold their charts unchanged, lettered, and are drawn as one picture."""

import pytest

from inscape.core.errors import ShapeError
from inscape.view.charts import heatmap, lines
from inscape.view.panels import panels
from inscape.view.png import png


def test_panels_are_lettered_in_reading_order_and_drawn():
    curve = lines({"a": [1, 2, 3]}, control={"null": [1, 1, 1]}, title="Growth", width=200, height=120)
    cells = heatmap([[0.1, -0.9]], ["a"], ["x", "y"], diverging=True, width=80)
    spec = panels([[curve, cells], [curve]], title="All of it", own_colours=(0,))
    assert [row["resolve"]["scale"]["color"] for row in spec["vconcat"]] == ["independent", "shared"]
    (first, second), (third,) = (row["hconcat"] for row in spec["vconcat"])
    assert [c.get("title") for c in (first, second, third)] == ["a\u2002Growth", "b\u2002", "c\u2002Growth"]
    assert first["layer"] == curve["layer"]
    assert png(spec, scale=1.0).startswith(b"\x89PNG")
    assert "title" not in panels([[cells]], letters=False)["vconcat"][0]["hconcat"][0]


def test_no_chart_is_no_figure():
    for rows in ([], [[]]):
        with pytest.raises(ShapeError, match="at least one chart in every row"):
            panels(rows)


def test_a_title_wider_than_its_chart_is_broken_into_lines():
    from inscape.view.charts import bars

    long = (
        "A title that goes on and on until it is as wide as three charts beside one another, and then some more of it"
    )
    written = bars({"a": 1.0, "b": 2.0}, title=long)["title"]
    assert isinstance(written, list)
    assert " ".join(written) == long
    assert bars({"a": 1.0}, title="short")["title"] == "short"
