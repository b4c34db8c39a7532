"""The probe of two means: what is known on paper, and its control."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.read.probes import MeanDifference


def rows(n: int = 200, d: int = 6, gap: float = 3.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.rand(n, generator=g) < 0.5
    x = torch.randn(n, d, generator=g)
    x[:, 0] += gap * y
    return x, y


def test_two_clouds_are_told_apart_and_shuffled_labels_tell_nothing() -> None:
    x, y = rows()
    held_x, held_y = rows(seed=1)
    probe = MeanDifference().fit(x, y)
    assert probe.score(held_x, held_y) > 0.9
    null = [MeanDifference(control="shuffle", seed=s).fit(x, y).score(held_x, held_y) for s in range(20)]
    assert sum(null) / 20 == pytest.approx(0.5, abs=0.15)
    d = probe.direction("layers.3.resid_post", model="abc")
    assert (d.site, d.model, d.source) == ("layers.3.resid_post", "abc", "difference of means")
    assert float(d.unit[0]) > 0.95


@given(seed=st.integers(0, 2**31), shift=st.floats(-5, 5))
def test_a_shift_of_all_rows_changes_no_prediction(seed: int, shift: float) -> None:
    x, y = rows(30, seed=seed)
    y[0], y[1] = True, False
    plain, moved = MeanDifference().fit(x, y), MeanDifference().fit(x + shift, y)
    assert torch.allclose(plain.weight_, moved.weight_, atol=1e-5)
    assert torch.allclose(plain.transform(x), moved.transform(x + shift), atol=1e-4)


def test_turning_the_labels_round_turns_the_probe_round() -> None:
    x, y = rows()
    a, b = MeanDifference().fit(x, y), MeanDifference().fit(x, ~y)
    torch.testing.assert_close(a.weight_, -b.weight_)
    assert torch.equal(a.predict(x), ~b.predict(x))


def test_what_a_probe_cannot_use_is_refused() -> None:
    x, y = rows(10)
    with pytest.raises(ins.InputError, match="rows of both classes"):
        MeanDifference().fit(x, torch.ones(10))
    with pytest.raises(ins.ShapeError, match=r"\(9,\) labels for 10 rows"):
        MeanDifference().fit(x, y[:9])
    with pytest.raises(ins.InputError, match="none of a probe"):
        MeanDifference(control="noise").fit(x, y)
    with pytest.raises(ins.InscapeError, match="has not been fitted"):
        MeanDifference().predict(x)
    with pytest.raises(ins.InscapeError, match="has not been fitted"):
        MeanDifference().direction("x")
    with pytest.raises(ins.ShapeError, match="fitted on rows of 6 units; these have 2"):
        MeanDifference().fit(x, y).predict(x[:, :2])
