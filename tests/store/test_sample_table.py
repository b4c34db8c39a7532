"""What is remembered of samples: one table from the lines of many writers, in bounded memory, mended when damaged."""

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import inscape as ins
from inscape.engine.forward import run
from inscape.store import sample_table, samples
from inscape.store.check import repair, verify
from inscape.store.sample_table import finish
from tests.common.small import gpt2
from tests.store.test_record import SITES, data

pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

VALUES = {
    "text": st.text(max_size=20),
    "label": st.one_of(st.none(), st.integers(), st.booleans(), st.text(max_size=5)),
    "score": st.one_of(st.integers(-9, 9), st.floats(allow_nan=False), st.none()),
    "name": st.text(max_size=3),
}


def listed(folder: Path, writer: str, found: list[dict[str, Any]]) -> None:
    (folder / "samples").mkdir(exist_ok=True)
    samples.add(folder, writer, found)


def at_once(values: list[Any]) -> list[Any]:
    """A column made of all its values in memory: JSON text where they are of several kinds."""

    def plain(x: Any) -> Any:
        if isinstance(x, str):
            return x.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        return json.dumps(x) if type(x) is int and abs(x) > 2**63 - 1 else x

    values = [plain(x) for x in values]
    kinds = {type(x) for x in values if x is not None}
    if len(kinds) > 1 and kinds != {int, float}:
        values = [None if x is None else json.dumps(x) for x in values]
    return pyarrow.array(values).to_pylist()


