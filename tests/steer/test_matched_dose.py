"""The smallest dose of an effect that rises and falls again."""

import pytest

import inscape as ins
from inscape.steer.matched_dose import matched_dose


def hump(dose: float) -> float:
    return 1 - (dose - 2) ** 2 / 4


def test_it_is_the_first_of_two_doses_with_the_effect():
    assert matched_dose(hump, 0.75, [0.5, 1.5, 2.5, 3.5], halvings=20) == pytest.approx(1.0, abs=1e-5)
    assert matched_dose(hump, 0.75, [0.25, 2.0], halvings=20) == pytest.approx(1.0, abs=1e-5)
    found = matched_dose(hump, 0.75, [4.0, 5.0])
    assert found is None  # both are beyond the top


def test_no_effect_is_no_dose_and_doses_rise():
    assert matched_dose(hump, 1.5, [1.0, 2.0, 3.0]) is None
    assert matched_dose(hump, -1.0, [1.0]) == pytest.approx(1 / 256)
    with pytest.raises(ins.InputError, match="from the smallest to the largest"):
        matched_dose(hump, 1.0, [1.0, 1.0])
    with pytest.raises(ins.InputError, match="above 0"):
        matched_dose(hump, 1.0, [0.0, 1.0])
