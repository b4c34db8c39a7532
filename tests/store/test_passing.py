"""Data that pass by: counted as they come, recognised when they come again, never held."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import inscape as ins
from inscape.store.check import verify
from tests.common.small import gpt2
from tests.store.test_record import SITES, data, same

OPTIONS: dict[str, Any] = {"unit_samples": 4, "dtype": "bfloat16", "shard_bytes": 1500}


def rows(n: int = 23, change: int | None = None) -> Any:
    """A generator function of the samples of `data`; one of them changed."""

    def made() -> Iterator[dict[str, Any]]:
        for i, row in enumerate(data(n)):
            yield {"input_ids": [*row, 9] if i == change else row, "label": i}

    return made


def n_samples(folder: Path) -> int | None:
    return json.loads((folder / "store.json").read_text())["n_samples"]


def test_a_generator_function_gives_the_rows_of_a_list(tmp_path: Path) -> None:
    model, told = gpt2(), []
    store = ins.record(model, rows(), SITES, tmp_path / "s", progress=lambda m, f: told.append((m, f)), **OPTIONS)
    same(store, ins.record(model, list(rows()()), SITES, tmp_path / "t", **OPTIONS))
    assert store.is_complete
    assert n_samples(store.path) == 23
    assert store.samples()[5] == {"sample": 5, "tokens": len(data()[5]), "label": 5}
    assert len(told) == 6
    assert {fraction for _, fraction in told} == {None}
    assert not [m for m, _ in told if "left" in m]
    assert verify(store.path).is_sound


@pytest.mark.parametrize("n", [8, 9])
def test_the_end_is_seen_whether_or_not_it_falls_between_units(tmp_path: Path, n: int) -> None:
    store = ins.record(gpt2(), rows(n), SITES, tmp_path / "s", **OPTIONS)
    assert (store.about.n_samples, len(store.segments), store.is_complete) == (n, -(-n // 4), True)
    with pytest.raises(ins.InputError, match=f"sample {n} is not in this store"):
        store.of(n)


class Dies(Exception):
    pass


def dying(after: int, n: int = 23) -> Any:
    def made() -> Iterator[Any]:
        for i, row in enumerate(rows(n)()):
            if i == after:
                raise Dies
            yield row

    return made


def test_a_stopped_one_goes_on_and_its_rows_are_bit_equal(tmp_path: Path) -> None:
    model = gpt2()
    whole = ins.record(model, rows(), SITES, tmp_path / "a", **OPTIONS)
    with pytest.raises(Dies):
        ins.record(model, dying(14), SITES, tmp_path / "b", **OPTIONS)
    half = ins.Store(tmp_path / "b")
    assert (len(half.segments), half.is_complete, n_samples(half.path), half.missing) == (3, False, None, [])
    assert "rows of samples" in repr(half)
    assert "3 units so far" in repr(half)
    assert ins.record(model, rows(), SITES, tmp_path / "b", **OPTIONS).is_complete
    same(whole, ins.Store(tmp_path / "b"))
    assert ins.Store(tmp_path / "b").samples() == whole.samples()


def test_workers_share_it_and_each_knows_the_end(tmp_path: Path) -> None:
    model = gpt2()
    half = ins.record(model, rows(), SITES, tmp_path / "s", worker=(1, 2), **OPTIONS)
    assert (n_samples(half.path), half.missing) == (23, [0, 2, 4])
    both = ins.record(model, rows(), SITES, tmp_path / "s", worker=(0, 2), **OPTIONS)
    same(both, ins.record(model, rows(), SITES, tmp_path / "t", **OPTIONS))
    assert len(list((both.path / "manifest").iterdir())) == 2


@pytest.mark.parametrize("stopped_at", [14, None])
def test_other_data_are_refused(tmp_path: Path, stopped_at: int | None) -> None:
    model, to = gpt2(), tmp_path / "s"
    if stopped_at is None:
        ins.record(model, rows(), SITES, to, **OPTIONS)
    else:
        with pytest.raises(Dies):
            ins.record(model, dying(stopped_at), SITES, to, **OPTIONS)
    before = sorted(p.name for p in (to / "shards").iterdir())
    with pytest.raises(ins.FileError, match=r"they are others in work unit 0 \(samples 0 to 3\).*\n.*same order"):
        ins.record(model, rows(change=2), SITES, to, **OPTIONS)
    assert sorted(p.name for p in (to / "shards").iterdir()) == before


def test_data_that_end_early_or_late_or_changed_later_are_refused(tmp_path: Path) -> None:
    model = gpt2()
    with pytest.raises(Dies):
        ins.record(model, dying(14), SITES, tmp_path / "s", **OPTIONS)
    with pytest.raises(ins.FileError, match="they are others in work unit 2"):
        ins.record(model, rows(change=9), SITES, tmp_path / "s", **OPTIONS)
    with pytest.raises(ins.FileError, match="they end after 5 samples in work unit 1"):
        ins.record(model, rows(5), SITES, tmp_path / "s", **OPTIONS)
    ins.record(model, rows(), SITES, tmp_path / "w", worker=(0, 2), **OPTIONS)  # knows the end: 23
    with pytest.raises(ins.FileError, match="they end after 21 samples in work unit 5"):
        ins.record(model, rows(21), SITES, tmp_path / "w", worker=(1, 2), **OPTIONS)
    with pytest.raises(ins.FileError, match="data: as it passes in the store"):
        ins.record(model, data(), SITES, tmp_path / "w", **OPTIONS)


class Named:
    """Samples known by ids: their contents are not looked at to know them again."""

    def __init__(self, n: int, start: int = 0) -> None:
        self.ids = [f"doc-{i + start}" for i in range(n)]
        self.n = n

    def __iter__(self) -> Iterator[list[int]]:
        return iter(data(self.n))


def test_ids_are_remembered_and_recognised(tmp_path: Path) -> None:
    model = gpt2()
    half = ins.record(model, Named(10), SITES, tmp_path / "s", worker=(0, 2), **OPTIONS)
    assert n_samples(half.path) == 10
    with pytest.raises(ins.FileError, match="they are others in work unit 0"):
        ins.record(model, Named(10, start=1), SITES, tmp_path / "s", **OPTIONS)
    store = ins.record(model, Named(10), SITES, tmp_path / "s", **OPTIONS)
    assert store.samples()[7] == {"sample": 7, "tokens": len(data()[7]), "id": "doc-7"}
    short = Named(10)
    short.ids = short.ids[:6]
    short.__class__ = type("Short", (Named,), {"__len__": lambda self: 10})
    with pytest.raises(ins.InputError, match="fewer ids than samples"):
        ins.record(model, short, SITES, tmp_path / "t", **OPTIONS)


def test_nothing_is_held_of_what_has_passed(tmp_path: Path) -> None:
    """No more samples are alive at once than one work unit and the one that comes next."""
    alive, most = [0], [0]

    class Row(list):
        def __init__(self, values: list[int]) -> None:
            super().__init__(values)
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self) -> None:
            alive[0] -= 1

    def made() -> Iterator[Row]:
        return (Row([i % 60 + 1, 2, 3]) for i in range(200))

    ins.record(gpt2(), made, SITES[0], tmp_path / "s", unit_samples=4)
    assert 4 <= most[0] <= 9


def test_what_cannot_be_gone_through_again_is_refused(tmp_path: Path) -> None:
    model = gpt2()
    with pytest.raises(ins.InputError, match=r"can be gone through once.*\n.*the function that makes it"):
        ins.record(model, rows()(), SITES, tmp_path / "s")
    with pytest.raises(ins.InputError, match="neither samples nor a function that yields them"):
        ins.record(model, 7, SITES, tmp_path / "s")
    with pytest.raises(ins.InputError, match="the data are empty"):
        ins.record(model, lambda: iter(()), SITES, tmp_path / "s")
    with pytest.raises(ins.InputError, match=r"engine='ray' deals work units out.*\n.*ids with one"):
        ins.record(model, rows(), SITES, tmp_path / "s", engine="ray")
    with pytest.raises(ins.InputError, match=r"a plan needs to know how many samples there are"):
        ins.plan(model, rows(), "record", sites=SITES)
    assert not (tmp_path / "s").exists()


def test_a_streamed_dataset_is_recorded_as_the_dataset_is(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict({"input_ids": data(10), "label": list(range(10))})
    streamed = ins.record(gpt2(), whole.to_iterable_dataset(), SITES, tmp_path / "s", **OPTIONS)
    same(streamed, ins.record(gpt2(), whole, SITES, tmp_path / "t", **OPTIONS))
    assert [s["label"] for s in streamed.samples()] == list(range(10))


def test_a_copy_of_one_under_way_learns_of_its_end(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(Dies):
        ins.record(gpt2(), dying(14), SITES, tmp_path / "s", **OPTIONS)
    url = f"memory://{tmp_path.name}"
    ins.Store(tmp_path / "s").upload(url)
    assert not ins.Store.download(url, tmp_path / "copy").is_complete
    ins.record(gpt2(), rows(), SITES, tmp_path / "s", **OPTIONS).upload(url)
    copy = ins.Store.download(url, tmp_path / "copy")
    assert copy.is_complete
    same(copy, ins.Store(tmp_path / "s"))


def test_an_endless_one_is_recorded_until_it_is_stopped(tmp_path: Path) -> None:
    def endless() -> Iterator[list[int]]:
        return ([i % 60 + 1, 2] for i in itertools.count())

    def stop(message: str, fraction: float | None) -> None:
        if message.startswith("48 rows"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ins.record(gpt2(), endless, SITES[0], tmp_path / "s", unit_samples=4, progress=stop)
    store = ins.Store(tmp_path / "s")
    assert len(store) == 48
    assert store["token"][::2].tolist() == [i % 60 + 1 for i in range(24)]
    assert torch.equal(store["sample"][:], torch.arange(24).repeat_interleave(2))
