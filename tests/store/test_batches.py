"""Shuffled batches: every row once, truly mixed, resumable to the batch, shared out over ranks."""

import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import inscape as ins
from inscape.store.schema import Column
from tests.store.made import make, rows, store_with

SIZES = [700, 13, 0, 1300, 487]
TOTAL = sum(SIZES)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> "ins.Store":
    return make(tmp_path_factory.mktemp("store"), SIZES, writers=2)


def numbers(batches: object) -> list[int]:
    return [int(i) for b in batches for i in b["x"][:, 0]]  # type: ignore[attr-defined]


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(25, 400), block=st.integers(1, 300), pool=st.integers(1, 3000), shuffle=st.booleans(),
    seed=st.integers(0, 5), ahead=st.integers(0, 3),
)  # fmt: skip
def test_an_epoch_gives_every_row_once(
    store: "ins.Store", n: int, block: int, pool: int, shuffle: bool, seed: int, ahead: int
) -> None:
    options = {"block": block, "pool_rows": pool, "shuffle": shuffle, "seed": seed, "ahead": ahead}
    batches = store.batches(n, ["x", "half"], last=True, **options)
    found = [(b["x"][:, 0].long(), b["half"][:, 0, 0]) for b in batches]
    i, half = (torch.cat(column) for column in zip(*found, strict=True))
    assert torch.equal(i.sort().values, torch.arange(TOTAL))
    assert torch.equal(half, (i % 128).bfloat16())
    if not shuffle:
        assert torch.equal(i, torch.arange(TOTAL))


def test_epochs_differ_and_repeat_with_their_seed(store: "ins.Store") -> None:
    batches = store.batches(100, "x", block=16, seed=3)
    first, second = numbers(batches), numbers(batches)
    assert len(first) == len(batches) * 100 == 2500
    assert first != second
    again = store.batches(100, "x", block=16, seed=3)
    assert (numbers(again), numbers(again)) == (first, second)
    assert numbers(store.batches(100, "x", block=16, seed=4)) != first


@settings(deadline=None, max_examples=20)
@given(stop=st.integers(0, 24), n=st.integers(30, 300), pool=st.integers(50, 2000))
def test_a_state_goes_on_with_the_very_next_batch(store: "ins.Store", stop: int, n: int, pool: int) -> None:
    def fresh() -> object:
        return store.batches(n, "x", block=16, pool_rows=pool, seed=1)

    whole, batches = numbers(fresh()), fresh()
    stop = min(stop, len(batches) - 1)  # type: ignore[arg-type]
    begun = iter(batches)  # type: ignore[call-overload]
    before = [int(i) for _ in range(stop) for i in next(begun)["x"][:, 0]]
    state = batches.state_dict()  # type: ignore[attr-defined]
    resumed = fresh()
    resumed.load_state_dict(state)  # type: ignore[attr-defined]
    assert before + numbers(resumed) == whole


def test_a_state_of_other_batches_is_refused(store: "ins.Store") -> None:
    state = store.batches(10, "x").state_dict()
    with pytest.raises(ins.InputError, match="n 10 there, 20 here"):
        store.batches(20, "x").load_state_dict(state)
    with pytest.raises(ins.InputError, match="ranks count from 0"):
        store.batches(20, "x", rank=2, world=2)
    with pytest.raises(ins.InputError, match="at least 1"):
        store.batches(0, "x")
    with pytest.raises(ins.InputError, match=r"ahead=-1: it can be 0"):
        store.batches(20, "x", ahead=-1)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU to pin memory for")
def test_pinning_without_a_gpu_is_refused(store: "ins.Store") -> None:
    with pytest.raises(ins.InputError, match=r"pin=True: torch sees no GPU here"):
        store.batches(20, "x", pin=True)


def test_two_loops_over_the_same_batches_do_not_disturb_each_other(store: "ins.Store") -> None:
    """Pools are memory that epochs take over from each other: two at once must not be given the same."""
    batches = store.batches(100, "x", block=16, pool_rows=200, seed=3)
    whole = numbers(store.batches(100, "x", block=16, pool_rows=200, seed=3))
    one = iter(batches)
    first = [next(one)["x"]]
    batches.done = 0  # the second begins where the first began
    two = [b["x"].clone() for b in batches]
    first += [b["x"] for b in one]
    assert [int(i) for b in two for i in b[:, 0]] == whole
    assert [int(i) for b in first for i in b[:, 0]] == whole


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_shard_that_is_gone_stops_the_loop_with_its_name(tmp_path: Path, ahead: int) -> None:
    store = make(tmp_path, [700, 700])
    (tmp_path / "shards" / "w0-000001.safetensors").unlink()
    with pytest.raises(ins.FileError, match=r"w0-000001.safetensors is listed and cannot be read"):
        numbers(store.batches(10, "x", block=32, pool_rows=64, ahead=ahead))


