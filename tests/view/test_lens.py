import math

import pytest
import torch

from inscape.core.errors import ShapeError
from inscape.view.lens import lens
from inscape.view.strip import strip
from inscape.view.table import table, table_html
from tests.view.small import small_lens


def test_a_token_text_is_kept_once():
    data = small_lens(n_tokens=12)
    assert len(data["vocab"]) == len(set(data["vocab"])) == 8
    assert data["vocab"][data["top"][3][7][0]] == data["tokens"][7]


def test_long_inputs_keep_three_guesses_a_cell():
    guesses = [[["a", "b", "c", "d"]] * 500] * 20
    data = lens(["x"] * 500, [str(i) for i in range(20)], guesses, torch.full((20, 500, 4), 0.1))
    assert len(data["top"][0][0]) == len(data["p"][0][0]) == 3


def test_inputs_too_long_for_a_page_say_how_many_would_do():
    with pytest.raises(ShapeError, match="first or last 3000 tokens"):
        lens(["x"] * 4000, ["l"] * 20, [], [])


def test_a_lens_whose_parts_do_not_fit_is_refused():
    with pytest.raises(ShapeError, match="top must be 1 layers of 2 positions"):
        lens(["a", "b"], ["0"], [[["x"]]], [[[0.5]]])
    with pytest.raises(ShapeError, match="rank has 2 rows where 1 are drawn"):
        lens(["a"], ["0"], [[["x"]]], [[[0.5]]], rank=[[1], [1]])
    with pytest.raises(ShapeError, match="probability has 2 positions in layer 0"):
        lens(["a"], ["0"], [[["x"]]], [[[0.5], [0.5]]])
    with pytest.raises(ShapeError, match="final has 2 tokens"):
        lens(["a"], ["0"], [[["x"]]], [[[0.5]]], final=["x", "y"])
    with pytest.raises(ShapeError, match="at least one layer"):
        lens([], [], [], [])


def test_ranks_count_from_one():
    with pytest.raises(ShapeError, match="rank begins at 1"):
        lens(["a"], ["0"], [[["x"]]], [[[0.5]]], rank=[[0]])


def test_a_strip_knows_signed_values_and_gaps():
    data = strip(["a", "b"], {"plain": [1, 2], "signed": [-1.0, math.nan]}, units={"plain": "nats"})
    assert [series["signed"] for series in data["values"]] == [False, True]
    assert data["values"][1]["values"] == [-1.0, None]
    assert data["values"][0]["unit"] == "nats"


def test_a_strip_with_a_value_too_few_is_refused():
    with pytest.raises(ShapeError, match="values 'norm' has 1 values where 2 are drawn"):
        strip(["a", "b"], {"norm": [1]})
    with pytest.raises(ShapeError, match="needs tokens"):
        strip([], {})


def test_a_table_sets_numbers_right_and_shortens_them():
    drawn = table_html(table(["name", "value"], [["<a>", 1234.5678], ["b", None]]))
    assert '<td class="number">1,235</td>' in drawn
    assert "<td>&lt;a&gt;</td>" in drawn


def test_a_table_row_too_short_is_refused():
    with pytest.raises(ShapeError, match="row 1 has 1 cells where there are 2 columns"):
        table(["a", "b"], [[1, 2], [3]])