@settings(max_examples=15)
@given(about=st.lists(st.fixed_dictionaries({}, optional=VALUES), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_the_table_holds_what_the_lines_say_whoever_wrote_them_in_whatever_order(
    tmp_path_factory: pytest.TempPathFactory, about: list[dict[str, Any]], seed: int
) -> None:
    folder, deal = tmp_path_factory.mktemp("s"), random.Random(seed)
    every = [{"sample": i} | said for i, said in enumerate(about)]
    writers: dict[str, list[dict[str, Any]]] = {"b": [], "a": [], "c": []}
    for one in deal.sample(every, len(every)):
        writers[deal.choice(list(writers))].append(one)
    twice = deal.choice(every)
    for writer, found in writers.items():
        listed(folder, writer, found)
    listed(folder, "z", [twice | {"name": "a later line does not count"}])
    with open(folder / "samples" / "a.jsonl", "ab") as file:
        file.write(b'{"sample": 0, "text": "cut by a ki')
    before = samples.table(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_table, "GROUP", 7)
        assert finish(folder, len(every))
    names = {name for s in before for name in s}
    expected = {name: at_once([s.get(name) for s in before]) for name in names}
    found = samples.table(folder)
    assert {name: [s[name] for s in found] for name in found[0]} == expected
    assert not [p for p in folder.iterdir() if p.name not in ("samples", "samples.parquet")]


def test_labels_of_several_kinds_make_a_table(tmp_path: Path) -> None:
    listed(tmp_path, "w", [{"sample": 0, "label": 1, "n": 2**70}, {"sample": 1, "label": "b\ud800", "n": 1}])
    assert finish(tmp_path, 2)
    assert [(s["label"], s["n"]) for s in samples.table(tmp_path)] == [
        ("1", f'"{2**70}"'),
        ('"b\\ufffd\\ufffd\\ufffd"', "1"),
    ]


def test_the_table_is_made_in_memory_that_does_not_grow_with_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_table, "GROUP_BYTES", 1 << 20)
    peaks = []
    for n in (1000, 4000):
        folder = tmp_path / str(n)
        folder.mkdir()
        order = np.random.default_rng(0).permutation(n // 50)  # of work units, dealt to three writers
        for w in range(3):
            for u in order[w::3].tolist():
                listed(folder, f"w{w}", [{"sample": i, "text": f"{i} " * 500} for i in range(50 * u, 50 * u + 50)])
        assert sum(p.stat().st_size for p in samples.files(folder)) > 1900 * n
        pool = pyarrow.default_memory_pool()
        tracemalloc.start()
        held = pool.bytes_allocated()
        assert finish(folder, n)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert pool.bytes_allocated() - held < 1 << 20
        assert samples.text(folder, n - 7) == f"{n - 7} " * 500
        groups = parquet.ParquetFile(folder / "samples.parquet").metadata
        assert max(groups.row_group(i).num_rows for i in range(groups.num_row_groups)) < 600
    assert peaks[1] < 1.5 * peaks[0] < 12e6  # of 2 MB and 8 MB of lines


def test_a_sample_that_is_not_of_the_store_is_no_line_of_it(tmp_path: Path) -> None:
    listed(tmp_path, "w", [{"sample": 0}, {"sample": 7}])
    with pytest.raises(ins.FileError, match=r"w.jsonl, line 2: sample 7 of 2"):
        finish(tmp_path, 2)
    (tmp_path / "samples" / "w.jsonl").write_text('{"sample": -1}\n')
    with pytest.raises(ins.FileError, match=r"line 1: no sample \(sample -1\).\n.*repair"):
        samples.table(tmp_path)


def recorded(to: Path) -> "ins.Store":
    texts = [{"input_ids": ids, "label": f"kind {i % 3}"} for i, ids in enumerate(data())]
    return ins.record(gpt2(), texts, SITES[0], to, unit_samples=4)


@pytest.mark.parametrize("how", ["table", "lines", "both", "other samples", "cut"])
def test_what_is_damaged_of_samples_is_found_dropped_and_made_again_without_a_run(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = recorded(tmp_path / "s")
    whole, rows = store.samples(), store[SITES[0]][:]
    (lines,) = samples.files(store.path)
    text, table = lines.read_bytes().split(b"\n"), store.path / "samples.parquet"
    if how in ("table", "both"):
        raw = bytearray(table.read_bytes())
        raw[4:40] = b"\xff" * 36
        table.write_bytes(raw)
    if how in ("lines", "both"):
        text[3] = text[3][:9]
        text[5] = b'{"sample": 99, "tokens": 1}'
        table.unlink(missing_ok=how == "lines") if how == "lines" else None
    if how == "other samples":
        parquet.write_table(parquet.read_table(table).slice(1), table)
    lines.write_bytes(b"\n".join(text)[: -4 if how == "cut" else None])
    if how == "cut":
        table.unlink()
    found = verify(store.path)
    assert found.is_sound == (how == "cut")
    assert ("samples.parquet" in found.bad) == (how in ("table", "both", "other samples"))
    assert [n for _, n, _ in found.unreadable] == ([4, 6] if how in ("lines", "both") else [])
    assert verify(store.path, contents=False).is_sound
    repair(store.path)
    assert verify(store.path).is_sound
    assert table.exists() == (how in ("table", "other samples"))
    if not table.exists():
        assert len(ins.Store(store.path).samples()) == len(whole) - (1 if how == "cut" else 2)
    runs: list[Any] = []
    monkeypatch.setattr("inscape.store.harvest.run", lambda *given, **options: (runs.append(0), run(*given, **options)))
    again = recorded(store.path)
    assert len(runs) == 1  # of the first sample, to see that it is the same record
    assert again.samples() == whole
    assert np.array_equal(again[SITES[0]][:], rows)
    assert table.exists()


def test_the_samples_of_an_import_are_mended_by_importing_again(tmp_path: Path) -> None:
    store = recorded(tmp_path / "s")
    store.export(tmp_path / "rows.npz")
    there = ins.import_store(tmp_path / "rows.npz", tmp_path / "t")
    whole = there.samples()
    (lines,) = samples.files(there.path)
    lines.write_bytes(b"\n".join(lines.read_bytes().split(b"\n")[2:]))
    (there.path / "samples.parquet").unlink()
    repair(there.path)
    assert ins.import_store(tmp_path / "rows.npz", tmp_path / "t").samples() == whole


def test_a_text_is_found_before_there_is_a_table(tmp_path: Path) -> None:
    listed(tmp_path, "w", [{"sample": i, "text": f"text {i}"} for i in range(30)])
    listed(tmp_path, "x", [{"sample": 7, "text": "a later line does not count"}, {"sample": 31}])
    assert samples.text(tmp_path, 7) == "text 7"
    for absent in (30, 31):
        with pytest.raises(ins.InputError, match=f"sample {absent} of .* has no text"):
            samples.text(tmp_path, absent)
