"""Erasure: nothing is left to linear probes, the change is the smallest, and edits do the same as the maths."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.edits.erase import erase
from inscape.read.probes.logistic import LogisticProbe
from inscape.steer.erase import Eraser
from tests.common.small import gpt2


def rows(n: int = 300, d: int = 12, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated units with class means of their own."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=draw, dtype=torch.float64)
    y = torch.arange(n) % classes
    means = torch.randn(classes, d, generator=draw, dtype=torch.float64) * 2
    return torch.randn(n, d, generator=draw, dtype=torch.float64) @ mix + means[y] + 7, y


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_afterwards_the_gradient_of_every_linear_probe_at_the_shares_is_exactly_zero(whiten, classes):
    x, y = rows(classes=classes)
    eraser = Eraser(whiten=whiten).fit(x, y)
    assert eraser.reads_.shape == (12, classes - 1)
    r, z = eraser.transform(x), torch.nn.functional.one_hot(y, classes).double()
    gradient = r.T @ (z.mean(0) - z) / len(x)  # of the cross-entropy at weights 0 and the biases of the shares
    assert float(gradient.abs().max()) < 1e-12 * float(x.abs().max()) * 12
    assert eraser.score(x, y) < 1e-10
    assert LogisticProbe(C=100.0).fit(x, y).score(x, y) > 0.7
    probe = LogisticProbe(C=100.0).fit(r, y)
    assert float(probe.weight_.abs().max()) < 1e-7
    assert probe.score(r, y) <= float(z.mean(0).max()) + 0.01


@given(seed=st.integers(0, 200), classes=st.integers(2, 4), d=st.integers(4, 9))
def test_it_is_a_projection_that_keeps_the_mean_and_of_least_change(seed, classes, d):
    x, y = rows(120, d, classes, seed)
    eraser = Eraser().fit(x, y)
    r = eraser.transform(x)
    torch.testing.assert_close(eraser.transform(r), r, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(r.mean(0), x.mean(0), rtol=1e-9, atol=1e-9)
    moved = float((r - x).square().sum() / (x - x.mean(0)).square().sum())
    assert eraser.changed_ == pytest.approx(moved, rel=1e-6)
    orthogonal = Eraser(whiten=False).fit(x, y)
    assert eraser.changed_ <= orthogonal.changed_ * (1 + 1e-9)


def test_it_is_the_formula_of_the_paper():
    x, y = rows()
    c = torch.cov(x.T)
    z = torch.nn.functional.one_hot(y, 3).double()
    cross = (x - x.mean(0)).T @ (z - z.mean(0)) / (len(x) - 1)
    values, vectors = torch.linalg.eigh(c)
    w, w_plus = ((vectors * values**p) @ vectors.T for p in (-0.5, 0.5))
    m = w @ cross
    p = m @ torch.linalg.pinv(m)
    want = x - (x - x.mean(0)) @ (w_plus @ p @ w).T
    torch.testing.assert_close(Eraser().fit(x, y).transform(x), want, rtol=1e-9, atol=1e-9)


def test_numbers_are_erased_as_classes_are():
    x, _ = rows()
    y = x[:, :2] @ torch.tensor([[1.0, 0.3], [-2.0, 1.0]], dtype=torch.float64)
    y = y + torch.randn(300, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    eraser = Eraser().fit(x, y)
    assert eraser.classes_ is None
    assert eraser.score(x, y) < 1e-10
    assert Eraser().fit(x, y[:, 0]).reads_.shape == (12, 1)


def test_a_shuffled_eraser_leaves_the_labels_and_names_work():
    x, y = rows()
    names = [("a", "b", "c")[i] for i in y.tolist()]
    assert Eraser().fit(x, names).classes_ == ("a", "b", "c")
    dark = Eraser(control="shuffle").fit(x, y)
    assert dark.reads_.shape == (12, 2)
    assert dark.score(x, y) > 0.8


def test_rows_it_was_not_fitted_on_keep_what_two_samples_differ_by():
    left = []
    for n in (500, 8000):  # 16 times the rows: a quarter of what is left
        x, y = rows(2 * n)
        left.append(Eraser().fit(x[:n], y[:n]).score(x[n:], y[n:]))
    assert left[1] < 0.15
    assert left[1] < 0.5 * left[0]


def test_fewer_rows_than_units_and_units_that_do_not_vary():
    x, y = rows(20, 50, 2)
    x[:, 3] = 1.0
    eraser = Eraser().fit(x, y)
    assert eraser.score(x, y) < 1e-8
    assert float((eraser.transform(x)[:, 3] - 1).abs().max()) < 1e-6


def test_the_edit_does_the_same_in_a_run_in_places_and_from_a_file(tmp_path):
    model, site = gpt2(), "layers.1.resid_post"
    prompts = [[3, 4, 5, 6], [9, 8, 7, 2]]
    draw = torch.Generator().manual_seed(0)
    texts = torch.randint(1, 64, (60, 5), generator=draw).tolist()
    x = torch.cat([ins.run(model, [t], read=site)[site][0] for t in texts])
    y = torch.tensor(texts).flatten() > 30
    eraser = Eraser().fit(x, y)
    plain = ins.run(model, prompts, read=site)[site]
    edited = ins.run(model, prompts, read=site, edits=[eraser.edit(site)])[site]
    want = eraser.transform(plain.flatten(0, 1)).reshape(plain.shape).float()
    torch.testing.assert_close(edited, want, rtol=1e-4, atol=1e-4)
    half = ins.run(model, prompts, read=site, edits=[eraser.edit(site, strength=0.5)])[site]
    torch.testing.assert_close(half, (plain + want) / 2, rtol=1e-4, atol=1e-4)
    last = ins.run(model, prompts, read=site, edits=[eraser.edit(site, at="last")])[site]
    torch.testing.assert_close(last[:, :-1], plain[:, :-1])
    ins.save_edits(tmp_path / "e.safetensors", eraser.edit(site, source="case"))
    (back,) = ins.load_edits(tmp_path / "e.safetensors")
    assert back.label == "without case"
    torch.testing.assert_close(ins.run(model, prompts, read=site, edits=[back])[site], edited)
    made = ins.generate(model, prompts, edits=[eraser.edit(site)], max_new_tokens=3, do_sample=False)
    assert made.tokens.shape == (2, 3)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x, y: Eraser().transform(x), ins.NotFittedError, "has not been fitted"),
        (lambda x, y: Eraser().fit(x, y * 0), ins.InputError, "all labels are alike"),
        (lambda x, y: Eraser().fit(x * 0, y), ins.InputError, "do not vary: there is nothing to erase from"),
        (lambda x, y: Eraser().fit(x, y * 0.0), ins.InputError, "do not vary"),
        (lambda x, y: Eraser().fit(x, torch.ones(3, 2)), ins.ShapeError, "for 300 rows"),
        (lambda x, y: Eraser(control="random").fit(x, y), ins.InputError, "control='random' is none of an eraser"),
        (lambda x, y: Eraser().fit(x, y).edit(), ins.InputError, "does not know its site"),
        (lambda x, y: Eraser().fit(x, y).transform(x[:, :5]), ins.ShapeError, "fitted on rows of 12 units"),
        (lambda x, y: ins.run(gpt2(), [[1, 2]], edits=[Eraser().fit(x, y).edit("embed")]), ins.ShapeError,
         "fitted on 12 units; the site's last axis has 32"),
    ],
)  # fmt: skip
def test_what_cannot_be_erased_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call(*rows())


def test_matrices_that_do_not_fit_are_refused():
    with pytest.raises(ins.ShapeError, match="do not fit"):
        erase("embed", torch.ones(3, 2), torch.ones(3, 1), torch.ones(3))


def test_labels_that_do_not_covary_at_all_are_refused():
    x = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]])
    with pytest.raises(ins.InputError, match="do not covary at all"):
        Eraser().fit(x, [0, 0, 1, 1])
