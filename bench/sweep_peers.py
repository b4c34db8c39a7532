"""The sweep beside the peers', each in its own environment: `python -m bench.sweep_peers PEER=PYTHON ...`.

How to make the environments stands in `bench/sweep_peer.py`. Every value is compared with ours before times are.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

import inscape as ins
from bench.common import Row, rounds, same, set_up, write
from bench.sweep import CLEAN, CORRUPTED
from inscape.models.demo import demo_folder


def main(given: list[str]) -> None:
    set_up()
    folder = str(demo_folder("gemma-3-270m"))
    model = ins.open("gemma-3-270m", dtype=torch.float32)
    metric = ins.logit_diff(" Mary", " John")
    ours = ins.sweep(model, CLEAN, CORRUPTED, metric=metric)
    times: dict[str, list[float]] = {"logit difference": [], "any metric": []}
    for _ in range(rounds(5)):
        for name, asked in (("logit difference", metric), ("any metric", ins.kl())):
            start = time.perf_counter()
            ins.sweep(model, CLEAN, CORRUPTED, metric=asked)
            times[name].append(time.perf_counter() - start)
    mine = {name: sorted(t)[len(t) // 2] for name, t in times.items()}
    del model
    rows: list[Row] = []
    for peer, python in (g.split("=", 1) for g in given):
        script = Path(__file__).parent / "sweep_peer.py"
        done = subprocess.run([python, str(script), peer, folder], capture_output=True, text=True)
        if done.returncode:
            print(f"  {peer}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}", flush=True)
            continue
        said = json.loads(done.stdout.strip().splitlines()[-1])
        theirs = torch.tensor(said.pop("values"))
        at = torch.tensor(said.pop("cells"))
        same(peer, theirs, ours.values[at[:, 0], at[:, 1]], 1e-3)
        times_as_fast = {name: said["seconds"] / s for name, s in mine.items()}
        rows.append({"title": "the same sweep by a peer", "case": peer, **said, "ours_s": mine, "times": times_as_fast})
        print(f"  {peer} {said['version']}: {said['seconds']:.1f} s (bare forward {said['bare_s'] * 1e3:.0f} ms); "
              f"ours {mine}: {times_as_fast}", flush=True)  # fmt: skip
    write("sweep_peers", rows, model="gemma-3-270m", dtype="float32")


if __name__ == "__main__":
    main(sys.argv[1:])
