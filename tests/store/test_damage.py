"""Damaged and hostile stores give a clear error and change nothing; verify says what is wrong, repair takes it out."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch

import inscape as ins
from inscape.store.check import repair, verify
from tests.store.made import make, rows

SIZES = [11, 12, 13]


def first_shard(folder: Path) -> Path:
    return sorted((folder / "shards").iterdir())[0]


def edit_line(folder: Path, **changes: object) -> None:
    path = folder / "manifest" / "w0.jsonl"
    lines = path.read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | changes)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shard": "../../etc/passwd.safetensors"}, "is no name of a shard in this folder"),
        ({"shard": "/etc/w-000001.safetensors"}, "is no name of a shard in this folder"),
        ({"units": [[0, 0, 11], [1, 9, 20]]}, "do not follow one another"),
        ({"units": [[0, 0, -3]]}, "greater than or equal to 0"),
        ({"units": [[0, 0, 20]]}, "its units have 20 rows, the shard 11"),
        ({"units": [[0, 0, 5], [0, 5, 11]]}, "lists a work unit twice"),
        ({"rows": "many"}, "valid integer"),
        ({"extra": 1}, "Extra inputs are not permitted"),
        ({"sha256": "0"}, "should match pattern"),
        ({"data": 2**60}, "less than or equal to"),
    ],
)
def test_a_hostile_manifest_line_is_refused(tmp_path: Path, changes: dict, words: str) -> None:
    make(tmp_path, SIZES)
    edit_line(tmp_path, **changes)
    with pytest.raises(ins.FileError, match=words) as caught:
        ins.Store(tmp_path)
    assert "w0.jsonl, line 1" in str(caught.value)
    assert "inscape store repair" in str(caught.value)


def test_a_line_that_moves_the_rows_is_refused(tmp_path: Path) -> None:
    store = make(tmp_path, SIZES)
    edit_line(tmp_path, data=store.listed[0].data - 64)
    with pytest.raises(ins.FileError, match="its line does not fit 11 rows"):
        ins.Store(tmp_path)["x"][0]
    assert not verify(tmp_path).is_sound


def test_a_repair_under_way_or_killed_is_nobodys_manifest(tmp_path: Path) -> None:
    make(tmp_path, SIZES)
    (tmp_path / "manifest" / ".tmp-1-w0.jsonl").write_text("half")
    assert len(ins.Store(tmp_path)) == sum(SIZES)


def test_a_cut_last_line_counts_as_not_written(tmp_path: Path) -> None:
    make(tmp_path, SIZES)
    path = tmp_path / "manifest" / "w0.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    store = ins.Store(tmp_path)
    assert (len(store), store.missing) == (23, [2])
    found = verify(tmp_path)
    assert (found.torn, len(found.unlisted), found.missing) == (("w0.jsonl",), 1, (2,))
    assert "end in a cut line" in str(found)


def test_a_cut_manifest_in_the_middle_is_an_error_that_repair_mends(tmp_path: Path) -> None:
    make(tmp_path, SIZES)
    path = tmp_path / "manifest" / "w0.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:30], lines[2], b""]))
    with pytest.raises(ins.FileError, match="line 2"):
        ins.Store(tmp_path)
    found = repair(tmp_path)
    assert [n for _, n, _ in found.unreadable] == [2]
    store = ins.Store(tmp_path)
    assert (len(store), store.missing, len(list((tmp_path / "shards").iterdir()))) == (24, [1], 2)


@pytest.mark.parametrize("how", ["cut", "header", "giant header", "gone", "flipped"])
def test_a_damaged_shard_is_found(tmp_path: Path, how: str) -> None:
    store = make(tmp_path, SIZES)
    path = first_shard(tmp_path)
    raw = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(raw[:-7])
    elif how == "header":
        raw[20:24] = b"evil"
        path.write_bytes(raw)
    elif how == "giant header":
        raw[:8] = struct.pack("<Q", 1 << 62)
        path.write_bytes(raw)
    elif how == "gone":
        path.unlink()
    else:
        raw[-1] ^= 1
        path.write_bytes(raw)
    words = {
        "cut": "it was cut",
        "header": "its header is not",
        "giant header": "it says its header has",
        "gone": "cannot be read",
    }
    if how != "flipped":  # one bit of the data is only found by its checksum
        with pytest.raises(ins.FileError, match=words[how]):
            store["x"][0]
        assert torch.equal(store["x"][11:], rows(11, 25)["x"][0])  # the others are as they were
    found = verify(tmp_path)
    assert list(found.bad) == [path.name]
    assert not found.is_sound
    assert ("checksum" in found.bad[path.name]) == (how == "flipped")
    repair(tmp_path)
    mended = ins.Store(tmp_path)
    assert (mended.missing, len(mended)) == ([0], 25)
    assert verify(tmp_path).is_sound


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ('{"version": 9}', "has format version 9"),
        ('{"version": 1, "columns": [{"name": "x", "dtype": "object"}]}', "unknown dtype"),
        ('{"version": 1, "columns": [{"name": "x", "dtype": "int8", "shape": [-1]}]}', "greater than or equal to 1"),
        ('{"version": 1, "columns": [], "surprise": 1}', "Extra inputs"),
        (
            '{"version": 1, "columns": [{"name": "x", "dtype": "int8"}, {"name": "x", "dtype": "int8"}]}',
            "two columns share a name",
        ),
    ],
)
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(ins.FileError, match=words):
        ins.Store(tmp_path)


def test_a_folder_without_a_description_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(ins.FileError, match="is no activation store"):
        ins.Store(tmp_path)


def test_work_done_twice_counts_once(tmp_path: Path) -> None:
    make(tmp_path, SIZES)
    text = (tmp_path / "manifest" / "w0.jsonl").read_text()
    (tmp_path / "manifest" / "w1.jsonl").write_text(text)
    store = ins.Store(tmp_path)
    assert len(store) == sum(SIZES)
    assert verify(tmp_path).twice == (0, 1, 2)


def test_what_a_kill_leaves_is_taken_out(tmp_path: Path) -> None:
    make(tmp_path, SIZES)
    (tmp_path / "shards" / ".tmp-77-w0-000009.safetensors").write_bytes(b"half")
    (tmp_path / "shards" / "w0-000008.safetensors").write_bytes(b"renamed, not listed")
    assert len(ins.Store(tmp_path)) == sum(SIZES)
    repair(tmp_path)
    assert sorted(os.listdir(tmp_path / "shards")) == [f"w0-{i:06d}.safetensors" for i in range(3)]
