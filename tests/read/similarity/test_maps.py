"""Maps between layers: planted relations, scikit-learn's ridge, held-out rows only, and rows that do not belong."""

from pathlib import Path

import pytest
import torch

import inscape as ins
from inscape.read.similarity import map_layers
from inscape.read.similarity import maps as maps_module
from inscape.read.similarity.columns import together
from inscape.store.schema import Column
from tests.read.similarity.test_cka import normal
from tests.store.made import store_with


def models(n: int = 400) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A of three layers, B of six: layer i of A and layer 2 i + 1 of B hold the same, everything else its own."""
    shared = [normal(n, 6, seed=i) for i in range(3)]
    a = {f"a{i}": shared[i] @ normal(6, 8, seed=20 + i) + 3 for i in range(3)}
    b = {}
    for j in range(6):
        held = shared[j // 2] if j % 2 else normal(n, 6, seed=50 + j)
        b[f"b{j}"] = held @ normal(6, 10, seed=30 + j) + 0.1 * normal(n, 10, seed=40 + j) + 1
    return a, b


def test_the_layer_that_holds_the_same_is_the_best_match_and_shuffled_pairs_give_a_constant() -> None:
    a, b = models()
    found = map_layers(a, b)
    assert found.best.tolist() == [1, 3, 5]
    at = torch.arange(3)
    assert bool((found.r2[at, found.best] > 0.98).all())
    assert bool((found.r2[:, ::2] < 0.05).all())
    assert found.shuffled_r2 is not None
    assert float(found.shuffled_r2.abs().max()) < 0.1
    assert found.low is not None
    assert found.high is not None
    assert bool(((found.low <= found.error) & (found.error <= found.high)).all())
    assert (found.n_train, found.n_test) == (300, 100)


def test_a_map_is_scikit_learns_ridge_on_the_same_rows() -> None:
    from sklearn.linear_model import Ridge

    a, b = models(120)
    x, y = a["a0"] * 5, b["b1"] + normal(120, 10, seed=7)
    found = map_layers({"x": x}, {"y": y}, penalties=[0.3], control=None)
    import numpy as np

    test = np.zeros(120, bool)
    test[np.random.default_rng(0).permutation(120)[:30]] = True
    mean = ((x[~test] - x[~test].mean(0)).T @ (x[~test] - x[~test].mean(0))).trace() / 8
    known = Ridge(0.3 * float(mean)).fit(x[~test].numpy(), y[~test].numpy()).predict(x[test].numpy())
    error = torch.from_numpy(known) - y[test]
    assert float(found.error) == pytest.approx(float((error.norm(dim=1) / y[test].norm(dim=1)).mean()), abs=1e-6)
    r2 = 1 - error.square().sum() / (y[test] - y[~test].mean(0)).square().sum()
    assert float(found.r2) == pytest.approx(float(r2), abs=1e-6)


def test_a_penalty_is_found_where_there_are_as_many_units_as_rows() -> None:
    x = normal(100, 70)
    y = x[:, :1] @ normal(1, 5, seed=3) + normal(100, 5, seed=4)
    least = map_layers({"x": x}, {"y": y}, penalties=[1e-8], control=None)
    chosen = map_layers({"x": x}, {"y": y}, control=None)
    assert float(least.r2) < 0
    assert float(chosen.r2) > float(least.r2) + 0.3
    assert float(chosen.penalty) > 1e-3


@pytest.mark.parametrize("n", [60, 100, 110])
def test_a_penalty_is_found_where_there_are_fewer_rows_than_units(n: int) -> None:
    x = normal(n, 80) * torch.linspace(3, 0.1, 80) + 100
    y = x[:, :3] @ normal(3, 5, seed=3) + 0.5 * normal(n, 5, seed=4)
    found = map_layers({"x": x}, {"y": y, "noise": normal(n, 5, seed=5)})
    assert float(found.r2[0, 0]) > 0.5
    assert found.shuffled_r2 is not None
    assert float(found.r2[0, 1]) > -0.5
    assert float(found.shuffled_r2.min()) > -0.7


def test_an_orthogonal_map_turns_and_scales_and_nothing_more() -> None:
    x = normal(300, 5)
    turn = torch.linalg.qr(normal(5, 5, seed=1))[0]
    stretch = torch.diag(torch.tensor([4.0, 1.0, 1.0, 1.0, 0.1], dtype=torch.float64))
    b = {"turned": 3 * x @ turn + 2, "wider": x @ torch.cat([turn, torch.zeros(5, 3)], 1), "narrower": 2 * x[:, :3],
         "stretched": x @ stretch}  # fmt: skip
    found = map_layers({"x": x}, b, how="orthogonal")
    assert found.r2[0, :2].tolist() == pytest.approx([1.0] * 2, abs=1e-5)
    assert float(found.r2[0, 2]) > 0.99  # to fewer units it is that of targets padded with zeros
    assert float(found.r2[0, 3]) < 0.9
    assert map_layers({"x": x}, b).r2[0].tolist() == pytest.approx([1.0] * 4, abs=1e-4)


def test_pieces_change_nothing_and_whole_items_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = models()
    by = [i // 8 for i in range(400)]
    whole = map_layers(a, b, by=by, penalties=[1e-6], control=None)
    monkeypatch.setattr(maps_module, "together", lambda columns, **k: together(columns, **k, batch_bytes=4 * 68 * 40))
    cut = map_layers(a, b, by=by, penalties=[1e-6], control=None)
    torch.testing.assert_close(cut.error, whole.error, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(cut.r2, whole.r2, rtol=1e-5, atol=1e-5)
    assert whole.n_test % 8 == 0


def test_stores_of_other_tokens_are_refused(tmp_path: Path) -> None:
    columns = (
        Column(name="token", dtype="int32"),
        Column(name="x", dtype="float32", shape=(3,), site="layers.0.resid_post"),
    )
    rows = normal(40, 3).float()
    tokens = torch.arange(40, dtype=torch.int32)
    one = store_with(tmp_path / "a", columns, {"token": [tokens], "x": [rows]})
    two = store_with(tmp_path / "b", columns, {"token": [tokens.flip(0)], "x": [rows]})
    assert float(map_layers(one, one).r2) > 0.99
    with pytest.raises(ins.ShapeError, match="row 0 has token 0 in one store and 39"):
        map_layers(one, two)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"how": "lasso"}, "'ridge' and 'orthogonal'"),
        ({"held_out": 1.0}, "a share between"),
        ({"penalties": [0.0]}, "penalties above 0"),
        ({"budget_bytes": 10}, "fewer layers of B"),
        ({"by": [0] * 40}, "take more"),
        ({"control": "random"}, "'shuffle' or None"),
    ],
)
def test_impossible_maps_say_what_to_do(settings: dict, says: str) -> None:
    with pytest.raises(ins.core.errors.InscapeError, match=says):
        map_layers({"x": normal(40, 3)}, {"y": normal(40, 3)}, **settings)
    with pytest.raises(ins.ShapeError, match="the same items"):
        map_layers({"x": normal(40, 3)}, {"y": normal(39, 3)})
