import json
import sys

import pytest
import torch

import inscape as ins
from inscape.store.exchange.importing import import_store
from inscape.store.store import Store
from tests.store.exchange.made import SITES, made, same_rows

pa = pytest.importorskip("pyarrow")
ALL = ["sample", "pos", "token", *SITES]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_dataset_comes_back_as_the_same_store(tmp_path, dtype):
    store = made(tmp_path / "a", dtype=dtype)
    done = store.export(tmp_path / "ds", "datasets")
    assert done.rows == len(store)
    assert ("bfloat16 has no type" in str(done)) == (dtype == "bfloat16")
    back = import_store(tmp_path / "ds", tmp_path / "b")
    same_rows(store, back, ALL)
    assert back.about.model == store.about.model
    assert back.is_complete
    assert [c.site for c in back.about.columns] == [c.site for c in store.about.columns]


def test_datasets_itself_reads_what_is_exported_and_we_read_what_it_writes(tmp_path):
    datasets = pytest.importorskip("datasets")
    store = made(tmp_path / "a")
    store.export(tmp_path / "ds", "datasets")
    theirs = datasets.load_from_disk(str(tmp_path / "ds")).with_format("torch")
    for name in ALL:
        torch.testing.assert_close(theirs[:][name].to(store[name].dtype), store[name][:], rtol=0, atol=0)
    theirs.save_to_disk(str(tmp_path / "again"), num_shards=2)
    same_rows(store, import_store(tmp_path / "again", tmp_path / "b"), ALL)


def plain(to, **columns):
    """A dataset folder of plain Arrow columns, written without any of our code."""
    to.mkdir()
    table = pa.table(columns)
    with pa.ipc.new_stream(str(to / "data.arrow"), table.schema) as stream:
        stream.write_table(table)
    (to / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return to


def test_a_dataset_of_embeddings_is_a_row_a_sample_and_says_what_it_left_out(tmp_path):
    source = plain(tmp_path / "ds", embedding=pa.array([[1.0, 2.0], [3.0, 4.0]]), text=["a", "b"])
    store = import_store(source, tmp_path / "b", names={"embedding": "embed"})
    torch.testing.assert_close(store["embed"][:], torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
    assert store["sample"][:].tolist() == [0, 1]
    assert store["pos"][:].tolist() == [-1, -1]
    assert store.about.model == ""
    assert "left out: text; the model is not known" in store.about.job["notes"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"x": pa.array([[1.0], [2.0, 3.0]])}, "unlike lengths"),
        ({"x": pa.array([[1.0], None])}, "null"),
        ({"x": pa.array([[1.0], [None]])}, "null"),
        ({"x": ["a", "b"]}, "holds no rows|no column of floats"),
        ({"x": pa.array([[1.0], [2.0]]), "sample": [1, 0]}, "do not lie together"),
        ({"x": pa.array([[1.0], [2.0]]), "sample": [0, 2**50]}, "damaged"),
        ({"x": pa.array([[1.0], [2.0]]), "sample": [-1, 0]}, "do not lie together"),
        ({"x" * 400: pa.array([[1.0], [2.0]])}, "makes no store"),
        ({"x": pa.array([[1.0], [float("nan")]])}, "NaN"),
    ],
)
def test_what_makes_no_rows_is_refused_and_leaves_nothing(tmp_path, columns, said):
    source = plain(tmp_path / "ds", **columns)
    with pytest.raises((ins.FileError, ins.NotFiniteError), match=said):
        import_store(source, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "state", ["{", "[]", '{"_data_files": [{"filename": "../data.arrow"}]}', '{"_data_files": []}']
)
def test_a_hostile_list_of_files_is_refused(tmp_path, state):
    source = plain(tmp_path / "ds", x=pa.array([[1.0]]))
    (source / "state.json").write_text(state)
    with pytest.raises(ins.FileError, match=r"damaged|no Arrow file in this folder|no data"):
        import_store(source, tmp_path / "b", format="datasets")
    assert not (tmp_path / "b").exists()


