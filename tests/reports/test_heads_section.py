"""The report's atlas of heads: one row a head that was found, the controls in words, reasons for what was not tried."""

import pytest

import inscape as ins
from inscape.circuits.heads import KINDS
from inscape.reports.material import gather
from inscape.reports.sections.heads import section
from tests.common.zoo import build

pytest.importorskip("altair")


def test_the_heads_of_a_net_stand_in_the_table_with_their_score_and_line() -> None:
    model = ins.open("toy-succession")
    made = section(model, gather(model, ["37 so te next 38 Tuesday next Wednesday"]))
    assert made.skipped is None
    table, *maps = made.figures
    rows = table.data["rows"]
    named = next(row for row in rows if row[0] == "successor")
    assert named[3].startswith("1.")
    assert named[4] > 2 * named[5]
    assert named[7] < 0.01
    assert "mover" in made.says
    assert len(maps) == len({row[0] for row in rows if row[0]})


def test_what_was_not_tried_says_why_in_the_report() -> None:
    model = ins.open(build("gpt2"))
    made = section(model, gather(model))
    assert "Not tried here: successor (" in made.says
    assert "tokenizer" in made.says
    assert {row[0] for row in made.figures[0].data["rows"] if row[0]} < {kind.name for kind in KINDS}
