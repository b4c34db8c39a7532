"""The same patching sweep by a peer, in the peer's own environment; inscape is not imported there.

    python -m venv peers/nnsight && peers/nnsight/bin/pip install torch==2.13.0 transformers==5.23.0 nnsight accelerate
    python -m bench.sweep_peers nnsight=peers/nnsight/bin/python transformer_lens=... pyvene=...

Called as `PYTHON bench/sweep_peer.py PEER MODEL_FOLDER`; prints one JSON line: seconds of the sweep over all layers and
positions (one warm-up of a few cells before; scaled where only some were run), the value of each, and seconds of the
bare forward in the same process. Each peer is used as its documentation says: nnsight with one batched trace a layer,
TransformerLens (its bridge) and pyvene with one forward a cell.
"""

import json
import sys
import time
from typing import Any

import torch

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
ANSWERS = (" Mary", " John")


def main(peer: str, folder: str) -> None:
    torch.set_num_threads(2)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    one, two = (tokenizer(t, return_tensors="pt")["input_ids"] for t in (CLEAN, CORRUPTED))
    right, wrong = (tokenizer(a, add_special_tokens=False)["input_ids"][0] for a in ANSWERS)
    bare = []
    with torch.no_grad():
        for _ in range(5):
            start = time.perf_counter()
            module(input_ids=two)
            bare.append(time.perf_counter() - start)
    sweep = {"nnsight": nnsight, "transformer_lens": transformer_lens, "pyvene": pyvene}[peer]
    cells = [(layer, p) for layer in range(18) for p in range(one.shape[1])]
    every = len(cells)
    cells = cells[:: 1 if peer == "nnsight" else 5]  # the others take one forward a cell: a fifth of them says enough
    ready = sweep(module, tokenizer, folder, one, two, right, wrong)
    ready(cells[:15])
    start = time.perf_counter()
    values = ready(cells)
    seconds = (time.perf_counter() - start) * every / len(cells)
    from importlib.metadata import version

    package = peer.replace("_", "-")
    about = {"peer": package, "version": version(package), "cells_run": len(cells)}
    said = {**about, "seconds": seconds, "bare_s": sorted(bare)[2]}
    print(json.dumps({**said, "cells": cells, "values": [float(v) for v in values]}))


def nnsight(module: Any, tokenizer: Any, folder: str, one: Any, two: Any, right: int, wrong: int) -> Any:
    from nnsight import NNsight

    model = NNsight(module)

    def ready(cells: list[tuple[int, int]]) -> list[float]:
        clean = list(module(one, output_hidden_states=True).hidden_states[1:])  # block outputs but for the last
        kept: list[Any] = []
        handle = module.model.layers[-1].register_forward_hook(lambda m, a, x: kept.append(x))
        module(one)
        handle.remove()
        clean[-1] = kept[0] if isinstance(kept[0], torch.Tensor) else kept[0][0]
        out: list[float] = []
        for layer in sorted({c[0] for c in cells}):
            positions = [p for at, p in cells if at == layer]
            rows = two.repeat(len(positions), 1)
            with torch.no_grad(), model.trace(rows):
                hidden = model.model.layers[layer].output
                for i, p in enumerate(positions):
                    hidden[i, p] = clean[layer][0, p]
                seen = model.lm_head.output[:, -1].save()
            out += (seen[:, right] - seen[:, wrong]).tolist()
        return out

    return ready


def transformer_lens(module: Any, tokenizer: Any, folder: str, one: Any, two: Any, right: int, wrong: int) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(folder, hf_model=module, tokenizer=tokenizer, device="cpu")

    def ready(cells: list[tuple[int, int]]) -> list[float]:
        names = [f"blocks.{i}.hook_resid_post" for i in range(18)]
        with torch.no_grad():
            _, clean = model.run_with_cache(one, names_filter=lambda n: n in names)
        out = []
        for layer, p in cells:
            name = f"blocks.{layer}.hook_resid_post"

            def put(x: Any, hook: Any, name: str = name, p: int = p) -> Any:
                x[:, p] = clean[name][:, p]
                return x

            with torch.no_grad():
                logits = model.run_with_hooks(two, fwd_hooks=[(name, put)])
            out.append(float(logits[0, -1, right] - logits[0, -1, wrong]))
        return out

    return ready


def pyvene(module: Any, tokenizer: Any, folder: str, one: Any, two: Any, right: int, wrong: int) -> Any:
    import pyvene as pv
    from pyvene.models.constants import CONST_OUTPUT_HOOK

    # a model type that it does not know, made known as its introduction says ("Add New Model Type")
    pv.type_to_module_mapping[type(module)] = {"block_output": ("model.layers[%s]", CONST_OUTPUT_HOOK)}
    pv.type_to_dimension_mapping[type(module)] = {"block_output": ("hidden_size",)}

    def ready(cells: list[tuple[int, int]]) -> list[float]:
        out = []
        for layer, p in cells:
            config = {"layer": layer, "component": "block_output", "intervention_type": pv.VanillaIntervention}
            model = pv.IntervenableModel([config], model=module)
            with torch.no_grad():
                _, edited = model({"input_ids": two}, [{"input_ids": one}], {"sources->base": p})
            out.append(float(edited.logits[0, -1, right] - edited.logits[0, -1, wrong]))
        return out

    return ready


if __name__ == "__main__":
    main(*sys.argv[1:])