@pytest.mark.parametrize("world", [2, 3, 7])
def test_ranks_share_the_rows_and_have_equally_many_batches(store: "ins.Store", world: int) -> None:
    shares = [numbers(store.batches(20, "x", block=32, rank=r, world=world)) for r in range(world)]
    assert len({len(s) for s in shares}) == 1
    together = [i for s in shares for i in s]
    assert len(set(together)) == len(together) > TOTAL - 32 * world - 20 * world


def test_the_order_is_close_to_a_true_permutation(store: "ins.Store") -> None:
    """Spearman's rho with the stored order, and the mean distance of stored neighbours, as a permutation has them."""
    order = np.array(numbers(store.batches(50, "x", block=8, pool_rows=640, seed=11)))
    place = np.empty(TOTAL)
    place[order] = np.arange(TOTAL)
    n = TOTAL
    rho = np.corrcoef(np.arange(n), place)[0, 1]
    assert abs(rho) < 4 / np.sqrt(n)  # its standard error under a true permutation is 1 / sqrt(n)
    apart = np.abs(np.diff(place))
    across = apart[np.arange(n - 1) % 8 == 7]  # neighbours in the store that lie in two blocks
    assert abs(across.mean() / ((n + 1) / 3) - 1) < 4 * 0.71 / np.sqrt(
        len(across)
    )  # E = (n + 1) / 3, sd = n / sqrt(18)
    inside = apart[np.arange(n - 1) % 8 != 7]  # in one block: mixed within the pool of 640
    assert abs(inside.mean() / (641 / 3) - 1) < 0.1
    unmixed = np.array(numbers(store.batches(50, "x", shuffle=False)))
    assert np.abs(np.diff(unmixed)).mean() == 1  # the control: what no shuffle looks like


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_reader_that_is_left_early_stops(store: "ins.Store", ahead: int) -> None:
    before = threading.active_count()
    for _ in range(5):
        for _batch in store.batches(10, "x", pool_rows=64, block=16, ahead=ahead):
            break
    assert threading.active_count() == before


def test_a_loop_left_hanging_does_not_take_the_interpreter_down_when_it_exits(tmp_path: Path) -> None:
    """A daemon thread inside torch at that moment ends the process with "terminate called".

    Here nearly always: the pools ahead are being scaled, call after call into torch, while the interpreter exits.
    """
    scaled = (
        Column(name="sample", dtype="int64"),
        Column(name="x", dtype="float16", shape=(4,), site="layers.0.resid_post", scaled_by="x.scale"),
        Column(name="x.scale", dtype="float32"),
    )
    pieces = {"sample": [torch.arange(64)], "x": [torch.ones(64, 4).half()], "x.scale": [torch.ones(64)]}
    store_with(tmp_path, scaled, pieces)
    code = f"""
import time
import torch
import inscape as ins
from inscape.store.column import LazyColumn

def slow(self, values, factors):
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        torch.ones(1 << 20).mul_(2)
    return values

LazyColumn.scaled = slow
loop = iter(ins.Store({str(tmp_path)!r}).batches(8, "x", pool_rows=8, block=8, ahead=2))
next(loop)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def logistic(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Logistic regression by stochastic gradient descent in float64: weights, the last one the bias."""
    weight = torch.zeros(5, dtype=torch.float64)
    for x, y in batches:
        inputs = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
        weight = weight - 0.5 * inputs.T @ (torch.sigmoid(inputs @ weight) - y) / len(x)
    return weight


@pytest.mark.parametrize("ahead", [0, 2])
def test_batches_train_the_same_probe_as_memory(tmp_path: Path, ahead: int) -> None:
    """Three epochs of a logistic probe: the same order from memory gives the same weights, another order others."""
    store, n = make(tmp_path, [500, 700]), 1200
    x = rows(0, n)["x"][0].double()
    target = (torch.cos(x[:, 0]) > 0).double()  # of the row's number: a label that memory and store both know

    def scaled(i: torch.Tensor) -> torch.Tensor:
        return x[i] / n + torch.cos(x[i, :1] * torch.arange(1, 5)) * 0.5

    def from_store(seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        batches = store.batches(64, ["x", "sample", "pos"], last=True, seed=seed, block=32, pool_rows=256, ahead=ahead)
        for _ in range(3):
            for batch in batches:
                value, i = batch["x"].double(), batch["sample"] * 10 + batch["pos"]
                yield value / n + torch.cos(value[:, :1] * torch.arange(1, 5)) * 0.5, target[i], i

    order = [i for _, _, i in from_store(0)]
    fitted = logistic((value, y) for value, y, _ in from_store(0))
    in_memory = logistic((scaled(i), target[i]) for i in order)
    torch.testing.assert_close(fitted, in_memory, rtol=1e-12, atol=1e-12)
    other = logistic((value, y) for value, y, _ in from_store(1))
    assert not torch.allclose(other, in_memory, rtol=1e-6)
    assert float(fitted.norm()) > 0.1
