"""Linear probes against scikit-learn and against what is known on paper."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import inscape as ins
from inscape.core.logistic import minimise as solver
from inscape.read.probes import CCS, LDA, LogisticProbe, MLPProbe, RidgeProbe, control_labels, selectivity

sklearn = pytest.importorskip("sklearn")


def rows(n: int = 300, d: int = 12, classes: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated units of unlike size and middle, with overlapping classes."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) @ torch.randn(d, d, generator=g, dtype=torch.float64)
    x = x * torch.logspace(-2, 2, d, dtype=torch.float64)
    way = torch.randn(d, classes, generator=g, dtype=torch.float64)
    value = (x / x.std(0)) @ way + 2 * torch.randn(n, classes, generator=g, dtype=torch.float64)
    return x + 30 * torch.randn(d, generator=g, dtype=torch.float64), value.argmax(1)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("C", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("standardise", [True, False])
def test_logistic_regression_is_scikit_learns(classes: int, C: float, standardise: bool) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = rows(classes=classes)
    if not standardise:
        x = x / x.std(0)
    probe = LogisticProbe(C=C, standardise=standardise, tol=1e-10).fit(x, y)
    scaler = StandardScaler().fit(x.numpy()) if standardise else None
    seen = scaler.transform(x.numpy()) if scaler is not None else x.numpy()
    theirs = LogisticRegression(C=C, tol=1e-12, solver="newton-cholesky", max_iter=1000).fit(seen, y.numpy())
    scale, mean = (scaler.scale_, scaler.mean_) if scaler is not None else (1.0, 0.0)
    coefficients = theirs.coef_ / scale
    np.testing.assert_allclose(probe.weight_.numpy() * scale, theirs.coef_, atol=2e-6)
    np.testing.assert_allclose(probe.probability(x).numpy(), theirs.predict_proba(seen), atol=1e-6)
    if classes == 2:
        bias = theirs.intercept_ - coefficients @ (mean * np.ones(x.shape[1]))
        np.testing.assert_allclose(probe.bias_.numpy(), bias, rtol=1e-5, atol=1e-5)
    loss = -np.log(theirs.predict_proba(seen)[np.arange(len(y)), y.numpy()]).sum()
    assert probe.objective_ == pytest.approx(C * loss + 0.5 * (theirs.coef_**2).sum(), rel=1e-9)
    assert probe.gradient_ <= 1e-10


@pytest.mark.parametrize("classes", [2, 3])
def test_without_hessians_the_answer_is_the_same(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows(classes=classes)
    dense = LogisticProbe().fit(x, y)
    monkeypatch.setattr(solver, "DENSE", 0)
    thin = LogisticProbe().fit(x, y)
    torch.testing.assert_close(thin.weight_ * x.std(0), dense.weight_ * x.std(0), atol=1e-5, rtol=1e-5)
    assert thin.objective_ == pytest.approx(dense.objective_, rel=1e-10)


def test_rows_that_are_not_kept_give_the_same_probe() -> None:
    x, y = rows()
    kept, streamed = LogisticProbe().fit(x, y), LogisticProbe(memory=0).fit(x, y)
    torch.testing.assert_close(kept.weight_, streamed.weight_, rtol=1e-6, atol=1e-7)


def test_one_unit_and_four_rows_have_their_logit_by_hand() -> None:
    x, y = torch.tensor([[1.0], [1.0], [1.0], [-1.0]]), torch.tensor([1, 1, 0, 0])
    probe = LogisticProbe(C=1e8, standardise=False, tol=1e-10)
    with pytest.raises(ins.NotConvergedError, match=r"ended at a gradient of .*\n.*lower C"):
        LogisticProbe(C=1e8, tol=1e-12, max_rounds=3).fit(x, y)
    probe = LogisticProbe(C=1e5, standardise=False, tol=1e-9).fit(torch.cat([x, -x]), torch.cat([y, 1 - y]))
    # x = 1: three of four say yes, so does 1 - x = -1: one of four; w = log 3, b = 0
    assert float(probe.weight_) == pytest.approx(np.log(3), rel=1e-4)
    assert float(probe.bias_) == pytest.approx(0, abs=1e-6)


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50), size=st.floats(0.1, 10))
def test_the_units_of_rows_do_not_matter_to_a_standardised_probe(seed: int, shift: float, size: float) -> None:
    x, y = rows(60, 4, seed=seed)
    if len(y.unique()) < 2:
        return
    plain, moved = LogisticProbe().fit(x, y), LogisticProbe().fit(x * size + shift, y)
    torch.testing.assert_close(plain.transform(x), moved.transform(x * size + shift), atol=1e-5, rtol=1e-5)


def test_words_are_classes_and_each_has_its_direction() -> None:
    x, y = rows(classes=3)
    names = np.array(["cat", "dog", "eel"])[y.numpy()]
    probe = LogisticProbe().fit(x, names)
    assert set(probe.predict(x)) <= {"cat", "dog", "eel"}
    assert probe.score(x, names) == LogisticProbe().fit(x, y).score(x, y)
    interval = probe.score(x, names, interval=True, by=torch.arange(len(x)) // 3)
    assert interval.low < float(interval) < interval.high
    assert interval.n_items == 100
    torch.testing.assert_close(probe.direction("a", of="dog").vector, probe.weight_[1])
    with pytest.raises(ins.InputError, match="knows 3 classes: say which, of='cat'"):
        probe.direction("a")
    with pytest.raises(ins.InputError, match="no class 'fox'; the classes are 'cat', 'dog', 'eel'"):
        probe.direction("a", of="fox")
    two = LogisticProbe().fit(x, names == "dog")
    torch.testing.assert_close(two.direction("a", of=False).vector, -two.direction("a").vector)
    with pytest.raises(ins.InputError, match=r"C=-1\.0"):
        LogisticProbe(C=-1.0).fit(x, y)
    with pytest.raises(ins.InputError, match=r"tol=0\.0"):
        LogisticProbe(tol=0.0).fit(x, y)
    with pytest.raises(ins.InputError, match="does not know its site"):
        two.direction()


@pytest.mark.parametrize("penalty", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("standardise", [True, False])
def test_ridge_is_scikit_learns(penalty: float, standardise: bool) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    x, _ = rows()
    x = x / x.std(0)
    g = torch.Generator().manual_seed(1)
    y = x @ torch.randn(12, 3, generator=g, dtype=torch.float64) + torch.randn(300, 3, generator=g)
    probe = RidgeProbe(penalty, standardise=standardise).fit(x, y)
    scaler = StandardScaler(with_std=standardise).fit(x.numpy())
    theirs = Ridge(alpha=penalty).fit(scaler.transform(x.numpy()), y.numpy())
    np.testing.assert_allclose(probe.predict(x).numpy(), theirs.predict(scaler.transform(x.numpy())), atol=1e-8)
    assert probe.score(x, y) == pytest.approx(theirs.score(scaler.transform(x.numpy()), y.numpy()), abs=1e-10)
    interval = probe.score(x, y, interval=True)
    assert interval.low < float(interval) < interval.high
    one = RidgeProbe(penalty, standardise=standardise).fit(x, y[:, 1])
    torch.testing.assert_close(one.predict(x), probe.predict(x)[:, 1])
    torch.testing.assert_close(one.direction("s").vector, probe.direction("s", of=1).vector)


def test_ridge_refuses_what_has_no_answer() -> None:
    x = torch.randn(10, 20, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ins.InputError, match="no one best map"):
        RidgeProbe(0.0).fit(x, torch.arange(10.0))
    with pytest.raises(ins.InputError, match=r"penalty=-1\.0"):
        RidgeProbe(-1.0).fit(x, torch.arange(10.0))
    with pytest.raises(ins.InputError, match="targets are numbers"):
        RidgeProbe().fit(x, ["a"] * 10)
    with pytest.raises(ins.ShapeError, match="9 targets for 10 rows"):
        RidgeProbe().fit(x, torch.zeros(9, 2))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_lda_is_scikit_learns(classes: int, shrinkage: float) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    x, y = rows(classes=classes)
    x = x / x.std(0)
    ours = LDA(shrinkage).fit(x, y)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x.numpy(), y.numpy())
    values = theirs.decision_function(x.numpy())
    np.testing.assert_allclose(ours.transform(x).numpy().squeeze(), values, rtol=1e-6, atol=1e-6)


def test_the_shrinkage_is_ledoit_and_wolfs() -> None:
    from sklearn.covariance import ledoit_wolf_shrinkage

    x, y = rows(40, 12, classes=3)
    probe = LDA().fit(x, y)
    left = x - torch.stack([x[y == k].mean(0) for k in range(3)])[y]
    left = left / left.square().mean(0).sqrt()
    assert probe.shrinkage_ == pytest.approx(ledoit_wolf_shrinkage(left.numpy(), assume_centered=True), abs=1e-10)
    assert 0.05 < probe.shrinkage_ < 1
    with pytest.raises(ins.InputError, match="singular covariance"):
        LDA(0.0).fit(x[:10], y[:10])
    with pytest.raises(ins.InputError, match=r"shrinkage=2\.0"):
        LDA(2.0).fit(x, y)


def statements(n: int = 200, noise: float = 0.3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    true = torch.rand(n, generator=g) < 0.5
    sign = torch.where(true, 1.0, -1.0)[:, None] * torch.tensor([1.0, *[0.0] * 9])
    draw = lambda: torch.randn(n, 10, generator=g)  # noqa: E731
    yes = torch.tensor([0.0, 5.0, *[0.0] * 8])  # that the answer is yes is no truth
    return sign + noise * draw() + yes, -sign + noise * draw(), true


def test_truth_is_found_without_labels_and_yes_is_not_mistaken_for_it() -> None:
    x, y, _ = statements()
    held = statements(seed=1)
    probe = CCS().fit(x, y)
    assert probe.score(*held) > 0.95
    assert probe.score(held[0], held[1]) > 0.8
    along = probe.direction("s").unit.abs()
    assert float(along[0]) > 0.9
    assert float(along[1]) < 0.3
    random = [CCS(control="random", seed=s).fit(x, y).score(held[0], held[1]) for s in range(10)]
    assert max(random) < probe.score(held[0], held[1])
    assert probe.score(*held, interval=True).low > 0.9
    assert probe.score(held[0], held[1], interval=True).high < 1.0
    with pytest.raises(ins.ShapeError, match="give pairs"):
        CCS().fit(x, y[:-1])
    with pytest.raises(ins.InputError, match="give two pairs"):
        CCS().fit(x[:1], y[:1])


def test_a_network_tells_what_no_plane_does_and_selectivity_says_if_it_remembers() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1200, 6, generator=g)
    y = (x[:, 0] * x[:, 1] > 0).long()
    assert LogisticProbe().fit(x[:800], y[:800]).score(x[800:], y[800:]) < 0.6
    assert MLPProbe().fit(x[:800], y[:800]).score(x[800:], y[800:]) > 0.9
    # rows that are words: a network learns any label of them, a plane does not, and both learn the word's first unit
    words = torch.randn(60, 6, generator=g)
    which = torch.randint(0, 60, (1200,), generator=g)
    seen = words[which] + 0.05 * torch.randn(1200, 6, generator=g)
    label = (words[which, 0] > 0).long()
    both = [
        selectivity(p, seen[:800], label[:800], seen[800:], label[800:], types=which[:800], held_types=which[800:])
        for p in (LogisticProbe(), MLPProbe(steps=800))
    ]
    assert both[0].accuracy > 0.9
    assert both[1].accuracy > 0.9
    assert both[1].control > both[0].control + 0.1
    assert both[0].value.excludes(0.0)
    assert both[0].value.value > both[1].value.value
    with pytest.raises(ins.InputError, match="cannot be learned at all"):
        selectivity(LogisticProbe(), x[:2], y[:2], x[2:4], y[2:4], types=[0, 1], held_types=[2, 3])


def test_a_type_has_one_control_label() -> None:
    types, y = np.repeat(np.arange(50), 4), np.arange(200) % 5
    label = control_labels(types, y, seed=3)
    assert all(len(set(label[types == t])) == 1 for t in range(50))
    assert len(set(label)) == 5


def test_a_probe_of_a_store_makes_an_edit_in_one_line_that_knows_its_model(tmp_path: Path) -> None:
    from tests.common.small import gpt2, gpt2_module

    model = gpt2()
    ids = torch.randint(0, 60, (40, 5), generator=torch.Generator().manual_seed(0)).tolist()
    store = ins.record(model, ids, "layers.1.resid_post", tmp_path / "s")
    site = store.sites[0]
    probe = LogisticProbe().fit(store[site], torch.arange(len(store)) % 2)
    assert (probe.site_, probe.model_) == (site, model.fingerprint)
    edit = ins.add(probe.direction(), 3.0)
    plain = ins.run(model, ids[:2], read=site)
    moved = ins.run(model, ids[:2], read=site, edits=[edit])
    expected = plain[site] + 3 * probe.weight_[0].float()
    torch.testing.assert_close(moved[site], expected, atol=1e-4, rtol=1e-4)
    gone = ins.run(model, ids[:2], read=site, edits=[ins.project_out(probe.direction())])[site]
    assert float((gone @ probe.weight_[0].float()).abs().max()) < 1e-3
    ins.save_readout(tmp_path / "p.safetensors", probe)
    assert ins.load_readout(tmp_path / "p.safetensors", model=model, site=site).model_ == model.fingerprint
    with pytest.raises(ins.ModelError, match="another model"):
        ins.load_readout(tmp_path / "p.safetensors", model=ins.open(gpt2_module(2)))
