"""Directions from two sets of texts: equal to the obvious loop, turned, scaled, and nothing where there is nothing."""

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

import inscape as ins
from inscape.steer.fit_directions import fit_directions
from inscape.steer.fitting import SiteFit, exchanged
from inscape.steer.leading import Leading
from inscape.steer.states import check_texts
from tests.common.small import gpt2, gpt2_module, hooks_left
from tests.steer.texts import one_side, two_sides

SITES = ("layers.0.resid_pre", "layers.1.mlp_out", "layers.2.resid_post")
POSITIONS = {
    "last": lambda x: x[-1], "first": lambda x: x[0], "mean": lambda x: x.mean(0), "-2": lambda x: x[-2],
    "slice": lambda x: x[-3:].mean(0), "list": lambda x: x[[0, 2]].mean(0),
}  # fmt: skip
ASKED = {"-2": -2, "slice": slice(-3, None), "list": [0, 2]}


def states(model: ins.Model, texts: list[list[int]], site: str, position: str = "last") -> torch.Tensor:
    """The obvious loop: each text alone, in a forward of its own."""
    return torch.stack([POSITIONS[position](ins.run(model, [t], read=site)[site][0]) for t in texts]).double()


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), 0))


def planted(n: int, m: int, d: int = 40, size: float = 3.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of noise whose first n have `size` times a vector added, and that unit vector."""
    draw = torch.Generator().manual_seed(seed)
    v = torch.nn.functional.normalize(torch.randn(d, generator=draw), dim=0)
    x = torch.randn(n + m, d, generator=draw)
    x[:n] += size * v
    return x, v


@pytest.mark.parametrize("position", list(POSITIONS))
@pytest.mark.parametrize("batch_tokens", [16, 4096])
def test_the_mean_difference_is_that_of_the_obvious_loop(position, batch_tokens):
    model, (high, low) = gpt2(), two_sides(paired=False)
    low = low[:-3]
    asked = ASKED.get(position, position)
    got = fit_directions(model, high, low, SITES[1:], position=asked, batch_tokens=batch_tokens)
    assert got.sites == SITES[1:]
    assert got.model == model.fingerprint
    for site, d in got.items():
        want = states(model, high, site, position).mean(0) - states(model, low, site, position).mean(0)
        torch.testing.assert_close(d.vector.double(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("centre", [True, False])
def test_the_component_of_differences_is_scikit_learns_turned_and_as_long_as_the_mean_difference(centre):
    model, (high, low) = gpt2(), two_sides()
    for site, d in fit_directions(model, high, low, SITES, method="pca_difference", centre=centre).items():
        a, b = states(model, high, site), states(model, low, site)
        if centre:
            want = PCA(1).fit((a - b).numpy()).components_[0]
        else:
            want = np.linalg.svd((a - b).numpy())[2][0]
        assert abs(cosine(d.vector, torch.from_numpy(want))) == pytest.approx(1, abs=1e-6)
        assert float(d.vector.norm()) == pytest.approx(float((a.mean(0) - b.mean(0)).norm()), rel=1e-4)
        assert float(d.vector.double() @ (a.mean(0) - b.mean(0))) > 0


def test_logistic_is_scikit_learns_on_standardised_units():
    model, (high, low) = gpt2(), two_sides(20, paired=False)
    site = SITES[2]
    d = fit_directions(model, high, low[:15], site, method="logistic", C=0.3)[site]
    x = torch.cat([states(model, high, site), states(model, low[:15], site)]).numpy()
    scale = x.std(0)
    fitted = LogisticRegression(C=0.3, tol=1e-10, max_iter=10_000).fit((x - x.mean(0)) / scale, [1] * 20 + [0] * 15)
    assert cosine(d.vector, torch.from_numpy(fitted.coef_[0] / scale)) == pytest.approx(1, abs=1e-5)


def test_one_sided_methods_are_the_mean_and_the_first_component_of_the_side():
    model, (high, low) = gpt2(), two_sides()
    site = SITES[2]
    x = states(model, high, site)
    mean = fit_directions(model, high, sites=site, method="mean")[site].vector
    torch.testing.assert_close(mean.double(), x.mean(0), rtol=1e-4, atol=1e-5)
    alone = fit_directions(model, high, sites=site, method="pca")[site].vector
    first = PCA(1).fit(x.numpy())
    assert abs(cosine(alone, torch.from_numpy(first.components_[0]))) == pytest.approx(1, abs=1e-6)
    assert float(alone.norm()) == pytest.approx(float(first.explained_variance_[0] ** 0.5), rel=1e-4)
    assert float(alone.double() @ x.mean(0)) > 0
    both = fit_directions(model, high, low, site, method="pca")[site].vector
    assert abs(cosine(alone, both)) == pytest.approx(1, abs=1e-6)
    gap = x.mean(0) - states(model, low, site).mean(0)
    assert float(both.norm()) == pytest.approx(float(gap.norm()), rel=1e-4)
    assert float(both.double() @ gap) > 0


@pytest.mark.parametrize("method", ["mean_difference", "pca_difference", "logistic"])
def test_the_positive_side_projects_higher_and_the_other_way_round_mirrors_it(method):
    model, (high, low) = gpt2(), two_sides(10)
    there = fit_directions(model, high, low, SITES, method=method)
    back = fit_directions(model, low, high, SITES, method=method)
    for site, d in there.items():
        gap = states(model, high, site).mean(0) - states(model, low, site).mean(0)
        assert float(d.vector.double() @ gap) > 0
        torch.testing.assert_close(back[site].vector, -d.vector, rtol=1e-3, atol=1e-4)


@given(n=st.integers(2, 40), d=st.integers(2, 6), cut=st.integers(1, 39), centre=st.booleans(), seed=st.integers(0, 99))
def test_the_leading_component_is_the_singular_vector_however_the_rows_are_cut(n, d, cut, centre, seed):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 3
    x[:, 0] *= 4
    made = Leading(centre)
    for part in x.tensor_split([cut]):
        if len(part):
            made.update(part)
    unit, variance = made.component()
    held = x - x.mean(0) if centre else x
    _, s, vh = torch.linalg.svd(held)
    assert variance == pytest.approx(float(s[0] ** 2) / (n - centre), rel=1e-9)
    if len(s) < 2 or s[0] > 1.001 * s[1]:
        assert abs(cosine(unit, vh[0])) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("centre", [True, False])
def test_many_rows_are_folded_into_a_covariance_and_give_the_same(centre):
    x = torch.randn(700, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + torch.arange(5)
    made = Leading(centre)
    for part in x.split(90):
        made.update(part)
    assert made._folded is not None
    held = x - x.mean(0) if centre else x
    assert abs(cosine(made.component()[0], torch.linalg.svd(held)[2][0])) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("method", ["mean_difference", "logistic"])
@pytest.mark.parametrize(("n", "m"), [(60, 60), (90, 45)])
def test_a_planted_vector_is_found_and_not_once_sides_are_exchanged(method, n, m):
    from inscape.steer.fitting import logistic_weights

    x, v = planted(n, m)
    found = {}
    for is_dark in (False, True):
        fit = SiteFit(method, True, is_dark)
        said = exchanged(n, m, torch.Generator().manual_seed(3)) if is_dark else (torch.ones(n), torch.zeros(m))
        fit.update(x, n, torch.cat(said).bool())
        fit.check("here", "last")
        vector = logistic_weights({"here": fit}, 1.0)["here"] if method == "logistic" else fit.vector()
        found[is_dark] = fit.finished(vector)
    assert cosine(found[False], v) > 0.85
    assert abs(cosine(found[True], v)) < 0.5  # 40 units: a random vector is within 0.31 of it 95 times in 100
    assert float(found[True].norm()) == pytest.approx(float(found[False].norm()))


def test_centred_components_leave_out_what_pairs_share_and_others_do_not():
    draw = torch.Generator().manual_seed(0)
    shared, varied = torch.linalg.qr(torch.randn(30, 2, generator=draw))[0].T
    low = torch.randn(80, 30, generator=draw)
    high = (
        low + 5 * shared + 2 * torch.randn(80, 1, generator=draw) * varied + 0.1 * torch.randn(80, 30, generator=draw)
    )
    for centre, is_like, is_unlike in ((True, varied, shared), (False, shared, varied)):
        fit = SiteFit("pca_difference", centre, False)
        fit.update(torch.cat([high, low]), 80, torch.ones(160).bool())
        got = fit.finished(fit.vector())
        assert abs(cosine(got, is_like)) > 0.98
        assert abs(cosine(got, is_unlike)) < 0.2


def test_a_shuffled_component_is_of_differences_within_a_side():
    x, v = planted(50, 50, size=8.0)
    fit = SiteFit("pca_difference", False, True)
    fit.update(x, 50, torch.ones(100).bool())
    assert abs(cosine(fit.finished(fit.vector()), v)) < 0.5


@given(n=st.integers(2, 30), m=st.integers(2, 30), seed=st.integers(0, 99))
def test_exchanging_keeps_the_sizes_and_mixes_both_sides(n, m, seed):
    high, low = exchanged(n, m, torch.Generator().manual_seed(seed))
    assert int(high.sum() + low.sum()) == n
    assert 0 < int(high.sum()) < n
    assert 0 < int(low.sum()) < m
    if n == m:
        assert torch.equal(high, ~low)


def test_controls_are_as_long_and_elsewhere():
    model, (high, low) = gpt2(), two_sides(16)
    true = fit_directions(model, high, low, SITES[2])[SITES[2]]
    for control in ("shuffle", "random"):
        made = fit_directions(model, high, low, SITES[2], control=control)[SITES[2]]
        assert float(made.vector.norm()) == pytest.approx(float(true.vector.norm()), rel=1e-5)
        assert abs(cosine(made.vector, true.vector)) < 0.6
        assert made.source.startswith(f"{control} control of mean_difference of 16 texts from 16 at last")
        again = fit_directions(model, high, low, SITES[2], control=control)[SITES[2]]
        assert torch.equal(made.vector, again.vector)
        other = fit_directions(model, high, low, SITES[2], control=control, seed=1)[SITES[2]]
        assert not torch.allclose(made.vector, other.vector, atol=1e-3)


def test_means_do_not_see_partners_and_components_do():
    model, (high, low) = gpt2(), two_sides(16)
    for method, same in (("mean_difference", True), ("pca_difference", False)):
        kept = fit_directions(model, high, low, SITES[2], method=method)[SITES[2]].vector
        mixed = fit_directions(model, high, low, SITES[2], method=method, control="pairs")[SITES[2]].vector
        assert torch.allclose(kept, mixed, atol=1e-4) == same


def held_out_area(draw, seed: int, site: str = SITES[2]) -> float:
    """The area under the curve of a direction fitted on one draw of texts, on others."""
    model = gpt2()
    d = fit_directions(model, *draw(24, seed=seed), site)[site].vector.double()
    high, low = draw(40, seed=seed + 100)
    a, b = states(model, high, site) @ d, states(model, low, site) @ d
    return float((a[:, None] > b).double().mean())


def test_texts_that_do_not_differ_give_a_direction_that_says_nothing_of_others():
    areas = [held_out_area(one_side, seed) for seed in range(6)]
    assert abs(float(np.mean(areas)) - 0.5) < 0.08  # three standard errors of the mean of six, 40 texts a side
    assert held_out_area(two_sides, 1, SITES[0]) > 0.95  # where the last words themselves are the state


def test_heads_other_types_and_many_chunks(monkeypatch):
    high, low = two_sides(40)
    model = gpt2()
    d = fit_directions(model, high, low, "layers.1.attn.z")["layers.1.attn.z"]
    assert d.vector.shape == (4, 8)
    whole = fit_directions(model, high, low, SITES, method="pca_difference")
    monkeypatch.setattr("inscape.steer.states.HELD_BYTES", 1)
    pieces = fit_directions(model, high, low, SITES, method="pca_difference")
    for site in SITES:
        torch.testing.assert_close(pieces[site].vector, whole[site].vector, rtol=1e-3, atol=1e-4)
    half = ins.open(copy.deepcopy(gpt2_module()).bfloat16())
    got = fit_directions(half, high, low, SITES[2])[SITES[2]]
    assert got.vector.dtype == torch.float32
    assert cosine(got.vector, fit_directions(model, high, low, SITES[2])[SITES[2]].vector) > 0.99


def test_nothing_after_the_last_site_is_computed_and_nothing_is_left_behind():
    model, (high, low) = gpt2(), two_sides(4)
    called = []
    hooks = [
        part.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, part in (("head", model.module.lm_head), ("block", model.module.transformer.h[2]))
    ]
    try:
        before = hooks_left(model.module)
        fit_directions(model, high, low, "layers.1.resid_post")
        assert called == []
        assert hooks_left(model.module) == before
    finally:
        for hook in hooks:
            hook.remove()


def test_progress_is_told():
    told = []
    fit_directions(gpt2(), *two_sides(4), SITES[2], progress=lambda text, share: told.append((text, share)))
    assert told[0] == ("reading 8 texts at 1 sites", 0.0)
    assert told[-1] == ("solving 1 sites", 1.0)


@pytest.mark.parametrize(
    ("given_", "error", "says"),
    [
        ({"positive": "one text"}, ins.InputError, "positive is one text; give a list"),
        ({"positive": []}, ins.InputError, "positive is empty"),
        ({"negative": None}, ins.InputError, "needs negative texts too"),
        ({"position": "newest token"}, ins.TokenError, "no position word"),
        ({"method": "pca_diff"}, ins.InputError, "'pca_diff' is none of 'mean_difference'"),
        ({"control": "labels"}, ins.InputError, "'labels' is none of 'shuffle'"),
        ({"method": "mean"}, ins.InputError, "takes positive texts alone"),
        ({"method": "pca_difference", "negative": [[1, 2]]}, ins.InputError, "4 positive and 1 negative.*by index"),
        ({"control": "pairs", "negative": [[1, 2]]}, ins.InputError, "control='pairs' pairs them by index"),
        ({"method": "pca_difference", "positive": [[1, 2]], "negative": [[1, 3]]}, ins.InputError, "2 pairs at least"),
        ({"method": "pca", "negative": None, "positive": [[1, 2]]}, ins.InputError, "2 texts at least"),
        ({"method": "pca", "control": "shuffle"}, ins.InputError, "no sides to shuffle: take control='random'"),
        ({"control": "shuffle", "negative": [[1, 2]]}, ins.InputError, "needs two a side"),
        ({"negative": two_sides(4)[0][::-1]}, ins.InputError, "the same texts"),
        ({"position": "all"}, ins.InputError, "which token's state stands for a text"),
        ({"position": -30}, ins.TokenError, "positive text 0 has .* tokens, none of them at position=-30"),
        ({"negative": [[1, 2, 3], [], [1, 2, 3], [3]]}, ins.TokenError, "negative text 1 has 0 tokens"),
        ({"sites": "layers.*.resid_pst"}, ins.SiteError, "no site matches"),
        ({"C": 0.0, "method": "logistic"}, ins.InputError, "C=0.0: it is a positive number"),
        ({"position": "first"}, ins.InputError, "the same mean state at layers.0.resid_post.*position='first'"),
    ],
)  # fmt: skip
def test_what_cannot_give_a_direction_is_refused(given_, error, says):
    high, low = two_sides(4)
    with pytest.raises(error, match=f"(?s){says}"):
        fit_directions(gpt2(), **({"positive": high, "negative": low} | given_))


def test_pairs_that_all_differ_alike_have_no_component():
    site = "layers.0.resid_pre"
    high = [[1, 2, 5], [7, 8, 5], [3, 3, 5]]
    low = [[1, 2, 9], [7, 8, 9], [3, 3, 9]]
    with pytest.raises(ins.InputError, match=r"all pairs differ by the same vector at layers.0.resid_pre"):
        fit_directions(gpt2(), high, low, site, method="pca_difference")
    with pytest.raises(ins.InputError, match=r"all texts are alike at layers.0.resid_pre"):
        fit_directions(gpt2(), [[1, 2], [1, 2]], sites=site, method="pca")


def test_texts_are_a_list():
    with pytest.raises(ins.InputError, match="positive is a dict; give a list of texts"):
        check_texts({"a": 1}, "positive")


def test_one_text_a_side_is_warned_of():
    with pytest.warns(UserWarning, match="a direction from one text a side"):
        fit_directions(gpt2(), [[1, 2]], [[1, 3]], SITES[2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_directions(gpt2(), *two_sides(2), SITES[2])


@pytest.mark.real
def test_gemma_tells_glad_from_sad_texts_it_was_not_fitted_on(gemma):
    what = ("the news", "my exam", "the weather", "her letter", "the match", "our trip", "his song", "the dinner")
    high = [f"I was so happy about {w}, it was wonderful" for w in what]
    low = [f"I was so sad about {w}, it was terrible" for w in what]
    d = fit_directions(gemma, high[:5], low[:5], "layers.[6-9].resid_post", position=slice(-4, None))
    for site, direction in d.items():
        value = [ins.run(gemma, t, read=site)[site][0, -4:].mean(0) @ direction.vector for t in (*high[5:], *low[5:])]
        assert min(value[:3]) > max(value[3:])
