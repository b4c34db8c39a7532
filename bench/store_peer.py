"""Recording beside SAELens' activation cache: the same weights, tokens, layer, contexts, batches and type.

Questions: CPU seconds of each, as a multiple of running the blocks they need; and what each does when the same
record is started again after `kill -9` in the middle. Values are compared before anything is timed. SAELens pins its
own versions and gets an environment of its own, whose Python is the argument (or INSCAPE_PEER_PYTHON):

    python -m venv peer && peer/bin/pip install torch==2.13.0 sae-lens==6.54.12
    python -m bench.store_peer peer/bin/python

Both write float32, in the same number of files. SAELens does not sync what it writes; ours does. Counted are
CPU seconds of each process on one thread of torch, so that other users of the machine matter little.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import inscape as ins
from bench.common import Row, rounds, row, same, set_up, write
from bench.store import by_hand
from inscape.store.check import verify

CONTEXT, CONTEXTS, BATCH = 256, 16, 4  # 4,096 tokens
BUFFER = BATCH * CONTEXT  # tokens a file of either side: four files
SITE, HOOK, WIDTH = "layers.9.resid_post", "model.layers.9", 640


def main(python: str) -> None:
    set_up()
    torch.set_num_threads(1)
    model = ins.open("gemma-3-270m", dtype=torch.float32)
    folder = Path(tempfile.mkdtemp(prefix="inscape-peer-"))
    try:
        peer = Peer(python, model)
        rows = timed(model, peer, folder)
        rows.append(killed_ours(folder / "ours"))
        rows.append(killed_peer(python, model, folder / "theirs"))
        write(
            "store_peer",
            rows,
            peer=peer.about,
            tokens=CONTEXT * CONTEXTS,
            site=SITE,
            stored="float32",
            threads=1,
            seconds_are="CPU seconds of each process",
        )
    finally:
        shutil.rmtree(folder)


def tokens() -> torch.Tensor:
    return torch.randint(10, 200_000, (CONTEXTS, CONTEXT), generator=torch.Generator().manual_seed(0))


def ours(model: "ins.Model", to: Path) -> "ins.Store":
    """One work unit a batch, one shard a work unit."""
    return ins.record(
        model, tokens().tolist(), SITE, to, dtype="float32", batch_tokens=BUFFER, unit_samples=BATCH,
        shard_bytes=BUFFER * WIDTH * 4,
    )  # fmt: skip


class Peer:
    """SAELens in a process of its own, with the model open."""

    def __init__(self, python: str, model: "ins.Model") -> None:
        side = Path(__file__).with_name("store_peer_side.py")
        self.process = subprocess.Popen(
            [python, str(side)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        )  # fmt: skip
        asked = {
            "model": model.config._name_or_path, "hook": HOOK, "width": WIDTH, "batch": BATCH, "threads": 1,
            "buffer_tokens": BUFFER, "ids": tokens().tolist(),
        }  # fmt: skip
        self.say(json.dumps(asked))
        self.about = self.answer()
        assert self.about["buffers"] == CONTEXTS // BATCH, self.about

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peer's side ended; run bench/store_peer_side.py with its Python to see why")
        return json.loads(line)

    def record(self, to: Path) -> dict[str, Any]:
        self.say(str(to))
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def timed(model: "ins.Model", peer: Peer, folder: Path) -> list[Row]:
    """Ours, theirs and the blocks alone take turns; opening the model is not counted."""
    ids = tokens()
    times: dict[str, list[float]] = {"blocks": [], "inscape": [], "SAELens": []}
    for turn in range(-1, rounds(5)):
        for name in list(times) if turn % 2 else [*times][::-1]:
            to = folder / f"{name}{turn}"
            start = time.process_time()
            if name == "blocks":
                for at in range(0, CONTEXTS, BATCH):
                    by_hand(model.module, ids[at : at + BATCH])
            elif name == "inscape":
                ours(model, to)
            seconds = time.process_time() - start if name != "SAELens" else peer.record(to)["seconds"]
            if turn >= 0:
                times[name].append(seconds)
        if turn < 0:
            compared(ins.Store(folder / "inscape-1"), folder / "SAELens-1")
        for name in ("inscape", "SAELens"):
            shutil.rmtree(folder / f"{name}{turn}")
    peer.close()
    title, count = f"record one site, {CONTEXT * CONTEXTS:,} tokens, CPU seconds", CONTEXT * CONTEXTS
    made = [row(title, name, times[name], times["blocks"], None) for name in ("inscape", "SAELens")]
    for r in made:
        r["tokens_a_cpu_second"] = round(count / r["median_s"])
        print(f"  {r['case']}: {r['tokens_a_cpu_second']:,} tokens a CPU second")
    return made


def compared(mine: "ins.Store", theirs: Path) -> None:
    from datasets import load_from_disk

    data = load_from_disk(str(theirs)).with_format("torch")
    same("tokens", mine["token"][:].long(), data["token_ids"][:].reshape(-1).long())
    same("values", mine[SITE][:], data[HOOK][:].reshape(-1, WIDTH), 1e-6)


def killed_ours(to: Path) -> Row:
    """Killed when two of four shards are listed, then started again."""
    command = [sys.executable, "-m", "bench.store_peer", "--record", str(to)]
    process = subprocess.Popen(command)
    manifest = to / "manifest"
    until(lambda: sum(p.read_bytes().count(b"\n") for p in manifest.glob("*.jsonl")) >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(ins.Store(to).segments)
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    store = ins.Store(to)
    assert store.is_complete
    assert verify(to).is_sound
    computed = len(store.segments) - kept
    print(f"  inscape, killed: {kept} of {len(store.segments)} units kept, {computed} computed by the second start")
    return {"case": "inscape, killed and started again", "kept": kept, "of": len(store.segments), "finished": True}


def killed_peer(python: str, model: "ins.Model", to: Path) -> Row:
    """The same; what it says is kept as it is."""
    peer = Peer(python, model)
    peer.say(str(to))
    files = to / ".tmp_shards"
    until(lambda: (files / "shard_00001" / "state.json").exists())
    peer.process.send_signal(signal.SIGKILL)
    peer.process.wait()
    kept = sum((p / "state.json").exists() for p in files.iterdir())
    second = Peer(python, model)
    answer = second.record(to)
    second.close()
    said = answer.get("error", "").replace(str(to), "DIR")
    print(f"  SAELens, killed: {kept} of {CONTEXTS // BATCH} shards on disk; the second start: {said or answer}")
    return {
        "case": "SAELens, killed and started again", "kept": kept, "of": CONTEXTS // BATCH, "finished": not said,
        "said": said,
    }  # fmt: skip


def until(condition: Any, limit_s: float = 120.0) -> None:
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > limit_s:
            raise SystemExit("nothing was written in time")
        time.sleep(0.01)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--record"]:
        set_up()
        ours(ins.open("gemma-3-270m", dtype=torch.float32), Path(sys.argv[2]))
    elif found := (sys.argv[1] if len(sys.argv) > 1 else os.environ.get("INSCAPE_PEER_PYTHON")):
        main(found)
    else:
        raise SystemExit(__doc__)
