"""Shares of the way, by hand."""

import math

import pytest
import torch

import inscape as ins
from inscape.core.normalised_effect import nie, normalised_effect


def test_shares_of_the_way_to_a_goal_and_none_where_there_is_no_way():
    plain, edited = torch.tensor([0.0, 0.5, 1.0, -1.0]), torch.tensor([0.5, 0.0, 1.0, 1.0])
    made = normalised_effect(edited, plain, 1.0)
    torch.testing.assert_close(made[[0, 1, 3]], torch.tensor([0.5, -1.0, 1.0]).double())
    assert bool(made[2].isnan())
    torch.testing.assert_close(
        normalised_effect(edited[:2], plain[:2], torch.tensor([2.0, 0.0])), torch.tensor([0.25, 1.0]).double()
    )


def test_both_forms_of_the_indirect_effect():
    true, false = torch.tensor([0.8, 0.4]), torch.tensor([-0.6, -0.2])
    made = nie(true, torch.tensor([0.2, 0.0]), false, torch.tensor([0.0, 0.2]))
    assert made.to_false == pytest.approx((0.1 - 0.6) / (-1 - 0.6))
    assert made.to_true == pytest.approx((0.1 + 0.4) / (1 + 0.4))
    assert float(made) == pytest.approx((made.to_false + made.to_true) / 2)
    gap = nie(true, false, false, true, towards="gap")
    assert (gap.to_false, gap.to_true) == (pytest.approx(1.0), pytest.approx(1.0))


def test_classes_at_their_goal_have_no_effect_to_speak_of():
    ones = torch.ones(3)
    assert math.isnan(nie(-ones, ones, ones, ones).mean)
    assert math.isnan(nie(ones, ones, ones, ones, towards="gap").to_true)


def test_unlike_shapes_and_words_are_refused():
    with pytest.raises(ins.ShapeError, match="differ"):
        normalised_effect(torch.ones(2), torch.ones(3), 1.0)
    with pytest.raises(ins.InputError, match="it can be 'ideal' or 'gap'"):
        nie(*[torch.ones(2)] * 4, towards="best")
