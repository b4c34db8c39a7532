"""Corruptions and wrong labels: nothing at severity 0, what they say at others, and the same for the same seed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.tasks.corruptions import KINDS, corrupted, wrong_labels
from inscape.tasks.digits import digits


@pytest.mark.parametrize("kind", KINDS)
def test_severity_zero_changes_nothing_and_more_changes_more(kind: str) -> None:
    images = digits("test", 40)
    torch.testing.assert_close(corrupted(images, kind, 0.0).pixels, images.pixels)
    moved = [float((corrupted(images, kind, s, seed=1).pixels - images.pixels).abs().mean()) for s in (0.5, 1.0)]
    assert 0 < moved[0] < moved[1]
    assert torch.equal(corrupted(images, kind, 0.5, seed=1).pixels, corrupted(images, kind, 0.5, seed=1).pixels)
    assert torch.equal(corrupted(images, kind, 1.0).labels, images.labels)


def test_full_contrast_loss_leaves_the_mean_and_full_blur_the_neighbourhood() -> None:
    images = digits("test", 4)
    flat = corrupted(images, "contrast", 1.0).pixels
    torch.testing.assert_close(flat, images.pixels.mean((1, 2, 3), keepdim=True).expand_as(flat))
    blurred = corrupted(images, "blur", 1.0).pixels
    assert float(blurred[0, 0, 4, 4]) == pytest.approx(float(images.pixels[0, 0, 3:6, 3:6].mean()), abs=1e-6)
    hidden = corrupted(images, "occlusion", 0.5).pixels
    assert int((hidden != images.pixels).sum((1, 2, 3)).max()) <= 16


@given(share=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_exactly_this_share_of_labels_is_wrong(share: float, seed: int) -> None:
    images = digits("test", 50)
    made = wrong_labels(images, share, seed=seed)
    assert int((made.labels != images.labels).sum()) == round(share * 50)
    assert int(made.labels.min()) >= 0
    assert int(made.labels.max()) <= int(images.labels.max())


def test_what_is_no_corruption_is_refused() -> None:
    images = digits("test", 4)
    with pytest.raises(ins.InputError, match="noise, blur"):
        corrupted(images, "rain")
    with pytest.raises(ins.InputError, match="from 0, nothing, to 1"):
        corrupted(images, "blur", 2.0)
    with pytest.raises(ins.InputError, match="share from 0 to 1"):
        wrong_labels(images, 1.2)
