"""Edits that cannot both be had are refused before anything runs."""

import pytest

import inscape as ins
from tests.common.small import direction, gpt2
from tests.common.steering import ROWS

D, OTHER = direction(seed=1), direction(seed=2)


@pytest.mark.parametrize(
    "edits",
    [
        [ins.clamp(D, 5, 5), ins.project_out(D)],
        [ins.clamp(D, 5, 5), ins.clamp(D, 4, 4)],
        [ins.clamp(D, low=2), ins.clamp(-D, low=1)],
        [ins.clamp(D, 1, 2, at=[0, 1]), ins.add(OTHER), ins.project_out([OTHER, D], at=[1, 2])],
    ],
)
def test_two_ranges_that_do_not_meet_contradict(edits: "list[ins.Edit]") -> None:
    with pytest.raises(ins.EditError, match=r"contradict one another at layers\.1\.resid_post: they hold the same"):
        ins.run(gpt2(), ROWS, edits=edits)
    with pytest.raises(ins.EditError, match="keep one, or give them other tokens"):
        ins.generate(gpt2(), ROWS, edits=edits, max_new_tokens=2)


@pytest.mark.parametrize(
    "edits",
    [
        [ins.clamp(D, 5, 5), ins.project_out(OTHER)],
        [ins.project_out(D), ins.project_out(D)],
        [ins.clamp(D, 0, 2), ins.clamp(D, 1, 3)],
        [ins.clamp(D, 5, 5, rows=[0]), ins.clamp(D, 4, 4, rows=[1])],
        [ins.clamp(D, 5, 5, at="first"), ins.project_out(D, at="last")],
        [ins.clamp(D, low=2), ins.clamp(-D, high=1)],
    ],
)
def test_what_can_be_had_together_runs(edits: "list[ins.Edit]") -> None:
    assert ins.run(gpt2(), ROWS, edits=edits).output.logits.isfinite().all()
