"""The activation store: writing, reading, shuffling, opening; and recording against the blocks it needs.

Ratios against the plain way in the same run: one file written and synced, files read forward, a memory map.
Question of the recording part: what does keeping three residual sites cost beyond running the blocks?
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import inscape as ins
from bench.common import Row, paired, rounds, row, same, set_up, write
from inscape.store import manifest
from inscape.store.schema import Column, Description
from inscape.store.shard import write_shard

WIDTH, ROWS, SHARDS = 640, 50_000, 24  # 1.5 GB
COLUMNS = (
    Column(name="sample", dtype="int64"),
    Column(name="pos", dtype="int32"),
    Column(name="token", dtype="int32"),
    Column(name="x", dtype="bfloat16", shape=(WIDTH,), site="layers.0.resid_post"),
)
READ = ["layers.3.resid_post", "layers.6.resid_post", "layers.9.resid_post"]


def main() -> None:
    set_up()
    folder = Path(tempfile.mkdtemp(prefix="inscape-bench-"))
    try:
        rows = writing(folder / "big")
        rows += reading(folder / "big")
        rows += picking(folder / "big")
        rows += opening(folder / "many")
        rows += recording(folder)
    finally:
        shutil.rmtree(folder)
    write("store", rows, width=WIDTH, stored_rows=ROWS * SHARDS, shards=SHARDS)


def writing(store: Path) -> list[Row]:
    """A shard of 65 MB with header, checksum and syncs, against the same bytes into one synced file."""
    for inner in ("", "manifest", "shards", "samples"):
        (store / inner).mkdir(parents=True)
    about = Description(columns=COLUMNS, n_samples=SHARDS, unit_samples=1)
    (store / "store.json").write_text(about.model_dump_json())
    x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    index = torch.arange(ROWS, dtype=torch.int32)
    done = [0]

    def ours() -> None:
        number = done[0]
        done[0] += 1
        pieces = {"sample": [torch.full((ROWS,), number)], "pos": [index], "token": [index], "x": [x]}
        path = store / "shards" / f"w-{number:06d}.safetensors"
        listed = write_shard(path, COLUMNS, pieces, [(number, 0, ROWS)])
        manifest.add_line(store, "w", listed)

    parts = [torch.zeros(ROWS, dtype=torch.int64), index, index, x]

    def plain() -> None:
        with open(store / "plain", "wb") as file:
            for part in parts:
                file.write(part.view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        os.unlink(store / "plain")

    made = paired("store", plain, {"write a shard, against one synced file": (ours, 1 / 0.7)}, samples=SHARDS - 2)
    assert len(ins.Store(store)) == ROWS * SHARDS
    return made


def reading(store: Path) -> list[Row]:
    """Epochs of shuffled batches of 4,096 rows, pool a twentieth of the store, against reading it forward.

    An epoch after another uses its pools again, as training does; the first must ask the system for their memory.
    """
    opened = ins.Store(store)
    column, total = opened["x"], len(opened)

    def forward() -> None:
        for start in range(0, total, 16_384):
            column[start : start + 16_384]

    def fresh(columns: Any = "x", *, last: bool = False) -> Any:
        return opened.batches(4096, columns, seed=1, pool_rows=total // 20, last=last)

    batches = fresh()

    def shuffled() -> None:
        for _ in batches:
            pass

    def first() -> None:
        for _ in fresh():
            pass

    seen = torch.zeros(SHARDS, ROWS, dtype=torch.bool)
    for batch in fresh(["sample", "pos"], last=True):
        seen[batch["sample"], batch["pos"].long()] = True
    assert bool(seen.all()), "an epoch gives every row"
    cases = {"shuffled batches, against forward": (shuffled, 2.0), "the same, first epoch": (first, None)}
    made = paired("store, warm", forward, cases, samples=rounds(11))
    if dropped(store):
        times: dict[str, list[float]] = {"forward": [], "shuffled": []}
        for _ in range(rounds(7)):
            for name, call in (("forward", forward), ("shuffled", shuffled)):
                dropped(store)
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
        made.append(row("store, cold", "shuffled batches, against forward", times["shuffled"], times["forward"], 2.0))
    return made


def dropped(store: Path) -> bool:
    """Ask the system to forget the store's pages."""
    with contextlib.suppress(AttributeError, OSError):
        for path in (store / "shards").iterdir():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
        return True
    return False


