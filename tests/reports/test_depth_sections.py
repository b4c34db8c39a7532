"""Sections about depth: what a net written by hand must show, and reasons where the question does not apply."""

import pytest

import inscape as ins
from inscape.models.toy.layered import layered_net
from inscape.reports.material import gather
from inscape.reports.sections import depth
from tests.common.zoo import build

pytest.importorskip("altair")


def test_the_layers_that_others_read_stand_out() -> None:
    model = ins.open(layered_net())
    made = depth.section(model, gather(model, [[0, 3, 5, 2, 7, 1], [1, 2, 3, 4, 5, 6, 7]]))
    assert made.skipped is None
    reach, matrix = made.figures
    assert "Skipping layer 1 changes layer" in matrix.caption
    assert "noise as long as its update" in reach.control
    assert "downstream_effects" in reach.call


def test_models_without_a_stream_say_so() -> None:
    model = ins.open(build("resnet"))
    assert depth.section(model, gather(model)).skipped
