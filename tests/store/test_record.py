"""Recording: rows are the engine's values, whoever computes them, however often it was stopped."""

import copy
import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import inscape as ins
from inscape.store.check import verify
from tests.common.small import gpt2, gpt2_module
from tests.common.zoo import build, inputs_for

SITES = ["layers.0.resid_post", "layers.2.attn_out"]


def data(n: int = 23) -> list[list[int]]:
    return [[(7 * i + j) % 60 + 1 for j in range(3 + (5 * i) % 11)] for i in range(n)]


def own() -> "ins.Model":
    """A model whose weights this test may change."""
    return ins.open(copy.deepcopy(gpt2_module()))


def same(a: "ins.Store", b: "ins.Store") -> None:
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name][:], b[name][:]), name


def test_rows_are_the_values_of_the_engine(tmp_path: Path) -> None:
    model = gpt2()
    store = ins.record(model, data(), SITES, tmp_path / "s", unit_samples=5, batch_tokens=30, shard_bytes=3000)
    assert store.is_complete
    assert len(store) == sum(map(len, data()))
    assert len(store.listed) > 2
    for i, ids in enumerate(data()):
        trace = ins.run(model, [ids], read=SITES)
        mine = store.of(i)
        assert mine["token"].tolist() == ids
        assert mine["pos"].tolist() == list(range(len(ids)))
        for site in SITES:
            torch.testing.assert_close(mine[site], trace[site][0], atol=1e-5, rtol=1e-5)
    assert store.samples()[3] == {"sample": 3, "tokens": len(data()[3])}


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [("last", lambda x: x[-1:]), ("first", lambda x: x[:1]), ("mean", lambda x: x.mean(0, keepdim=True)),
     (slice(None, None, 3), lambda x: x[::3]), ([0, 2], lambda x: x[[0, 2]]), (-2, lambda x: x[-2:-1])],
)  # fmt: skip
def test_reductions_keep_the_rows_they_name(tmp_path: Path, reduce: Any, expected: Any) -> None:
    model = gpt2()
    store = ins.record(model, data(), SITES[0], tmp_path / "s", reduce=reduce, unit_samples=6)
    for i in (0, 4, 22):
        value = ins.run(model, [data()[i]], read=SITES[0])[SITES[0]][0]
        torch.testing.assert_close(store.of(i)[SITES[0]], expected(value), atol=1e-5, rtol=1e-5)
    assert (int(store["pos"][0]) == -1) == (reduce == "mean")


def test_what_is_kept_of_a_row_can_be_less(tmp_path: Path) -> None:
    model = gpt2()
    sites = {
        "top": ("layers.1.mlp.act", ins.top_k(5)),
        "small": ("layers.1.resid_post", ins.project(6, seed=2)),
        "size": ("layers.1.resid_post", "norm"),
    }
    store = ins.record(model, data(6), sites, tmp_path / "s")
    trace = ins.run(model, [data()[2]], read=["layers.1.mlp.act", "layers.1.resid_post"])
    act, stream = trace["layers.1.mlp.act"][0], trace["layers.1.resid_post"][0]
    mine = store.of(2)
    torch.testing.assert_close(mine["top"], act.gather(1, mine["top.units"].long()))
    torch.testing.assert_close(mine["top"].abs(), act.abs().topk(5).values, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mine["size"], stream.norm(dim=-1), atol=1e-4, rtol=1e-4)
    r = torch.randn(32, 6, generator=torch.Generator().manual_seed(2)) / 6**0.5
    torch.testing.assert_close(mine["small"], stream @ r, atol=1e-4, rtol=1e-4)
    assert (store.sites, store["top.units"].dtype) == (["top", "small", "size"], torch.int32)


def test_two_workers_make_the_same_store_as_one(tmp_path: Path) -> None:
    model = gpt2()
    alone = ins.record(model, data(), SITES, tmp_path / "a", unit_samples=4, dtype="bfloat16")
    options = {"unit_samples": 4, "dtype": "bfloat16"}
    half = ins.record(model, data(), SITES, tmp_path / "b", worker=(0, 2), **options)
    assert half.missing == [1, 3, 5]
    assert "3 of 6 units" in repr(half)
    same(alone, ins.record(model, data(), SITES, tmp_path / "b", worker=(1, 2), **options))