def test_a_truncated_or_garbled_stream_is_an_error_and_leaves_nothing(tmp_path):
    store = made(tmp_path / "a")
    store.export(tmp_path / "ds", "datasets")
    file = next((tmp_path / "ds").glob("*.arrow"))
    whole = file.read_bytes()
    for size in range(0, len(whole) - 8, max(1, len(whole) // 25)):
        file.write_bytes(whole[:size])
        with pytest.raises(ins.FileError):
            import_store(tmp_path / "ds", tmp_path / "b", format="datasets")
        assert not (tmp_path / "b").exists()
    for at in range(0, min(len(whole), 3000), 37):  # the metadata: whatever is flipped, an error of ours or the rows
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            import_store(tmp_path / "ds", tmp_path / f"c{at}", format="datasets", allow_nan=True)
        except ins.InscapeError:
            assert not (tmp_path / f"c{at}").exists()


def test_a_stream_cut_between_two_batches_is_noticed(tmp_path):
    schema = pa.schema([("x", pa.float32())])
    source, batch = (
        plain(tmp_path / "ds", x=[1.0]),
        pa.record_batch([pa.array([1.0, 2.0], pa.float32())], schema=schema),
    )
    sizes = []
    with open(source / "data.arrow", "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for _ in range(3):
            stream.write_batch(batch)
            sizes.append(file.tell())
    whole = (source / "data.arrow").read_bytes()
    assert len(import_store(source, tmp_path / "b")) == 6
    (source / "data.arrow").write_bytes(whole[: sizes[1]])
    with pytest.raises(ins.FileError, match="it has no end"):
        import_store(source, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    store = made(tmp_path / "a")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ins.MissingExtraError, match=r"inscape\[store\]"):
        store.export(tmp_path / "ds", "datasets")
    assert not (tmp_path / "ds").exists()


def test_a_stream_that_is_compressed_inside_is_refused(tmp_path):
    source = plain(tmp_path / "ds", x=pa.array([[1.0]]))
    schema = pa.schema([("x", pa.float32())])
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(str(source / "data.arrow"), schema, options=options) as stream:
        stream.write_batch(pa.record_batch([pa.array([0.0] * 100_000, pa.float32())], schema=schema))
    with pytest.raises(ins.FileError, match="compressed inside"):
        import_store(source, tmp_path / "b")


def test_a_folder_of_splits_says_which(tmp_path):
    plain(tmp_path / "train", x=pa.array([[1.0]]))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(ins.FileError, match="train"):
        import_store(tmp_path, tmp_path / "b")


def test_nothing_is_overwritten_and_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    store = made(tmp_path / "a")
    (tmp_path / "there").mkdir()
    with pytest.raises(ins.FileError, match="not overwritten"):
        store.export(tmp_path / "there", "datasets")
    for format, name in (("datasets", "d"), ("npz", "n.npz"), ("npy", "n"), ("saelens", "s")):

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        options = {"context": 3, "columns": SITES[:1]} if format == "saelens" else {}
        with pytest.raises(KeyboardInterrupt):
            store.export(tmp_path / name, format, progress=stop, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "there"]


def test_an_import_that_was_killed_goes_on(tmp_path):
    store = made(tmp_path / "a", lengths=(4,) * 40, unit_samples=4)
    store.export(tmp_path / "ds", "datasets")
    from inscape.store.exchange.datasets_rows import datasets_source
    from inscape.store.exchange.landing import Source, land

    whole = datasets_source(tmp_path / "ds")
    about = whole.about.model_copy(update={"unit_samples": 4})
    import numpy as np

    source = Source(about, np.arange(11) * 16, whole.rows, whole.name)
    calls = []

    def stop(message: str, fraction: float | None) -> None:
        calls.append(fraction)
        if len(calls) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        land(source, tmp_path / "b", shard_bytes=1000, progress=stop)
    half = Store(tmp_path / "b")
    assert 0 < len(half.segments) < 10
    done = len(half.segments)
    again: list[float | None] = []
    back = land(source, tmp_path / "b", shard_bytes=1000, progress=lambda _, f: again.append(f))
    assert len(again) == 10 - done
    same_rows(store, back, ALL)


def test_an_import_into_another_store_shows_the_difference(tmp_path):
    made(tmp_path / "a").export(tmp_path / "ds", "datasets")
    made(tmp_path / "c", sites=["layers.2.resid_post"])
    with pytest.raises(ins.FileError, match=r"store of something else:[\s\S]*layers.2.resid_post"):
        import_store(tmp_path / "ds", tmp_path / "c")
    assert Store(tmp_path / "c").sites == ["layers.2.resid_post"]
