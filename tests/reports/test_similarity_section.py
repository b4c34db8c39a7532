"""The report's similarity of layers: figures with their controls, and what is too small says so."""

import pytest
import torch

import inscape as ins
from inscape.reports.material import gather
from inscape.reports.sections.similarity import section
from tests.common.zoo import build
from tests.read.planted import silent_gpt2

pytest.importorskip("altair")


def test_layers_that_add_nothing_are_the_same_and_a_few_directions_are_counted() -> None:
    model = silent_gpt2()
    draw = torch.Generator().manual_seed(0)
    made = section(model, gather(model, torch.randint(1, 64, (4, 30), generator=draw)))
    assert made.skipped is None
    assert "CKA of 1.00 on average" in made.figures[0].caption
    assert len(made.figures) == 3
    assert all(figure.control and figure.call for figure in made.figures)
    assert "up to 0.00" in made.figures[1].caption


def test_few_positions_are_not_compared() -> None:
    made = section(ins.open(build("gpt2")), gather(ins.open(build("gpt2")), [[1, 2, 3, 4]]))
    assert made.skipped is not None
    assert made.skipped.startswith("3 positions")
    assert made.skipped.endswith(".")
