"""A sweep's grid is drawn with its tokens across and its last layer on top."""

import pytest
import torch

import inscape as ins
from inscape.view.grid import grid_figure
from inscape.view.png import png
from tests.common.small import gpt2

CLEAN = torch.tensor([[5, 9, 13, 17, 21]])
CORRUPTED = torch.tensor([[5, 9, 40, 17, 21]])


def swept(**how) -> "ins.Grid":
    return ins.sweep(gpt2(), CLEAN, CORRUPTED, metric=ins.logit_diff(3, 7), **how)


@pytest.mark.parametrize("show", ["change", "share", "raw"])
def test_every_way_of_showing_it_is_a_picture(show):
    grid = swept()
    spec = grid_figure(grid, show=show)
    assert png(spec).startswith(b"\x89PNG")
    cells = next(iter(spec["datasets"].values())) if "datasets" in spec else spec["data"]["values"]
    assert len(cells) == grid.values.numel()


def test_heads_stand_side_by_side():
    spec = grid_figure(swept(sites="layers.*.attn.z", heads="all", positions=[-1]))
    assert "head 3" in str(spec)


def test_what_cannot_be_drawn_says_why():
    with pytest.raises(ins.InputError, match="it can be change, share, raw"):
        grid_figure(swept(), show="all")
    alone = ins.sweep(gpt2(), CLEAN, edits=[ins.skip("layers.1")], metric=ins.logit_diff(3, 7))
    with pytest.raises(ins.InputError, match="is no heatmap"):
        grid_figure(alone)
