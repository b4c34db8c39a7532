"""Shuffles in one pass are those drawn one at a time, and a planted direction stands above all of them."""

import pytest
import torch

import inscape as ins
from inscape.steer.fit_directions import fit_directions
from inscape.steer.shuffles import fit_shuffles
from tests.common.small import gpt2
from tests.steer.texts import two_sides

SITES = ["layers.0.resid_pre", "layers.1.resid_post"]


@pytest.mark.parametrize("method", ["mean_difference", "pca_difference", "logistic"])
def test_each_is_the_shuffle_of_its_seed(method):
    sides = two_sides(20)
    found = fit_shuffles(gpt2(), *sides, SITES, n=3, method=method, seed=5, batch_tokens=40)
    for k, one in enumerate(found):
        want = fit_directions(gpt2(), *sides, SITES, method=method, control="shuffle", seed=5 + k)
        for site in SITES:
            torch.testing.assert_close(one[site].vector, want[site].vector, atol=1e-4, rtol=1e-3)
        assert f"shuffle {k}" in one.source
        assert one.model == gpt2().fingerprint


def test_a_planted_direction_is_above_its_shuffles():
    sides, others = two_sides(20), two_sides(20, seed=9)
    site = SITES[0]
    held = fit_directions(gpt2(), *others, SITES)[site].unit
    real = float(fit_directions(gpt2(), *sides, SITES)[site].unit @ held)
    null = [float(d[site].unit @ held) for d in fit_shuffles(gpt2(), *sides, SITES, n=20)]
    assert real > max(null)
    assert abs(sum(null) / 20) < 0.5 * real


def test_what_cannot_be_shuffled_is_refused():
    sides = two_sides(4)
    with pytest.raises(ins.InputError, match="draw one shuffle at least"):
        fit_shuffles(gpt2(), *sides, SITES, n=0)
    with pytest.raises(ins.InputError, match="no sides to shuffle"):
        fit_shuffles(gpt2(), *sides, SITES, method="mean")
