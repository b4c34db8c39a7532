"""A full patching sweep of Gemma 3 270M, beside the plain loop: one forward with a hook for every site and position.

Question: what do 18 layers x 15 positions of an indirect-object pair cost, for any metric and for the logit difference
of known tokens? The loop is run whole once, which checks every value; each round then times a few of its cells, scaled
to all. Also: 32 pairs in one call, every head's z at the last token, a prompt of 512 tokens, and what gradients tell
of the same places (`bench/attribution.py`).

What is possible at 512 tokens: the columns from each cell's position on, in the layers after it, are `least_share`
of the loop's token-layers, and the loop's head (0.6 of its forward) is not computed. Above that lie the row itself,
which every pack runs again so that its cells can look at it, and attention, which looks at a whole pack: with a pack of
T tokens beside a row of w, (T + a T^2) / (T - w) of the cells' own work, where a T is attention's cost beside the
products' (0.3 at 1536 tokens, by a profile). That is 2.0 at the T = 3 w taken here and 1.9 at its best, so wider packs
gain nothing; to come nearer, a row's keys and values would have to be kept from pack to pack.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import inscape as ins
from bench.attribution import agreement
from bench.common import Row, rounds, row, same, set_up, write
from inscape import tasks
from inscape.circuits.attribution.patching import attribution_patching

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
FEW = 6  # cells of the loop in each round


def main() -> None:
    set_up()
    model = ins.open("gemma-3-270m", dtype=torch.float32)
    metric = ins.logit_diff(" Mary", " John")
    (one,), (two,) = ([model.tokenizer(t, return_tensors="pt")["input_ids"]] for t in (CLEAN, CORRUPTED))
    width, n_cells = one.shape[1], model.n_layers * one.shape[1]
    start = time.perf_counter()
    looped = loop(model, one, two, [(i, p) for i in range(model.n_layers) for p in range(width)])
    whole = time.perf_counter() - start
    grid = ins.sweep(model, CLEAN, CORRUPTED, metric=metric)
    same("the sweep", grid.values, looped.reshape(model.n_layers, width), 1e-4)
    print(f"  the loop: {whole:.1f} s for {n_cells} cells", flush=True)

    def few() -> float:
        """Seconds that all cells of the loop would take, from a few of them."""
        start = time.perf_counter()
        loop(model, one, two, [(i % model.n_layers, i % width) for i in range(0, 7 * FEW, 7)])
        return (time.perf_counter() - start) / FEW * n_cells

    def bare() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            model.module(input_ids=two)
        return time.perf_counter() - start

    pairs = tasks.ioi(model, 32, seed=0, corrupted="swap")
    long_one = torch.tensor([(pairs_text(model) * 2)[:512]])
    long_two = long_one.clone()
    long_two[0, 100] = one[0, 5]
    where = list(range(100, 512, 104))
    zs = {"sites": "layers.*.attn.z", "heads": "all", "positions": [-1]}
    cases: dict[str, tuple[Callable[[], Any], Callable[[], float], float, float | None]] = {
        "logit difference": (lambda: ins.sweep(model, CLEAN, CORRUPTED, metric=metric), few, 1, 1 / 50),
        "any metric": (lambda: ins.sweep(model, CLEAN, CORRUPTED, metric=ins.kl()), few, 1, 1 / 20),
        "the loss of the whole prompt": (
            lambda: ins.sweep(model, CLEAN, CORRUPTED, metric=ins.loss()), few, 1, 1 / 20,
        ),
        "every place computed": (lambda: ins.sweep(model, two, edit=scaled, metric=metric), few, 1, None),
        "every head's z at the last token, in bare forwards": (
            lambda: ins.sweep(model, CLEAN, CORRUPTED, metric=metric, **zs), bare, 1, 6,
        ),
        "attribution patching of all places, in bare forwards": (
            lambda: attribution_patching(model, CLEAN, CORRUPTED, metric=metric), bare, 1, 4,
        ),
        f"32 pairs at {len(pairs.roles)} roles in one call": (
            lambda: ins.sweep(model, pairs, positions=pairs.roles), few, 32 * len(pairs.roles) / width, 1 / 25,
        ),
        f"512 tokens, {len(where)} positions": (
            lambda: ins.sweep(model, long_one, long_two, metric=metric, positions=where),
            few512(model, long_two, where), 1, None,
        ),
    }  # fmt: skip
    rows: list[Row] = [{"title": "the loop", "case": "270 cells, whole", "seconds": whole, "bare_s": median(bare)}]
    rows += agreement(model, CLEAN, CORRUPTED, metric)
    for name, (call, base, times, limit) in cases.items():
        slow = name.startswith(("32", "512"))
        if not slow:
            call()
        ours, theirs, made = [], [], None
        for _ in range(2 if slow else rounds(5)):
            start = time.perf_counter()
            made = call()
            ours.append(time.perf_counter() - start)
            theirs.append(base() * times)
        about = said(made)
        if name.startswith("attribution"):
            about["flops_in_bare_forwards"] = flops(call) / flops(bare)
        if name.startswith("512"):
            about["least_share"] = least(model.n_layers, 512, where)
        rows.append(row("sweep of Gemma 3 270M", name, ours, theirs, limit, **about))
        print(f"    {1 / rows[-1]['ratio']:.3g} times as fast; {about}", flush=True)
        write("sweep", rows, model="gemma-3-270m", dtype="float32", cells=n_cells, loop_cells_a_round=FEW)


def said(grid: Any) -> dict[str, Any]:
    """What a sweep says of its own cost: predicted and taken, and how much of the loop's work was done."""
    if not isinstance(grid, ins.Grid):
        return {}
    cost = grid.cost
    return {
        "how": grid.how, "predicted_s": cost.predicted_s, "taken_s": cost.seconds, "runs": cost.runs,
        "skipped": cost.skipped, "share_of_token_layers": cost.token_layers / max(1.0, cost.of_the_loop),
    }  # fmt: skip


