"""Readouts trained from a store larger than memory: fitted, saved, loaded in a fresh process, the same numbers.

Question: does what the process holds grow with the rows? A store of 3 GB is written; each readout of `READOUTS` is then
fitted from it, scored and saved in a process of its own, which may hold at most 500 MB more at its peak than before and
is forbidden to: its memory is limited to that; another fresh process loads the file and must give the same bits;
another model is refused. `READOUTS`: name -> how to make it, and which column is its target. The tuned lens, which
learns from real states of a model, is in `out_of_core_lens`.
"""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import inscape as ins
from bench.common import Row, peaked, set_up, write
from inscape.core.readout import row_batches
from inscape.read.probes import LogisticProbe, MeanDifference, RidgeProbe
from inscape.store import manifest
from inscape.store.schema import Column, Description
from inscape.store.shard import write_shard

WIDTH, ROWS, SHARDS = 512, 65_536, 45  # 3.0 GB of bfloat16
ALLOWED = 500 << 20
SITE, MODEL = "layers.5.resid_post", "0123456789abcdef"
READOUTS: dict[str, tuple[Callable[[], Any], str]] = {
    "MeanDifference": (MeanDifference, "flag"),
    "RidgeProbe": (RidgeProbe, "number"),
    "LogisticProbe": (lambda: LogisticProbe(tol=1e-6, memory=64 << 20), "flag"),
}


def made(folder: Path, shards: int) -> None:
    """Correlated rows whose label is a plane with noise, drawn shard by shard."""
    for inner in ("manifest", "shards", "samples"):
        (folder / inner).mkdir(parents=True)
    columns = (
        Column(name="sample", dtype="int64"), Column(name="pos", dtype="int32"), Column(name="token", dtype="int32"),
        Column(name="flag", dtype="int32"), Column(name="number", dtype="float32"),
        Column(name=SITE, dtype="bfloat16", shape=(WIDTH,), site=SITE),
    )  # fmt: skip
    about = Description(columns=columns, n_samples=shards, unit_samples=1, model=MODEL)
    (folder / "store.json").write_text(about.model_dump_json())
    g = torch.Generator().manual_seed(0)
    way, mix = torch.randn(WIDTH, generator=g), torch.randn(WIDTH, 64, generator=g)
    index = torch.arange(ROWS, dtype=torch.int32)
    for i in range(shards):
        x = (torch.randn(ROWS, WIDTH, generator=g) + torch.randn(ROWS, 64, generator=g) @ mix.T / 8).bfloat16()
        value = x.float() @ way / 25 + 0.5 * torch.randn(ROWS, generator=g)
        pieces = {"sample": [torch.full((ROWS,), i)], "pos": [index], "token": [index], SITE: [x]}
        pieces |= {"flag": [(value > 0).int()], "number": [value]}
        listed = write_shard(folder / "shards" / f"w-{i:06d}.safetensors", columns, pieces, [(i, 0, ROWS)])
        manifest.add_line(folder, "w", listed)


def fit(store: str, name: str, path: str) -> None:
    """In a process of its own: fit, score on the last rows, save; says how much the peak grew."""
    set_up()
    opened = ins.Store(store)
    make, target = READOUTS[name]
    warm(make, target)
    confine(ALLOWED)
    start = time.perf_counter()
    readout, grown = peaked(lambda: make().fit(opened[SITE], opened[target][:]))
    seconds = time.perf_counter() - start
    ins.save_readout(path, readout)
    print(json.dumps({"grown": grown, "seconds": seconds, "score": score(opened, readout, target)}))


def load(store: str, name: str, path: str) -> None:
    """In a fresh process: load, score the same rows; another model is refused."""
    set_up()
    opened = ins.Store(store)
    readout = ins.load_readout(path, model=opened.about.model, site=SITE)
    refused = ""
    try:
        ins.load_readout(path, model="f" * 16)
    except ins.ModelError as error:
        refused = str(error).splitlines()[0]
    print(json.dumps({"score": score(opened, readout, READOUTS[name][1]), "refused": refused}))


def score(store: Any, readout: Any, target: str) -> float:
    rows = slice(len(store) - 20_000, len(store))
    return float(readout.score(store[SITE][rows], store[target][rows]))


def warm(make: Callable[[], Any], target: str) -> None:
    """What libraries and products take by themselves is taken before memory is counted."""
    x = torch.randn(4096, WIDTH)
    y = (x[:, 0] + torch.randn(4096) > 0).int() if target == "flag" else x[:, 0]
    make().fit(x, y)
    for _ in row_batches(x):
        pass


def confine(more: int) -> None:
    """From here on this process may allocate so many bytes more, and no byte beyond."""
    held = int(re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (held + more, held + more))


def asked(call: str, *arguments: str, module: str = "bench.out_of_core") -> dict[str, Any]:
    """What a call of a module says as JSON, in a process of its own."""
    command = [sys.executable, "-m", module, call, *arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode:
        raise AssertionError(f"{call} {arguments[1]}: {said.stderr[-2000:]}")
    return json.loads(said.stdout.splitlines()[-1])


def main() -> None:
    set_up()
    shards = 2 if "INSCAPE_BENCH_SMALL" in os.environ else SHARDS
    folder = Path(tempfile.mkdtemp(prefix="inscape-bench-"))
    rows: list[Row] = []
    try:
        made(folder / "store", shards)
        size = sum(f.stat().st_size for f in (folder / "store" / "shards").iterdir())
        for name in READOUTS:
            path = str(folder / f"{name}.safetensors")
            first = asked("fit", str(folder / "store"), name, path)
            second = asked("load", str(folder / "store"), name, path)
            assert first["score"] == second["score"], f"{name}: {first['score']} and {second['score']}"
            assert "another model" in second["refused"], second
            met = first["grown"] < ALLOWED
            print(
                f"  {name}: {size / 1e9:.2f} GB in {first['seconds']:.1f} s; grew by {first['grown'] / 1e6:.0f} MB "
                f"(to reach: {ALLOWED / 1e6:.0f}; {'met' if met else 'MISSED'}); score {first['score']:.4f} both times",
                flush=True,
            )
            rows.append({"title": "out of core", "case": name, "store_bytes": size, "met": met, **first})
    finally:
        shutil.rmtree(folder)
    if shards == SHARDS:
        write("out_of_core", rows, units=WIDTH, stored_rows=ROWS * shards, allowed_bytes=ALLOWED)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        {"fit": fit, "load": load}[sys.argv[1]](*sys.argv[2:])
    else:
        main()
