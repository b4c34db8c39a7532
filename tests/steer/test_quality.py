"""Quality of directions: numbers known on paper for planted states, and nothing where nothing is."""

from math import sqrt
from statistics import NormalDist

import pytest
import torch

import inscape as ins
from inscape.steer.fit_directions import fit_directions
from inscape.steer.quality import _areas, _measured, quality
from tests.common.small import gpt2
from tests.steer.texts import one_side, two_sides

SITES = ["layers.0.resid_pre", "layers.1.resid_post"]


def planted(size: float, n: int = 100, d: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    v = torch.nn.functional.normalize(torch.randn(d, generator=draw), dim=0).double()
    return v, torch.randn(n, d, generator=draw).double() + size * v, torch.randn(n, d, generator=draw).double()


def test_planted_states_have_the_quality_that_theory_says():
    size, n, d = 3.0, 100, 40
    found = _measured(*planted(size, n, d), 50, 200, 0)
    assert found["separation"] == pytest.approx(size, abs=0.4)  # two standard errors, n = 100 a side
    assert found["auc"] == pytest.approx(NormalDist().cdf(size / sqrt(2)), abs=0.02)
    assert found["auc_low"] <= found["auc"] <= found["auc_high"]
    noise = 4 * d / n  # of a mean difference of halves: (2 / n + 2 / n) in each of d units
    assert found["halves"] == pytest.approx(size**2 / (size**2 + noise), abs=0.07)
    assert found["refit"] == pytest.approx(size / sqrt(size**2 + noise / 2), abs=0.05)
    assert found["p"] < 0.01
    assert found["random_auc"] < 0.75
    assert found["halves_low"] > found["random_cosine"]


def test_where_nothing_is_planted_nothing_is_found():
    found = [_measured(*planted(0.0, seed=seed), 20, 100, seed) for seed in range(20)]
    assert sum(f["p"] < 0.05 for f in found) <= 4  # 1 is expected of 20, more than 4 in 1 of 400
    assert sum(f["auc_low"] > 0.5 for f in found) <= 3
    assert abs(sum(f["halves"] for f in found) / 20) < 0.1
    assert all(f["halves"] < f["random_cosine"] + 0.1 for f in found)
    assert abs(sum(f["separation"] for f in found) / 20) < 0.1


def test_areas_of_many_columns_are_shares_of_pairs():
    x = torch.randn(23, 5, generator=torch.Generator().manual_seed(0))
    want = (x[:9, None] > x[None, 9:]).double().mean((0, 1))
    torch.testing.assert_close(_areas(x, 9), want)


def test_numbers_are_those_of_the_obvious_loop():
    model = gpt2()
    d = fit_directions(model, *two_sides(20), SITES)
    high, low = two_sides(15, seed=5)
    got = quality(d, model, high, low[:-2], splits=5, n_random=20, batch_tokens=20)
    assert got.sites == tuple(SITES)
    assert got.n == (15, 13)
    for i, site in enumerate(SITES):
        unit = d[site].unit
        x, y = (
            torch.stack([ins.run(model, [t], read=site, reduce="last")[site][0] @ unit for t in texts]).double()
            for texts in (high, low[:-2])
        )
        pooled = sqrt((float(x.var()) * 14 + float(y.var()) * 12) / 26)
        assert float(got.separation[i]) == pytest.approx(float(x.mean() - y.mean()) / pooled, rel=1e-3)
        assert float(got.auc.value[i]) == pytest.approx(float((x[:, None] > y).double().mean()), abs=0.011)
    assert [row["site"] for row in got.rows()] == SITES
    assert set(got.rows()[0]) >= {"separation", "auc", "auc_low", "refit", "halves", "random_cosine"}


def test_directions_that_say_something_are_told_from_those_that_do_not():
    model = gpt2()
    good = fit_directions(model, *two_sides(40), SITES)
    found = quality(good, model, *two_sides(40, seed=9))
    assert found.best == SITES[0]
    assert not [w for w in found.warnings if w.startswith(SITES[0])]
    dark = fit_directions(model, *two_sides(40), SITES, control="shuffle")
    assert quality(dark, model, *two_sides(40, seed=9)).auc.value.tolist() < found.auc.value.tolist()
    nothing = quality(fit_directions(model, *one_side(40), SITES), model, *one_side(40, seed=9))
    text = "\n".join(nothing.warnings)
    assert text.count("may be chance") + text.count("random directions rank") == 2
    assert text.count("halves of these texts give unlike directions") == 2


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m, d, a, b: quality(d, m, a[:3], b), ins.InputError, "3 and 12 texts: quality takes 4"),
        (lambda m, d, a, b: quality(d, m, "text", b), ins.InputError, "positive is one text"),
        (lambda m, d, a, b: quality(ins.Direction(SITES[0], torch.ones(32), "", "other"), m, a, b), ins.ModelError,
         "for the model other"),
        (lambda m, d, a, b: quality(ins.Direction(SITES[0], torch.ones(9)), m, a, b), ins.ShapeError, "has 32 units"),
    ],
)  # fmt: skip
def test_what_has_no_quality_is_refused(call, error, says):
    model = gpt2()
    with pytest.raises(error, match=says):
        call(model, fit_directions(model, *two_sides(), SITES), *two_sides(seed=2))