def flops(call: Callable[[], Any]) -> int:
    """Multiplications and additions of matrix products, which no other user of the machine changes."""
    with FlopCounterMode(display=False) as counted:
        call()
    return counted.get_total_flops()


def least(n_layers: int, n_tokens: int, where: list[int]) -> float:
    """Token-layers that cells of every layer's resid_post cannot do without, as a share of one whole run a cell."""
    cells = [(n_tokens - p) * (n_layers - 1 - i) for i in range(n_layers) for p in where]
    return sum(cells) / (n_tokens * n_layers * len(cells))


def scaled(site: str, **places: Any) -> "ins.Edit":
    return ins.scale(site, 0.9, **places)


def loop(model: "ins.Model", one: Tensor, two: Tensor, cells: list[tuple[int, int]]) -> Tensor:
    """One whole forward a cell, by a hook on the block."""
    source = [
        ins.run(model, one, read=f"layers.{i}.resid_post")[f"layers.{i}.resid_post"] for i in range(model.n_layers)
    ]
    blocks = model.module.model.layers
    ids = [model.tokenizer(t, add_special_tokens=False)["input_ids"][0] for t in (" Mary", " John")]
    out = []
    for layer, position in cells:

        def put(module: Any, args: Any, x: Any, layer: int = layer, position: int = position) -> Any:
            hidden = (x if isinstance(x, Tensor) else x[0]).clone()
            hidden[:, position] = source[layer][:, position]
            return hidden if isinstance(x, Tensor) else (hidden, *x[1:])

        handle = blocks[layer].register_forward_hook(put)
        with torch.no_grad():
            logits = model.module(input_ids=two).logits[0, -1]
        handle.remove()
        out.append(logits[ids[0]] - logits[ids[1]])
    return torch.stack(out)


def few512(model: "ins.Model", ids: Tensor, where: list[int]) -> Callable[[], float]:
    """The loop at 512 tokens: one forward, times the cells."""

    def seconds() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            model.module(input_ids=ids)
        return (time.perf_counter() - start) * model.n_layers * len(where)

    return seconds


def pairs_text(model: "ins.Model") -> list[int]:
    text = " ".join(tasks.plain_text(8))
    return model.tokenizer(text)["input_ids"]


def median(call: Callable[[], float]) -> float:
    return statistics.median(call() for _ in range(5))


if __name__ == "__main__":
    main()
