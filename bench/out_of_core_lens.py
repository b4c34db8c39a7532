"""A tuned lens and a probe trained from 3 GB of recorded states of Gemma 3 270M, all layers, in half of that and less.

Question: does a lens need its states in memory? Real text is recorded at every block; in a process of its own, which
may hold no more than `ALLOWED` beyond the model (the pool of the store is 2 x 256 MB; the maps and their optimiser take
112 MB), a lens of all layers is trained from the store and saved, and so is a probe of one layer (does a token begin a
word?); a fresh process must read the same numbers from the files, and neither is read for another model.

    python -m bench.out_of_core_lens [tokens] [folder of a store made before]
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import inscape as ins
from bench.common import Row, peaked, set_up, write
from bench.out_of_core import asked, confine
from bench.store_long import chosen, real_text
from inscape.read.lenses.tuned import TunedLens
from inscape.read.probes import LogisticProbe

ALLOWED = {"lens": 1500 << 20, "probe": 500 << 20}
MODULE, MODEL, SITE = "bench.out_of_core_lens", "gemma-3-270m", "layers.5.resid_post"
STEPS, ROWS = 50, 32


def opened() -> "ins.Model":
    set_up()
    return ins.open(MODEL, dtype=torch.float32)


def fit_lens(store: str, path: str) -> None:
    """In a process of its own: train, score, save; says how much more it held at its peak."""
    model, held = opened(), ins.Store(store)
    few = {name: held[name][:256] for name in held.sites}
    TunedLens(steps=1, rows=ROWS).fit(few, model).score(few, model)  # what libraries take by themselves
    confine(ALLOWED["lens"])
    start = time.perf_counter()
    lens, grown = peaked(lambda: TunedLens(steps=STEPS, rows=ROWS, start="least_squares").fit(held, model))
    seconds = time.perf_counter() - start
    lens.save(path)
    print(json.dumps({"grown": grown, "seconds": seconds, "score": lens.score(held, model)}))


def load_lens(store: str, path: str) -> None:
    """In a fresh process: the same score; another model is refused."""
    model = opened()
    lens = TunedLens.load(path, model)
    score = lens.score(ins.Store(store), model)
    refused = ""
    try:
        TunedLens.load(path, other(model))
    except ins.ModelError as error:
        refused = str(error).splitlines()[0]
    print(json.dumps({"score": score, "refused": refused}))


def other(model: "ins.Model") -> "ins.Model":
    """The same model after one weight has moved."""
    with torch.no_grad():
        model.module.model.layers[3].mlp.down_proj.weight.mul_(1.01)
    return ins.Model(model.module)


def begins(store: Any, model: Any) -> torch.Tensor:
    """Whether each token begins a word."""
    words = model.tokenizer.convert_ids_to_tokens(range(model.config.vocab_size))
    first = torch.tensor([str(w).startswith("\u2581") for w in words])
    return first[store["token"][:].long()]


def fit_probe(store: str, path: str) -> None:
    model, held = opened(), ins.Store(store)
    label = begins(held, model)
    LogisticProbe().fit(held[SITE][:4096], label[:4096])
    confine(ALLOWED["probe"])
    start = time.perf_counter()
    probe, grown = peaked(lambda: LogisticProbe(tol=1e-6, memory=64 << 20).fit(held[SITE], label))
    seconds = time.perf_counter() - start
    ins.save_readout(path, probe)
    print(json.dumps({"grown": grown, "seconds": seconds, "score": of_last(probe, held, label)}))


def load_probe(store: str, path: str) -> None:
    model, held = opened(), ins.Store(store)
    probe = ins.load_readout(path, model=held.about.model, site=SITE)
    refused = ""
    try:
        ins.load_readout(path, model="f" * 16)
    except ins.ModelError as error:
        refused = str(error).splitlines()[0]
    print(json.dumps({"score": of_last(probe, held, begins(held, model)), "refused": refused}))


def of_last(probe: Any, store: Any, label: torch.Tensor) -> float:
    return float(probe.score(store[SITE][len(store) - 20_000 : len(store)], label[-20_000:]))


CALLS = {"fit_lens": fit_lens, "load_lens": load_lens, "fit_probe": fit_probe, "load_probe": load_probe}


def main(wanted: str = "65536", kept: str = "") -> None:
    tokens = int(wanted)
    folder = Path(tempfile.mkdtemp(prefix="inscape-bench-"))
    store = kept or str(folder / "store")
    rows: list[Row] = []
    try:
        if not kept:
            model = opened()
            texts = chosen(model, real_text(), tokens)
            ins.record(model, texts, "layers.*.resid_post", store, dtype="float32", max_length=512)
            del model
        size = sum(f.stat().st_size for f in (Path(store) / "shards").iterdir())
        for what in ("lens", "probe"):
            path = str(folder / f"{what}.safetensors")
            first = asked(f"fit_{what}", store, path, module=MODULE)
            second = asked(f"load_{what}", store, path, module=MODULE)
            assert first["score"] == second["score"], f"{what}: {first['score']} and {second['score']}"
            assert second["refused"], second
            met = first["grown"] < ALLOWED[what]
            print(
                f"  {what}: {size / 1e9:.2f} GB in {first['seconds']:.1f} s; grew by {first['grown'] / 1e6:.0f} MB "
                f"(to reach: {ALLOWED[what] / 1e6:.0f}; {'met' if met else 'MISSED'}); "
                f"score {first['score']:.4f} both times",
                flush=True,
            )
            rows.append({"title": "out of core", "case": what, "store_bytes": size, "met": met, **first, **second})
    finally:
        shutil.rmtree(folder)
    if tokens >= 65_536:
        write("out_of_core_lens", rows, model=MODEL, allowed_bytes=ALLOWED, steps=STEPS, positions_a_step=ROWS)


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] in CALLS:
        CALLS[sys.argv[1]](*sys.argv[2:])
    else:
        main(*sys.argv[1:])
