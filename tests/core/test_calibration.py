"""Calibration error: known tables, a perfectly calibrated stream, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.calibration import ece


def binary(confidence: float, n: int, right: int) -> tuple[torch.Tensor, torch.Tensor]:
    p = torch.tensor([[confidence, 1 - confidence]], dtype=torch.float64).expand(n, 2)
    return p, torch.tensor([0] * right + [1] * (n - right))


@given(confidence=st.floats(0.51, 1.0), n=st.integers(1, 50), share=st.floats(0, 1))
def test_one_confidence_is_off_by_its_distance_from_the_accuracy(confidence: float, n: int, share: float) -> None:
    right = round(n * share)
    p, labels = binary(confidence, n, right)
    assert ece(p, labels).error == pytest.approx(abs(right / n - confidence), abs=1e-9)


def test_bins_are_weighed_by_how_many_are_in_them() -> None:
    a, b = binary(0.9, 30, 21), binary(0.6, 10, 9)
    made = ece(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]]))
    assert made.error == pytest.approx(0.75 * 0.2 + 0.25 * 0.3)
    assert float(made) == made.error
    assert made.count.sum() == 40
    assert made.accuracy[made.count > 0].tolist() == pytest.approx([0.9, 0.7])


def test_labels_drawn_from_the_probabilities_are_calibrated() -> None:
    g = torch.Generator().manual_seed(0)
    p = torch.randn(20_000, 5, generator=g, dtype=torch.float64).softmax(-1)
    labels = torch.multinomial(p, 1, generator=g)[:, 0]
    assert ece(p, labels).error < 0.02
    assert ece((5 * p.log()).softmax(-1), labels).error > 0.2  # sharpened: too sure


def test_logits_are_refused() -> None:
    with pytest.raises(ins.InputError, match="softmax"):
        ece(torch.tensor([[2.0, -1.0]]), torch.tensor([0]))
    with pytest.raises(ins.ShapeError, match="1 rows of probabilities and 2 labels"):
        ece(torch.tensor([[0.5, 0.5]]), torch.tensor([0, 1]))
