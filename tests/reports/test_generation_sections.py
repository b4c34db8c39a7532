"""The report's voids and trajectories: beside random voids and shuffled segments, or with a reason."""

import pytest

import inscape as ins
from inscape.reports.material import gather
from inscape.reports.sections import trajectories, voids
from inscape.tasks.chains import chains
from tests.common.zoo import build

pytest.importorskip("altair")


def test_a_model_that_generates_has_both_sections_with_their_controls() -> None:
    model = ins.open("toy-reasoner")
    material = gather(model, [c.prompt for c in chains(3, 6, seed=1)])
    usage, text = voids.section(model, material).figures
    assert "tokens use" in usage.caption
    assert "random layers" in usage.control
    assert "cells are void" in text.control
    (drift,) = trajectories.section(model, material).figures
    assert "in another order" in drift.control
    assert "times as long" in drift.caption


def test_models_that_do_not_generate_say_why() -> None:
    model = ins.open(build("vit"))
    for section in (voids.section, trajectories.section):
        made = section(model, gather(model))
        assert made.skipped is not None
        assert "this one does not" in made.skipped
