import json
import math

import pytest
import torch

from inscape.core.errors import InputError, MissingExtraError, ShapeError
from inscape.core.extra import report_package
from inscape.view.charts import bars, dots, heatmap, lines
from inscape.view.png import png, svg

CHARTS = {
    "lines": lambda: lines({"a": [1, 2, 3]}, control={"null": [1, 1, 1]}, band={"a": ([0, 1, 2], [2, 3, 4])}),
    "named": lambda: lines({"a": [1, 10, 100], "b": [2, 3, 4]}, x=["embed", "0", "1"], scale="log"),
    "bars": lambda: bars({"x": 1, "y": 2}, chance=0.5, control={"x": 0.1}, interval={"x": (0.5, 1.5)}),
    "sideways": lambda: bars({"x": 1, "y": 2}, chance=0.5, control={"y": 1}, group={"x": "k", "y": "l"}, sideways=True),
    "heatmap": lambda: heatmap([[0.1, 0.9], [0.4, math.nan]], ["a", "a"], ["it's", "\\'\n"], value_title="score"),
    "diverging": lambda: heatmap([[-2.0, 1.0]], ["a"], ["x", "y"], diverging=True, rows_up=True),
    "dots": lambda: dots([1, 2], [3, 4], names=["p", "q"], group=["k", "l"], control=([1], [2]), label=["p"]),
}


def values_of(spec: dict) -> list[dict]:
    """All rows of data in a spec."""
    own = spec.get("data", {}).get("values", [])
    return own + [row for layer in spec.get("layer", []) for row in values_of(layer)]


def without_data(spec: object) -> object:
    """The spec with its rows taken out."""
    if isinstance(spec, dict):
        return {key: without_data(value) for key, value in spec.items() if key != "data"}
    return [without_data(value) for value in spec] if isinstance(spec, list) else spec


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_drawn_without_a_browser(name):
    image = png(CHARTS[name](), scale=1.0)
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(image) > 2_000


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_plain_json_and_the_same_each_time(name):
    assert json.dumps(CHARTS[name](), allow_nan=False) == json.dumps(CHARTS[name](), allow_nan=False)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_names_roles_and_no_colours(name):
    spec = {key: value for key, value in CHARTS[name]().items() if key != "config"}
    assert "#" not in json.dumps(without_data(spec))


def test_a_control_is_drawn_dashed_and_in_the_role_of_control():
    drawn = svg(CHARTS["lines"]())
    assert 'stroke-dasharray="5,4"' in drawn
    assert 'stroke="#8a939c"' in drawn


def test_a_control_has_its_band_in_grey():
    drawn = lines({"a": [1, 2]}, control={"null": [1, 1]}, band={"null": ([0, 0.5], [2, 1.5])})
    area = next(layer for layer in drawn["layer"] if layer["mark"]["type"] == "area")
    assert area["mark"]["style"] == "control"
    assert [(row["low"], row["high"]) for row in values_of(area)] == [(0, 2), (0.5, 1.5)]
    with pytest.raises(ShapeError, match="band names 'b', which is not drawn"):
        lines({"a": [1]}, band={"b": ([0], [1])})


def test_the_dark_theme_changes_the_paper():
    assert svg(CHARTS["dots"](), theme="dark") != svg(CHARTS["dots"]())
    assert 'fill="#14181c"' in svg(CHARTS["dots"](), theme="dark")


def test_tensors_are_drawn_like_lists():
    assert lines({"a": torch.tensor([1.0, 2.0], requires_grad=True)}) == lines({"a": [1.0, 2.0]})


def test_what_is_not_finite_is_a_gap_and_not_zero():
    assert {"x": 1, "y": None, "series": "a"} in values_of(lines({"a": [1.0, math.nan, 2.0]}))
    assert len(values_of(heatmap([[1.0, math.inf]], ["r"], ["c", "d"]))) == 1


def test_rows_of_a_heatmap_may_carry_the_same_label():
    assert [row["i"] for row in values_of(heatmap([[1.0], [2.0]], [" the", " the"], ["x"]))] == [0, 1]


def test_a_label_cannot_leave_its_string_literal():
    drawn = svg(heatmap([[1.0]], ["'+alert(1)+'"], ["\\"]))
    assert "&apos;+alert(1)+&apos;" in drawn or "'+alert(1)+'" in drawn


def test_series_of_different_lengths_are_refused():
    with pytest.raises(ShapeError, match="series 'b' has 1 values where 2 are drawn"):
        lines({"a": [1, 2], "b": [1]})


def test_two_axes_where_one_is_drawn_are_refused():
    with pytest.raises(ShapeError, match="must have one axis"):
        lines({"a": torch.zeros(2, 2)})


def test_a_control_without_its_bar_is_refused():
    with pytest.raises(ShapeError, match="control names 'z', which is not drawn"):
        bars({"x": 1}, control={"z": 0})


def test_a_log_scale_refuses_zero():
    with pytest.raises(ShapeError, match="log scale needs values above zero"):
        lines({"a": [0.0, 1.0]}, scale="log")


def test_too_many_marks_are_refused():
    with pytest.raises(ShapeError, match="at most 40,000"):
        heatmap(torch.zeros(300, 300), range(300), range(300))


def test_an_unknown_theme_names_the_known_ones():
    with pytest.raises(InputError, match="light, dark"):
        png(CHARTS["dots"](), theme="sepia")


def test_what_is_no_spec_is_refused():
    with pytest.raises(InputError, match="not a Vega-Lite spec"):
        svg({"marks": "bar"})


def test_a_missing_package_names_the_extra():
    with pytest.raises(MissingExtraError, match=r"inscape\[report\]"):
        report_package("a_package_that_is_not_installed", "a chart")


def test_names_of_a_legend_go_on_in_another_row_before_they_are_cut_off() -> None:
    short = lines({"a": [0, 1], "b": [1, 2]}, control={"c": [0, 0]})
    assert [legend["columns"] for legend in _legends(short)] == [2, 1]
    names = ["English", "French", "German", "Spanish", "Chinese", "Japanese"]
    controls = ["English word of another item", "random tokens, as many"]
    long = lines({name: [0, 1] for name in names}, control={name: [0, 0] for name in controls})
    assert [legend["columns"] for legend in _legends(long)] == [3, 1]
    svg_text = svg(long)
    assert all(name in svg_text for name in controls)


def _legends(spec) -> list[dict]:
    found = [layer["encoding"][how]["legend"] for layer in spec["layer"] for how in ("color", "strokeDash")
             if how in layer.get("encoding", {}) and layer["encoding"][how].get("legend")]  # fmt: skip
    return found