def test_a_failed_record_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inscape.store import shard

    model, real, written = gpt2(), shard._write, [0]
    whole = ins.record(model, data(), SITES, tmp_path / "a", unit_samples=2, shard_bytes=2000)

    def full(handle: int, data_: Any) -> None:
        written[0] += 1
        if written[0] == 30:
            os.write(handle, bytes(data_)[:3])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle, data_)

    monkeypatch.setattr(shard, "_write", full)
    with pytest.raises(ins.FileError, match=r"the disk is full.*\n.*rows of this writer are safe"):
        ins.record(model, data(), SITES, tmp_path / "b", unit_samples=2, shard_bytes=2000)
    assert 0 < len(ins.Store(tmp_path / "b")) < len(whole)
    assert verify(tmp_path / "b").is_sound
    same(whole, ins.record(model, data(), SITES, tmp_path / "b", unit_samples=2, shard_bytes=2000))
    assert not [p for p in (tmp_path / "b" / "shards").iterdir() if p.name.startswith(".")]


def test_a_changed_job_is_refused_with_the_differences(tmp_path: Path) -> None:
    model, to = own(), tmp_path / "s"
    ins.record(model, data(), SITES, to, dtype="bfloat16")
    with pytest.raises(ins.FileError, match=r"dtype: bfloat16 in the store, float16 asked for"):
        ins.record(model, data(), SITES, to, dtype="float16")
    with pytest.raises(ins.FileError, match=r"data: .* asked for"):
        ins.record(model, data()[1:], SITES, to, dtype="bfloat16")
    with pytest.raises(ins.FileError, match=r"job.reduce: None in the store, last asked for"):
        ins.record(model, data(), SITES, to, dtype="bfloat16", reduce="last")
    with torch.no_grad():
        model.module.transformer.h[0].mlp.c_fc.weight.mul_(1.1)
    with pytest.raises(ins.FileError, match="model: "):
        ins.record(model, data(), SITES, to, dtype="bfloat16")


def test_values_that_do_not_fit_are_refused_or_scaled_never_infinite(tmp_path: Path) -> None:
    model = own()
    with torch.no_grad():
        model.module.transformer.h[0].mlp.c_proj.bias[3] = 1e6
    site = "layers.0.resid_post"
    with pytest.raises(
        ins.NotFiniteError, match=r"layers.0.resid_post: float16 cannot hold [0-9e+]+ \(position 0, token 1"
    ):
        ins.record(model, data(), site, tmp_path / "a", dtype="float16")
    store = ins.record(model, data(), site, tmp_path / "b", dtype="float16", overflow="scale")
    value = ins.run(model, [data()[4]], read=site)[site][0]
    torch.testing.assert_close(store.of(4)[site], value, rtol=1e-3, atol=1.0)
    (batch,) = store.batches(len(store), site)
    assert bool(torch.isfinite(batch[site]).all())
    assert float(batch[site].max()) == pytest.approx(1e6, rel=1e-3)


def test_what_the_model_itself_gets_wrong_is_said_with_site_and_token(tmp_path: Path) -> None:
    model = own()
    with torch.no_grad():
        model.module.transformer.wte.weight[9] = torch.nan
    with pytest.raises(ins.NotFiniteError, match=r"the model itself computed nan \(position \d+, token \d+"):
        ins.record(model, data(), "layers.0.resid_post", tmp_path / "a")
    assert ins.record(model, data(), "layers.0.resid_post", tmp_path / "b", allow_nan=True).is_complete


def test_bad_requests_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    model = gpt2()
    with pytest.raises(ins.InputError, match="can be gone through once"):
        ins.record(model, iter(data()), SITES, tmp_path / "s")
    with pytest.raises(ins.InputError, match="are empty"):
        ins.record(model, [], SITES, tmp_path / "s")
    with pytest.raises(ins.SiteError, match="no site matches"):
        ins.record(model, data(), "layers.9.resid_post", tmp_path / "s")
    with pytest.raises(ins.InputError, match="attention maps and scores have two positions"):
        ins.record(model, data(), "layers.0.attn.pattern", tmp_path / "s")
    with pytest.raises(ins.InputError, match="says nothing about what to store"):
        ins.record(model, data(), {"a": (SITES[0], "best")}, tmp_path / "s")
    with pytest.raises(ins.InputError, match="workers count from 0"):
        ins.record(model, data(), SITES, tmp_path / "s2", worker=(2, 2))
    with pytest.raises(ins.InputError, match="no tokenizer"):
        ins.record(model, ["text"], SITES, tmp_path / "s")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letters.txt").write_text("mine")
    with pytest.raises(ins.FileError, match="is not empty and no store"):
        ins.record(model, data(), SITES, tmp_path / "full")
    assert not (tmp_path / "s").exists()


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ins.FileError, match=r"could not be written.*\n.*choose a folder"):
        ins.record(gpt2(), data(), SITES, tmp_path / "file" / "s")

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "acts")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(ins.FileError, match="Read-only file system"):
        ins.record(gpt2(), data(), SITES, tmp_path / "s")


