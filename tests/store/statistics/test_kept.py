"""Statistics files: used for just the rows they are of, extended, made again, and never wrong."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from inscape.core.errors import FileError, InputError
from inscape.store.statistics import PCA, Covariance, Cross, Extremes, Moments, Quantiles, TopExamples
from inscape.store.statistics import kept as kept_module
from inscape.store.statistics.files import load_statistic, path_of, save_statistic
from inscape.store.statistics.watch import Watch
from inscape.store.store import Store
from tests.store.statistics.made import claim, described, normal, store_of, units_of, write

SITE = "layers.1.resid_post"


@pytest.fixture
def x():
    return normal(50, 4, dtype=torch.float32)


@pytest.fixture
def read(monkeypatch):
    """How many rows each pass read."""
    seen = []

    def counted(store, wanted, *, segments, **options):
        seen.append(sum(s.rows for s in segments))
        return real(store, wanted, segments=segments, **options)

    real = kept_module.one_pass
    monkeypatch.setattr(kept_module, "one_pass", counted)
    return seen


EVERY = (Moments(), Covariance(), Extremes(), Quantiles(), TopExamples(3), PCA(2), PCA(2, exact_below=0))


def test_every_statistic_is_read_back_as_it_was(tmp_path, x, read):
    store = store_of(tmp_path, {SITE: x, "mlp": x})
    wanted = {SITE: EVERY, (SITE, "mlp"): Cross()}
    first = store.statistics(wanted)
    again = Store(tmp_path).statistics(wanted)
    assert read == [50]
    for one, two in zip((*first[SITE], first[(SITE, "mlp")]), (*again[SITE], again[(SITE, "mlp")]), strict=True):
        (a, about), (b, other) = one.state(), two.state()
        assert about == other
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert all(s.n == 0 for s in EVERY)  # what was asked for stays empty
    assert {p.name for p in (tmp_path / "stats").iterdir()} >= {
        f"{SITE}.moments.safetensors", f"{SITE}+mlp.cross.safetensors", f"{SITE}.top-3-largest.safetensors",
    }  # fmt: skip


def test_only_rows_that_were_added_are_read(tmp_path, x, read):
    units = units_of({SITE: x})
    about = described({SITE: x}, n_units=len(units))
    write(claim(tmp_path, about), about, units[2:5])
    store = Store(tmp_path)
    store.statistics({SITE: [Covariance(), Extremes()]})
    write(tmp_path, about, [*units[:2], *units[5:]], "a0")  # listed before the rest
    found = store.reload().statistics({SITE: [Covariance(), Extremes(), Moments()]})[SITE]
    assert sorted(read) == [18, 32, 50]  # Moments had none yet
    assert found[0].n == 50
    torch.testing.assert_close(found[0].covariance_, torch.cov(x.double().T))
    assert torch.equal(found[1].max_, x.amax(0).double())
    del read[:]
    store.statistics({SITE: [Covariance(), Extremes(), Moments()]})
    assert read == []


def test_a_file_of_rows_that_are_gone_is_made_again(tmp_path, x, read):
    store = store_of(tmp_path, {SITE: x})
    store.statistics({SITE: Moments()})
    listing = tmp_path / "manifest" / "w0.jsonl"
    lines = listing.read_text().splitlines(keepends=True)
    listing.write_text("".join(lines[1:]))  # the first shard was dropped by a repair
    left = store.reload()[SITE][:].double()
    torch.testing.assert_close(left, x[50 - len(left) :].double())
    found = store.statistics({SITE: Moments()})[SITE]
    assert read == [50, len(left)]
    torch.testing.assert_close(found.mean_, left.mean(0))


def test_a_unit_that_two_writers_have_counts_once(tmp_path, x):
    units = units_of({SITE: x})
    about = described({SITE: x}, n_units=len(units))
    write(claim(tmp_path, about), about, units, "w1")
    store = Store(tmp_path)
    store.statistics({SITE: Moments()})
    write(tmp_path, about, units[:3], "w0")  # and this one's listing comes first
    found = store.reload().statistics({SITE: Moments()})[SITE]
    assert found.n == 50
    torch.testing.assert_close(found.mean_, x.double().mean(0))


def damaged(path, how):
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif how == "flipped":
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    else:
        tensors = load_file(path)
        about = json.loads(header(path)["inscape"])
        save_file(tensors, path, metadata={"inscape": json.dumps(about | how)})


def header(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


SHA = "0" * 64
DAMAGE = [
    ("cut", "is damaged"), ("flipped", "its numbers are not those that were written"), ("empty", "is damaged"),
    ({"statistic": "extremes"}, "holds extremes of layers.1.resid_post, not moments of"),
    ({"columns": ["other"]}, "holds moments of other, not moments of layers.1.resid_post"),
    ({"kind": "direction"}, "holds direction, not statistics"), ({"version": 2}, "was written by a newer inscape"),
    ({"version": "1"}, "is damaged: '1' is no version"), ({"more": 1}, "more: Extra inputs are not permitted"),
    ({"settings": {"n": 1.5}}, "settings.n: Input should be a valid integer"),
    ({"settings": {"n": -4}}, "n is -4, not a count"),
    ({"units": {"../x": [[0, 1]]}}, "units"), ({"units": {SHA: [[0, 2**31 - 1]]}}, "names more than 67,108,864 work"),
]  # fmt: skip


@pytest.mark.parametrize(("how", "said"), DAMAGE, ids=[str(i) for i in range(len(DAMAGE))])
def test_a_damaged_file_is_told_and_made_again(tmp_path, x, read, how, said):
    store = store_of(tmp_path, {SITE: x})
    store.statistics({SITE: Moments()})
    path = path_of(tmp_path, SITE, "moments")
    damaged(path, how)
    with pytest.raises(FileError, match=said) as error:
        load_statistic(path, SITE, Moments())
    assert str(path) in str(error.value)
    assert "delete it: it is made again from the rows" in str(error.value)
    heard = []
    found = store.statistics({SITE: Moments()}, progress=lambda message, _: heard.append(message))[SITE]
    assert "It is made again." in heard[0]
    torch.testing.assert_close(found.mean_, x.double().mean(0))
    assert read == [50, 50]
    assert load_statistic(path, SITE, Moments()).statistic.n == 50


def test_what_cannot_be_written_says_how_to_do_without(tmp_path, x):
    store = store_of(tmp_path, {SITE: x})
    (tmp_path / "stats").write_text("in the way")
    with pytest.raises(FileError, match=r"statistics in .*stats could not be written(.|\n)*save=False"):
        store.statistics({SITE: Moments()})
    assert store.statistics({SITE: Moments()}, save=False)[SITE].n == 50


def test_a_file_appears_whole_or_not_at_all(tmp_path, x, monkeypatch):
    store = store_of(tmp_path, {SITE: x})
    store.statistics({SITE: Moments()})
    path = path_of(tmp_path, SITE, "moments")
    before = path.read_bytes()
    saved = load_statistic(path, SITE, Moments())

    def fail(*_):
        raise OSError(28, "no room")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileError, match="the disk is full"):
        save_statistic(path, SITE, Moments().update(x), saved.covered)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_is_asked_for_must_be_empty_and_told_apart(tmp_path, x):
    store = store_of(tmp_path, {SITE: x})
    with pytest.raises(InputError, match=r"the moments asked for of 'layers\.1\.resid_post' holds 50 rows already"):
        store.statistics({SITE: Moments().update(x)})
    with pytest.raises(InputError, match="are the same: moments, moments"):
        store.statistics({SITE: [Moments(), Moments()]})


@pytest.mark.parametrize("name", ["a/b", "..", "../../etc", "a+b", "a@b", "%2F", "x" * 300, "é" * 200])
def test_columns_of_any_name_get_a_file_of_their_own_inside_the_folder(tmp_path, x, name):
    path = path_of(tmp_path, name, "moments")
    assert path.parent == tmp_path / "stats"
    assert len(path.name.encode()) < 200
    save_statistic(path, name, Moments().update(x), frozenset())
    others = [path_of(tmp_path, other, "moments") for other in (("a", "b"), "a", "b", "x" * 299, "é" * 199)]
    assert path not in others


# -- while recording --------------------------------------------------------------------------------------------------


def watched(path, about, units, writer, wanted, shard=2):
    """Write units `shard` to a shard, and watch them."""
    from inscape.store import manifest
    from inscape.store.shard import write_shard

    watch = Watch(path, writer, about.columns, wanted)
    for number, start in enumerate(range(0, len(units), shard)):
        held, spans, at = units[start : start + shard], [], 0
        for unit in held:
            spans.append((unit.number, at, at + unit.rows))
            at += unit.rows
        pieces = {c.name: [u.values[c.name] for u in held] for c in about.columns}
        listed = write_shard(path / "shards" / f"{writer}-{number:06d}.safetensors", about.columns, pieces, spans)
        manifest.add_line(path, writer, listed)
        watch.update(listed, [u.values for u in held])
    return watch


def test_statistics_taken_by_several_writers_need_no_reading(tmp_path, x, read):
    raw, scale = x.half(), torch.tensor([1.0, 4.0]).repeat(25)
    values = {SITE: raw, f"{SITE}.scale": scale}
    units = units_of(values)
    about = described(values, {SITE: f"{SITE}.scale"}, len(units))
    claim(tmp_path, about)
    for i in range(2):
        wanted = {SITE: [Covariance(), Extremes(), TopExamples(3)]}
        watched(tmp_path, about, units[i::2], f"w{i}", wanted).save()
    store = Store(tmp_path)
    found = store.statistics({SITE: [Covariance(), Extremes(), TopExamples(3)]})[SITE]
    assert read == []
    real = raw.double() * scale[:, None]
    torch.testing.assert_close(found[0].covariance_, torch.cov(real.T))
    direct = store.statistics({SITE: [Extremes(), TopExamples(3)]}, save=False)[SITE]
    fresh = Store(tmp_path)
    for path in (tmp_path / "stats").iterdir():
        path.unlink()
    again = fresh.statistics({SITE: [Extremes(), TopExamples(3)]}, save=False)[SITE]
    assert read == [50]
    for a, b in zip(direct, again, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.state()[0].values(), b.state()[0].values(), strict=True))


def test_a_writer_that_was_killed_costs_one_read_of_its_shards(tmp_path, x, read):
    units = units_of({SITE: x})
    about = described({SITE: x}, n_units=len(units))
    claim(tmp_path, about)
    watched(tmp_path, about, units[:4], "w0", {SITE: [Moments()]})  # never saved
    watched(tmp_path, about, units[4:], "w1", {SITE: [Moments()]}).save()
    assert [p.name for p in (tmp_path / "stats").iterdir()] == [f"{SITE}.moments@w1.safetensors"]
    found = Store(tmp_path).statistics({SITE: Moments()})[SITE]
    assert read == [24]
    torch.testing.assert_close(found.variance_, x.double().var(0))
    assert [p.name for p in (tmp_path / "stats").iterdir()] == [f"{SITE}.moments.safetensors"]


def test_a_part_with_rows_that_another_has_is_not_counted_twice(tmp_path, x):
    units = units_of({SITE: x})
    about = described({SITE: x}, n_units=len(units))
    claim(tmp_path, about)
    watched(tmp_path, about, units[:5], "w0", {SITE: [Moments()]}).save()
    watched(tmp_path, about, units[3:], "w1", {SITE: [Moments()]}).save()  # units 3 and 4 again
    found = Store(tmp_path).statistics({SITE: Moments()})[SITE]
    assert found.n == 50
    torch.testing.assert_close(found.variance_, x.double().var(0))


def test_a_column_that_is_not_written_cannot_be_watched(tmp_path, x):
    with pytest.raises(InputError, match=r"no column 'mlp' is written; there are sample, pos, layers\.1\.resid_post"):
        Watch(tmp_path, "w0", described({SITE: x}).columns, {"mlp": [Moments()]})
    with pytest.raises(InputError, match="'pos' holds int64, no activations"):
        Watch(tmp_path, "w0", described({SITE: x}).columns, {"pos": [Moments()]})
