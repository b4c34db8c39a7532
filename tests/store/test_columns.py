"""Columns are indexed like tensors, whatever shards the rows lie in."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import inscape as ins
from tests.store.made import make, rows

SIZES = [7, 0, 13, 1, 29, 5]
TOTAL = sum(SIZES)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> "ins.Store":
    return make(tmp_path_factory.mktemp("store"), SIZES, writers=3)


def test_shards_are_safetensors_files_of_anybody(store: "ins.Store") -> None:
    for listed in store.listed:
        theirs = load_file(store.path / "shards" / listed.shard)
        assert theirs["half"].dtype == torch.bfloat16
        assert len(theirs["x"]) == listed.rows


def test_rows_come_in_the_order_of_the_units(store: "ins.Store") -> None:
    assert len(store) == TOTAL
    for name, (whole,) in rows(0, TOTAL).items():
        assert torch.equal(store[name][:], whole)
        assert store[name].shape == tuple(whole.shape)
        assert store[name].dtype == whole.dtype


@settings(deadline=None, max_examples=60)
@given(start=st.integers(-70, 70), stop=st.integers(-70, 70), step=st.integers(1, 5))
def test_slices_are_those_of_a_tensor(store: "ins.Store", start: int, stop: int, step: int) -> None:
    whole = rows(0, TOTAL)["x"][0]
    assert torch.equal(store["x"][start:stop:step], whole[start:stop:step])


@settings(deadline=None, max_examples=60)
@given(picked=st.lists(st.integers(-TOTAL, TOTAL - 1), max_size=40))
def test_picked_rows_are_those_of_a_tensor(store: "ins.Store", picked: list[int]) -> None:
    whole = rows(0, TOTAL)["half"][0]
    assert torch.equal(store["half"][picked], whole[torch.tensor(picked, dtype=torch.long)])
    if picked:
        assert torch.equal(store["half"][picked[0]], whole[picked[0]])


def test_masks_and_tuples_work_and_wrong_indices_are_refused(store: "ins.Store") -> None:
    whole = rows(0, TOTAL)["x"][0]
    mask = store["pos"][:] == 3
    assert torch.equal(store["x"][mask], whole[mask])
    assert torch.equal(store["x"][2:9, 1], whole[2:9, 1])
    assert float(store["x"][-1, 2]) == float(whole[-1, 2])
    with pytest.raises(IndexError, match="of 55"):
        store["x"][TOTAL]
    with pytest.raises(IndexError, match="of 55"):
        store["x"][[0, TOTAL]]
    with pytest.raises(ins.ShapeError, match="a mask over rows has the shape"):
        store["x"][torch.ones(3, dtype=torch.bool)]
    with pytest.raises(ins.ShapeError, match="picked by numbers"):
        store["x"][[0.5]]
    with pytest.raises(ins.SiteError, match="the nearest are half"):
        store["hlf"]


def test_a_sample_has_its_own_rows(store: "ins.Store", tmp_path: Path) -> None:
    one = make(tmp_path, [10, 10, 5])  # ten rows a sample, as `rows` numbers them
    assert one.of(1)["pos"].tolist() == list(range(10))
    assert one.rows_of(2) == slice(20, 25)
    with pytest.raises(ins.InputError, match="sample 7 is not in this store"):
        one.rows_of(7)


def test_the_samples_of_work_units_that_are_missing_or_empty_are_told_apart(tmp_path: Path) -> None:
    """Found by the number of the unit, not by its place: two of five are missing, one has no rows."""
    store = make(tmp_path, [10, 10, 10, 0, 10])
    manifest = tmp_path / "manifest" / "w0.jsonl"
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([lines[4].replace("[[4,", "[[7,"), lines[3], lines[0], ""]))
    about = store.about.model_copy(update={"n_samples": 9})
    (tmp_path / "store.json").write_text(about.model_dump_json())
    store = ins.Store(tmp_path)
    assert (store.rows_of(0), store.rows_of(3)) == (slice(0, 10), slice(10, 10))
    assert len(store.of(3)["x"]) == 0
    for absent in (1, 2, 4, 6, 8, 9, -1):
        with pytest.raises(ins.InputError, match=f"sample {absent} is not in this store"):
            store.rows_of(absent)


def test_ten_thousand_shards_are_opened_by_reading_manifests_alone(tmp_path: Path) -> None:
    store = make(tmp_path, [3])
    manifest = tmp_path / "manifest" / "w0.jsonl"
    line = manifest.read_text()
    about = store.about.model_copy(update={"n_samples": 10_000})
    (tmp_path / "store.json").write_text(about.model_dump_json())
    with open(manifest, "w") as file:
        for i in range(10_000):
            file.write(line.replace("w0-000000", f"w0-{i:06d}").replace('"units":[[0,', f'"units":[[{i},'))
    big = ins.Store(tmp_path)
    assert (len(big), big.is_complete) == (30_000, True)
    assert torch.equal(big["x"][0:3], rows(0, 3)["x"][0])
    with pytest.raises(ins.FileError, match="is listed and cannot be read"):
        big["x"][29_999]
