"""Directions at one site and at many: arithmetic, order, files and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.directions import Directions

SITES = ("layers.2.resid_post", "layers.10.resid_post", "layers.3.resid_post")


def direction(site: str = SITES[0], *, seed: int = 0, source: str = "one", model: str = "m") -> ins.Direction:
    return ins.Direction(site, torch.randn(5, generator=torch.Generator().manual_seed(seed)), source, model)


def several(seed: int = 0, **about: str) -> Directions:
    return Directions.of(*(direction(site, seed=seed + i, **about) for i, site in enumerate(SITES)))


@given(a=st.floats(-3, 3), seed=st.integers(0, 1000))
def test_arithmetic_is_that_of_the_vectors_at_one_site_and_at_many(a, seed):
    one, two = several(seed), several(seed + 7, source="two")
    got = a * one - two + -one * 0.5
    for site in SITES:
        want = a * one[site].vector - two[site].vector - 0.5 * one[site].vector
        torch.testing.assert_close(got[site].vector, want)
        torch.testing.assert_close((a * one[site] - two[site] + -one[site] * 0.5).vector, want)


def test_a_sum_says_what_it_is_made_of():
    got = direction(source="calm") - 2 * direction(source="formal", model="")
    assert got.source == "(calm) - (2 x (formal))"
    assert got.model == "m"


@pytest.mark.parametrize("factor", [np.float64(2), np.float32(2), np.array(2.0), torch.tensor(2.0), 2])
def test_any_kind_of_number_multiplies_from_either_side(factor):
    for d in (direction(), several()):
        for got in (factor * d, d * factor):
            assert type(got) is type(d)
    torch.testing.assert_close((factor * several())[SITES[1]].vector, 2 * several()[SITES[1]].vector)


def test_sites_come_in_the_order_given_and_survive_a_file(tmp_path):
    d = several()
    d.save(tmp_path / "d.safetensors")
    back = Directions.load(tmp_path / "d.safetensors")
    assert tuple(d) == d.sites == back.sites == SITES
    assert back.model == "m"
    assert back.source == "one"
    for site, item in back.items():
        assert torch.equal(item.vector, d[site].vector)


def test_some_sites_can_be_kept():
    assert several().select("layers.[0-9].resid_post").sites == (SITES[0], SITES[2])
    assert repr(several()) == f"Directions(one at 3 sites: {', '.join(SITES)})"


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: direction() + direction(SITES[1]), ins.SiteError, "live at two sites, layers.2.*Directions"),
        (lambda: direction() + direction(model="n"), ins.ModelError, "two models, m and n.*fitted map"),
        (lambda: direction() + ins.Direction(SITES[0], torch.ones(4)), ins.ShapeError, r"shapes \(5,\) and \(4,\)"),
        (lambda: direction() + 1, ins.InputError, "a direction and a int cannot be added"),
        (lambda: direction() * torch.ones(3), ins.InputError, r"one number, not by a Tensor.*scale=\[batch\]"),
        (lambda: direction() * "a", ins.InputError, "one number, not by a str"),
        (lambda: several() + direction(), ins.InputError, r"Directions and a Direction.*directions\[site\]"),
        (lambda: several() - several().select("*.3.*"), ins.SiteError, "layers.10.resid_post, layers.2.* in one only"),
        (lambda: several() + several(model="n"), ins.ModelError, "two models"),
        (lambda: several()["layers.4.resid_post"], ins.SiteError, "no direction at .*there are directions at layers.2"),
        (lambda: several().select("layers.4.*"), ins.SiteError, "no direction at 'layers.4.*there are directions at"),
        (lambda: Directions({}), ins.InputError, "of one at least"),
        (lambda: Directions({"embed": direction()}), ins.SiteError, "under 'embed' lives at 'layers.2"),
        (lambda: Directions({SITES[0]: torch.ones(3)}), ins.InputError, "has a Tensor"),
        (lambda: Directions.of(direction(), direction()), ins.SiteError, "two directions live at layers.2"),
        (lambda: Directions.of(direction(), direction(SITES[1], model="n")), ins.ModelError, "two models"),
    ],
)
def test_what_does_not_belong_together_is_refused(make, error, says):
    with pytest.raises(error, match=f"(?s){says}"):
        make()


def test_files_of_another_kind_or_damaged_are_refused(tmp_path):
    direction().save(tmp_path / "one.safetensors")
    with pytest.raises(ins.FileError, match="holds direction, not directions"):
        Directions.load(tmp_path / "one.safetensors")
    from inscape.core.tensor_file import write_tensors

    about = '{"kind": "directions", "version": 1, "items": [{"site": "embed"}]}'
    write_tensors(tmp_path / "bad.safetensors", {"layers.1": torch.ones(2)}, {"inscape": about})
    with pytest.raises(ins.FileError, match="list of sites and its vectors do not fit"):
        Directions.load(tmp_path / "bad.safetensors")
