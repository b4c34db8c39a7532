"""Does a store survive kill -9? Two writers, killed at 50 random moments, then left to finish.

Afterwards: every work unit is there once, every checksum is right, and every row equals, bit for bit, that of a record
nobody disturbed. The control: the same comparison finds one flipped bit. `python -m bench.store_kill [kills]`.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

import inscape as ins
from bench.common import write
from bench.engine_tiny import tiny
from inscape.store.check import verify

READ = ["layers.3.resid_post", "layers.9.attn_out"]
SETTINGS = {"dtype": "bfloat16", "unit_samples": 2, "shard_bytes": 20_000}
SAMPLES = 6000
KILLS = 50
LONGEST_S = 0.5


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
    torch.set_num_threads(1)  # children are forked, which a pool of threads does not survive
    model, folder = ins.open(tiny()), Path(tempfile.mkdtemp(prefix="inscape-kill-"))
    data = [[(7 * i + j) % 900 + 1 for j in range(3 + (5 * i) % 11)] for i in range(SAMPLES)]
    pick = random.Random(0)
    try:
        whole = ins.record(model, data, READ, folder / "whole", **SETTINGS)
        grown, worked = [], 0
        for _ in range(kills):
            before = listed(folder / "killed")
            children = [start(model, data, folder / "killed", worker) for worker in (0, 1)]
            time.sleep(pick.uniform(0.02, LONGEST_S))
            for child in children:
                os.kill(child, signal.SIGKILL)
            killed = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            worked += sum(code == -signal.SIGKILL for code in killed)
            grown.append(listed(folder / "killed") - before)
        half = ins.Store(folder / "killed")
        done = f"{len(half.segments):,} of {half.about.n_units:,} units done"
        print(f"  {kills} rounds, {worked} processes killed, {done}")
        found = verify(folder / "killed")
        assert found.is_sound, str(found)
        debris = len(found.unlisted)
        for worker in (0, 1):
            resumed = ins.record(model, data, READ, folder / "killed", worker=(worker, 2), **SETTINGS)
        found = verify(folder / "killed")
        assert found.is_sound, str(found)
        assert not found.missing, str(found)
        assert not found.twice, str(found)
        unlike = [name for name in whole if not torch.equal(whole[name][:], resumed[name][:])]
        assert not unlike, unlike
        assert resumed.samples() == whole.samples()
        control(folder / "killed")
        print(
            f"  complete: {len(resumed):,} rows in {len(resumed.listed):,} shards, bit-equal; "
            f"{debris} unlisted files were left by kills, {len(found.torn)} torn manifests"
        )
        outcome = {
            "kills": kills, "processes_killed": worked, "rounds_that_listed": sum(g > 0 for g in grown),
            "rows": len(resumed), "shards": len(resumed.listed), "unlisted_files": debris, "torn": len(found.torn),
            "bit_equal": True, "twice": 0,
        }  # fmt: skip
        write("store_kill", [outcome], model="random GPT-2, 12 layers, width 128", writers=2)
    finally:
        shutil.rmtree(folder)


def start(model: "ins.Model", data: list[list[int]], folder: Path, worker: int) -> int:
    """Fork a writer; its process number."""
    child = os.fork()
    if child == 0:
        try:
            ins.record(model, data, READ, folder, worker=(worker, 2), **SETTINGS)
        finally:
            os._exit(0)
    return child


def listed(folder: Path) -> int:
    return sum(p.read_bytes().count(b"\n") for p in (folder / "manifest").glob("*.jsonl"))


def control(folder: Path) -> None:
    """The comparison must be able to fail: one bit of one shard is found."""
    path = sorted((folder / "shards").glob("w*.safetensors"))[7]
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 4
    path.write_bytes(raw)
    assert list(verify(folder).bad) == [path.name]


if __name__ == "__main__":
    main()
