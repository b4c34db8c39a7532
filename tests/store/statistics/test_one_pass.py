"""One pass over a store: any columns and statistics at once, bounded memory, errors with sample and position."""

import pytest
import torch

from inscape.core.errors import InputError, NotFiniteError, SiteError
from inscape.store.statistics import PCA, Covariance, Cross, Extremes, Moments, Quantiles, TopExamples, locate, one_pass
from inscape.store.statistics.keys import key
from inscape.store.store import Store
from tests.store.statistics.made import claim, described, normal, store_of, units_of, write

SITE = "layers.1.resid_post"


@pytest.fixture
def x():
    return normal(50, 4, dtype=torch.float32)


@pytest.mark.parametrize("batch_bytes", [1, 300, 32 << 20])
def test_every_statistic_of_a_store_is_that_of_its_rows(tmp_path, x, batch_bytes):
    heads = normal(50, 2, 3, seed=1, dtype=torch.bfloat16)
    store = store_of(tmp_path, {SITE: x, "attn.z": heads})
    assert len({s.listed.shard for s in store.segments}) > 2
    found = [Moments(), Covariance(), Extremes(), TopExamples(3), Quantiles(), PCA(2)]
    flat, cross = Covariance(), Cross()
    said = []
    one_pass(
        store, {SITE: found, "attn.z": [flat], (SITE, "attn.z"): [cross]}, batch_bytes=batch_bytes,
        progress=lambda message, fraction: said.append((message, fraction)),
    )  # fmt: skip
    assert all(s.n == 50 for s in (*found, flat, cross))
    torch.testing.assert_close(found[0].variance_, x.double().var(0))
    torch.testing.assert_close(found[1].covariance_, torch.cov(x.double().T))
    torch.testing.assert_close(flat.covariance_, torch.cov(heads.double().flatten(1).T))
    torch.testing.assert_close(
        cross.covariance_, torch.cov(torch.cat([x, heads.flatten(1)], 1).double().T)[:4, 4:], rtol=1e-9, atol=1e-9
    )
    assert torch.equal(found[2].max_, x.amax(0).double())
    assert torch.equal(found[4].quantile(0.5), x.sort(0).values[24])
    assert said[-1] == ("statistics of 50 of 50 rows", 1.0)


def test_what_is_found_is_located_by_sample_and_position(tmp_path, x):
    store = store_of(tmp_path, {SITE: x})
    top, ends = TopExamples(3), Extremes()
    one_pass(store, {SITE: [top, ends]})
    at = locate(store, top.rows_)
    assert at.row.shape == (3, 4)
    assert torch.equal(x.gather(0, at.row).double(), top.values_)
    assert torch.equal(at.sample, at.row // 3)
    assert torch.equal(at.pos, at.row % 3)
    assert torch.equal(locate(store, ends.min_rows_).row, x.argmin(0))


def test_keys_stay_when_units_before_them_are_recorded_later(tmp_path, x):
    x[40, 2] = 99.0  # in unit 6
    units = units_of({SITE: x})
    about = described({SITE: x}, n_units=len(units))
    write(claim(tmp_path, about), about, units[3:])
    ends = Extremes()
    one_pass(Store(tmp_path), {SITE: [ends]})
    write(tmp_path, about, units[:3], "w1")
    at = locate(Store(tmp_path), ends.max_rows_[2])
    assert (int(at.row), int(at.sample), int(at.pos)) == (40, 13, 1)


def test_a_key_of_no_row_is_refused(tmp_path, x):
    store = store_of(tmp_path, {SITE: x})
    for lost in (key(99), key(2, 50)):
        with pytest.raises(InputError, match=r"has no row (0|50) of work unit (99|2)"):
            locate(store, torch.tensor([key(0), lost]))


def test_scaled_columns_are_counted_as_they_were_computed(tmp_path, x):
    raw, scale = x.half(), torch.tensor([1.0, 4.0]).repeat(25)
    store = store_of(tmp_path, {SITE: raw, f"{SITE}.scale": scale}, {SITE: f"{SITE}.scale"})
    found = Covariance()
    one_pass(store, {SITE: [found]})
    torch.testing.assert_close(found.covariance_, torch.cov((raw.double() * scale[:, None]).T))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_not_finite_is_refused_with_column_sample_and_position(tmp_path, x, value):
    y = x.clone()
    y[31, 2] = y[32, 0] = value
    store = store_of(tmp_path, {SITE: x, "mlp": y})
    said = rf"mlp: unit 2 is {value} at sample 10, position 1 \(2 such rows of the \d+ read"
    with pytest.raises(NotFiniteError, match=said):
        one_pass(store, {SITE: [Moments()], (SITE, "mlp"): [Cross()]})
    with pytest.raises(NotFiniteError, match=said):
        store.statistics({"mlp": Moments()})
    found = Moments()
    one_pass(store, {"mlp": [found]}, of=lambda rows: rows.nan_to_num(0, 0, 0))
    torch.testing.assert_close(found.mean_, y.double().nan_to_num(0, 0, 0).mean(0))


def test_rows_can_be_made_into_something_else_first(tmp_path, x):
    store = store_of(tmp_path, {SITE: x})
    found = TopExamples(2)
    matrix = normal(4, 7, seed=3, dtype=torch.float32)
    one_pass(store, {SITE: [found]}, of=lambda rows: (rows @ matrix).relu())
    torch.testing.assert_close(found.values_, (x @ matrix).relu().double().sort(0, descending=True).values[:2])


def test_an_empty_store_fills_nothing(tmp_path, x):
    about = described({SITE: x}, n_units=9)
    store = Store(claim(tmp_path, about))
    found = [Moments(), Extremes(), Quantiles(), TopExamples(), PCA()]
    one_pass(store, {SITE: found})
    assert [s.n for s in found] == [0] * 5
    given = store.statistics({SITE: Covariance()})[SITE]
    assert given.n == 0
    with pytest.raises(InputError, match="0 were seen"):
        _ = given.mean_
    assert not (tmp_path / "stats").exists()
    assert locate(store, torch.empty(0, dtype=torch.int64)).row.shape == (0,)


def test_columns_that_hold_no_activations_are_refused(tmp_path, x):
    store = store_of(tmp_path, {SITE: x, "mlp": x, "mlp.units": torch.arange(200, dtype=torch.int32).reshape(50, 4)})
    with pytest.raises(InputError, match=r"'pos' holds int64, no activations.*\n.*layers.1.resid_post"):
        one_pass(store, {"pos": [Moments()]})
    with pytest.raises(InputError, match="its places are not units"):
        one_pass(store, {"mlp": [Moments()]})
    with pytest.raises(InputError, match=r"cross takes 2 column\(s\) at once"):
        one_pass(store, {SITE: [Cross()]})
    with pytest.raises(InputError, match=r"moments takes 1 column\(s\) at once"):
        one_pass(store, {(SITE, SITE): [Moments()]})
    with pytest.raises(SiteError, match=r"the nearest are layers\.1\.resid_post"):
        one_pass(store, {"layers.1.resid_pst": [Moments()]})