def test_statistics_taken_on_the_way_are_those_of_the_rows(tmp_path: Path) -> None:
    from inscape.store.statistics import Covariance, Extremes, Moments

    wanted = {SITES[0]: [Moments(), Extremes()], SITES[1]: Covariance()}
    options = {"unit_samples": 3, "shard_bytes": 2000, "statistics": wanted}
    for worker in ((0, 2), (1, 2)):
        store = ins.record(gpt2(), data(), SITES, tmp_path / "s", worker=worker, **options)
    told: list[str] = []
    found = store.statistics(wanted, progress=lambda message, fraction: told.append(message))
    assert not [t for t in told if "read" in t], told
    x = store[SITES[0]][:].double()
    torch.testing.assert_close(found[SITES[0]][0].mean_, x.mean(0), rtol=1e-9, atol=1e-9)
    with pytest.raises(ins.InputError, match="no column 'nothing' is written"):
        ins.record(gpt2(), data(), SITES, tmp_path / "t", statistics={"nothing": Moments()})
    with pytest.raises(ins.InputError, match="exclude each other"):
        ins.record(gpt2(), data(), SITES, tmp_path / "u", statistics=wanted, allow_nan=True)


def test_places_of_a_picture_are_averaged_by_their_axes(tmp_path: Path) -> None:
    model = ins.open(build("vit"))
    images = inputs_for("vit")["pixel_values"]
    sites = ["layers.0.attn.z", "layers.0.resid_post"]
    store = ins.record(model, list(images), sites, tmp_path / "s", reduce="mean")
    trace = ins.run(model, {"pixel_values": images}, read=sites)
    for site in sites:
        torch.testing.assert_close(store[site][:], trace[site].mean(1), atol=1e-5, rtol=1e-4)


def test_a_mean_in_half_precision_does_not_overflow(tmp_path: Path) -> None:
    model = own()
    with torch.no_grad():
        model.module.transformer.h[0].mlp.c_proj.bias[3] = 30_000.0
    model.module.half()
    site = "layers.0.resid_post"
    store = ins.record(model, [[1, 2, 3, 4, 5, 6, 7, 8]] * 2, site, tmp_path / "s", reduce="mean")
    assert float(store[site][0, 3]) == pytest.approx(30_000, rel=1e-2)


def test_what_a_record_cannot_keep_right_is_refused(tmp_path: Path) -> None:
    training = own()
    training.module.train()
    with pytest.raises(ins.InputError, match="dropout would be recorded"):
        ins.record(training, data(3), SITES, tmp_path / "b")
    with pytest.raises(ins.InputError, match="cannot be called 'sample'"):
        ins.record(gpt2(), data(3), {"sample": SITES[0]}, tmp_path / "c")
    with pytest.raises(ins.InputError, match="nothing is generated"):
        ins.record(gpt2(), data(3), SITES, tmp_path / "d", reduce="generated")
    (tmp_path / "table.parquet").write_bytes(b"PAR1\0\0\n")
    with pytest.raises(ins.InputError, match="is no text"):
        ins.record(gpt2(), tmp_path / "table.parquet", SITES, tmp_path / "e")
    with pytest.raises(ins.InputError, match="give one of them"):
        ins.record(gpt2(), {"train": data(3)}, SITES, tmp_path / "f")
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_samples_of_unlike_shapes_are_refused_with_what_is_safe(tmp_path: Path) -> None:
    model = ins.open(build("convnext"))
    images = [torch.randn(3, 32, 32), torch.randn(3, 64, 64)]
    with pytest.raises(ins.ShapeError, match="need a reduce= that makes them alike"):
        ins.record(model, images, "stages.0.blocks.0.out", tmp_path / "s", unit_samples=1, shard_bytes=1)
    assert len(ins.Store(tmp_path / "s")) == 1


def test_whole_units_are_written_when_a_later_one_fails(tmp_path: Path) -> None:
    model = own()
    with torch.no_grad():
        model.module.transformer.wte.weight[63] = torch.nan
    with pytest.raises(ins.NotFiniteError):
        ins.record(model, [*data(20), [63]], SITES, tmp_path / "s", unit_samples=2)
    assert len(ins.Store(tmp_path / "s").segments) == 10


def test_data_that_differ_in_the_middle_of_a_tensor_differ(tmp_path: Path) -> None:
    from inscape.store.data import data_of

    ids = torch.arange(3000)
    other = ids.clone()
    other[1500] = 7
    assert data_of([{"input_ids": ids}]).fingerprint != data_of([{"input_ids": other}]).fingerprint
    (tmp_path / "t.jsonl").write_text('{"q": "a", "a": "b"}\n')
    fields = {data_of(tmp_path / "t.jsonl", f).fingerprint for f in ("q", "a")}
    assert len(fields) == 2