def picking(store: Path) -> list[Row]:
    """4,096 random rows, warm, against numpy's memory maps of the same files, rows grouped by file."""
    opened = ins.Store(store)
    column = opened["x"]
    picked = np.random.default_rng(0).integers(0, len(opened), 4096)
    maps = [
        np.memmap(store / "shards" / listed.shard, np.uint16, "r", listed.data + 16 * ROWS, (ROWS, WIDTH))
        for listed in opened.listed
    ]

    def raw() -> np.ndarray:
        out = np.empty((4096, WIDTH), np.uint16)
        order = np.argsort(picked)
        owner = picked[order] // ROWS
        for group in np.split(order, np.flatnonzero(np.diff(owner)) + 1):
            out[group] = maps[picked[group[0]] // ROWS][picked[group] % ROWS]
        return out

    same("picked rows", column[picked].view(torch.uint16), torch.from_numpy(raw()))
    return paired(
        "store, warm", raw, {"4,096 random rows, against memory maps": (lambda: column[picked], 2.0)}, samples=21
    )


def opening(store: Path) -> list[Row]:
    """A store of 10,000 shards, in a process of its own: seconds and megabytes that opening it takes."""
    for inner in ("", "manifest", "shards", "samples"):
        (store / inner).mkdir(parents=True)
    about = Description(columns=COLUMNS, n_samples=640_000, unit_samples=64)
    (store / "store.json").write_text(about.model_dump_json())
    with open(store / "manifest" / "w.jsonl", "w") as file:
        for i in range(10_000):
            listed = manifest.Listed(
                shard=f"w-{i:06d}.safetensors", rows=1000, bytes=10**6, data=512, sha256="0" * 64, units=((i, 0, 1000),)
            )
            file.write(listed.model_dump_json() + "\n")
    code = (
        "import time, inscape as ins; ins.Store; from bench.common import resident; a = resident()\n"
        f"t = time.perf_counter(); s = ins.Store({str(store)!r}); t = time.perf_counter() - t\n"
        "print(len(s), t, resident() - a)"
    )
    found = []
    for _ in range(rounds(5)):
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert int(said[0]) == 10**7
        found.append((float(said[1]), float(said[2]) / 1e6))
    seconds, megabytes = (sorted(x)[len(found) // 2] for x in zip(*found, strict=True))
    print(f"  store: open 10,000 shards: {seconds:.2f} s, {megabytes:.0f} MB (to reach: 1 s, 200 MB)", flush=True)
    met = seconds < 1 and megabytes < 200
    return [{"title": "store", "case": "open 10,000 shards", "seconds": seconds, "megabytes": megabytes, "met": met}]


def recording(folder: Path) -> list[Row]:
    """Three residual sites of 48 samples of 128 tokens, against running the blocks they need on the same batches."""
    model = ins.open("gemma-3-270m", dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 200_000, (48, 128), generator=generator)
    count = [0]

    def blocks() -> None:
        for start in range(0, 48, 8):
            by_hand(model.module, ids[start : start + 8])

    def ours() -> None:
        count[0] += 1
        to = folder / f"r{count[0]}"
        ins.record(model, ids.tolist(), READ, to, dtype="bfloat16", batch_tokens=1024, unit_samples=16)
        shutil.rmtree(to)

    return paired("record Gemma 3 270M, 6,144 tokens", blocks, {"3 residual sites": (ours, 1.05)}, samples=rounds(7))


def by_hand(module: Any, ids: torch.Tensor) -> None:
    """The first ten blocks and no more."""

    class Enough(Exception):
        pass

    def stop(*_: object) -> None:
        raise Enough

    handle = module.model.layers[9].register_forward_hook(stop)
    try:
        with torch.no_grad(), contextlib.suppress(Enough):
            module.model(input_ids=ids, use_cache=False)
    finally:
        handle.remove()


if __name__ == "__main__":
    main()
