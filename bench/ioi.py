"""Which heads of Gemma 3 270M find the indirect object, and do they do it alone?

Heads are ranked on some pairs and judged on others, all of which the model answers. Three rankings, each by the size of
the effect: the direct path to the prediction; the paths of three steps backwards (to the prediction, to the queries of
the heads found there, to the values of those found next; a head's largest effect counts); and the whole effect of one
head's z, by whatever path. Beside the last two stand random rankings with as many heads in each layer. The roles of the
heads are named by rule from these numbers and are no verdict.
Writes a result file, docs/images/ioi.png and the table of docs/circuits.md. Cost: a quarter of an hour on one core;
`python -m bench.ioi draw` draws the result file again.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import inscape as ins
from bench.common import RESULTS, ROOT, SEED, machine, set_up, write
from inscape import tasks
from inscape.circuits.faithfulness import FaithfulnessCurve, faithfulness_curve
from inscape.circuits.paths import path_patching
from inscape.circuits.role_attention import RoleAttention, role_attention
from inscape.view.charts import heatmap, lines
from inscape.view.panels import panels
from inscape.view.png import png

PAGE, PLOT = ROOT / "docs" / "circuits.md", ROOT / "docs" / "images" / "ioi.png"
START, STOP = "<!-- measured: bench/ioi.py writes this table -->\n", "<!-- end of measured -->\n"
FOUND_ON, JUDGED_ON = 12, 16
SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48)
N_SETS = 19  # the smallest p there can be is 1/20
STRONG = 0.05  # of the whole effect, from which on a head is a receiver of the next step
ROLES = ("io", "s1", "s2")
LAYERS, HEADS = 18, 4
SHOWN, TOLD = 16, (1, 4, 12, 24, 32)  # heads in the figure; sizes in the table


def steps_backwards(model: ins.Model, pairs: Any) -> dict[str, Any]:
    """Path patching to the prediction, to the queries of those heads, to the values of the heads found then."""
    found = {"mover": path_patching(model, pairs)}
    movers = strong(found["mover"])
    queries = [(f"layers.{layer}.attn.q", head) for layer, head in movers]
    found["inhibition"] = path_patching(model, pairs, receivers=queries)
    values = [f"layers.{layer}.attn.v" for layer in sorted({layer for layer, _ in strong(found["inhibition"])})]
    found["duplicate"] = path_patching(model, pairs, receivers=values, positions="all")
    return found


def strong(grid: Any, most: int = 8) -> list[tuple[int, int]]:
    effect = whole(grid).nan_to_num(0.0)
    ranked = effect.abs().flatten().argsort(descending=True).tolist()[:most]
    return [divmod(i, HEADS) for i in ranked if abs(float(effect.flatten()[i])) >= STRONG]


def whole(grid: Any) -> Tensor:
    """The effect [layer, head] of every layer, 0 for layers above the receivers."""
    out = torch.zeros(LAYERS, HEADS)
    effect = grid.pooled()
    for row, site in enumerate(grid.sites):
        out[int(site.split(".")[1])] = effect[row]
    return out


def ranking(effect: Tensor) -> list[tuple[int, int]]:
    return [divmod(i, effect.shape[1]) for i in effect.abs().flatten().argsort(descending=True, stable=True).tolist()]


def role_of(head: tuple[int, int], steps: dict[str, Tensor], attention: RoleAttention) -> str:
    """The name of a head by rule: its strongest path, and for direct ones its sign and whom it looks at."""
    effects = {name: float(effect[head]) for name, effect in steps.items()}
    name = max(effects, key=lambda n: abs(effects[n]))
    if abs(effects[name]) < STRONG:
        return "other"
    looked = attention.of(*head)
    if name == "mover":
        if effects[name] < 0:
            return "negative mover"
        return "name mover" if looked["io"] > max(looked["s1"], looked["s2"]) else "direct"
    if name == "inhibition":
        return "S-inhibition" if looked["s2"] > max(looked["s1"], looked["io"]) else "to movers"
    return "early"


def main() -> None:
    set_up()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    model = ins.open("gemma-3-270m", dtype=torch.float32)
    pairs = tasks.ioi(model, 64, seed=SEED)
    right = pairs.answered_by(model)
    pairs = pairs.filtered(right)
    on, held = pairs.subset(slice(FOUND_ON)), pairs.subset(slice(FOUND_ON, FOUND_ON + JUDGED_ON))
    print(f"  answered: {int(right.sum())} of {len(right)}", flush=True)
    attention = role_attention(model, pairs, ROLES)
    grids = steps_backwards(model, on)
    steps = {name: whole(grid) for name, grid in grids.items()}
    sites: Any = {"sites": "layers.*.attn.z", "heads": "all", "positions": None}
    total = whole(ins.sweep(model, on, direction="noise", **sites))
    print("  effects are measured", flush=True)
    paths = torch.stack(list(steps.values())).abs().amax(0)
    orders = {"direct path": (ranking(steps["mover"]), None), "paths, three steps": (ranking(paths), "layer-matched"),
              "whole effect": (ranking(total), "layer-matched")}  # fmt: skip
    curves = {}
    for name, (order, control) in orders.items():
        curves[name] = faithfulness_curve(model, order, held, sizes=SIZES, control=control, n_sets=N_SETS, seed=SEED)
        print(f"  {name}\n{curves[name]}", flush=True)
    names = {head: role_of(head, steps, attention) for head in ranking(total)}
    heads = [
        head_row(head, names[head], steps, total, attention) for head in ranking(torch.maximum(paths, total.abs()))
    ]
    rows = [curve_row(name, curve) for name, curve in curves.items()]
    path = write("ioi", rows, model="gemma-3-270m", dtype="float32", found_on=len(on), judged_on=len(held), heads=heads,
                 answered=f"{int(right.sum())} of {len(right)}", random_rankings=N_SETS)  # fmt: skip
    show(path)


def head_row(
    head: tuple[int, int], role: str, steps: dict[str, Tensor], total: Tensor, attention: RoleAttention
) -> dict[str, Any]:
    there = {f"{r}, corrupted": float(attention.control[i][head]) for i, r in enumerate(ROLES)}
    effects = {f"path, {name}": float(effect[head]) for name, effect in steps.items()}
    numbers = {**effects, "whole": float(total[head]), **attention.of(*head), **there}
    return {"head": f"{head[0]}.{head[1]}", "role": role, **{k: round(v, 4) for k, v in numbers.items()}}


def curve_row(name: str, curve: FaithfulnessCurve) -> dict[str, Any]:
    made: dict[str, Any] = {"ranking": name, "sizes": list(curve.sizes), "order": [f"{a}.{b}" for a, b in curve.order]}
    for what in ("faithfulness", "completeness"):
        found, null = getattr(curve, what), getattr(curve, f"{what}_null")
        area = getattr(curve, f"{what}_area")
        made |= {what: listed(found.value), f"{what}_low": listed(found.low), f"{what}_high": listed(found.high)}
        made |= {f"{what}_area": round(area.observed, 4)}
        if len(null):
            made |= {f"{what}_random": [listed(line) for line in null], f"{what}_area_p": round(area.p, 4)}
            made |= {f"{what}_p": listed(getattr(curve, f"{what}_p"))}
    return made


def listed(values: Tensor) -> list[float]:
    return [round(float(v), 4) for v in values]


def figure(record: dict[str, Any]) -> dict[str, Any]:
    """Effects by layer and head, attention of the strongest heads, and both curves beside random rankings."""
    heads, rows = record["heads"], record["rows"]
    maps = []
    for key, title in (("path, mover", "Direct path to the prediction"), ("whole", "Whole effect of a head")):
        effect = [[0.0] * HEADS for _ in range(LAYERS)]
        for row in heads:
            layer, head = map(int, row["head"].split("."))
            effect[layer][head] = row[key]
        maps.append(
            heatmap(effect, range(LAYERS), range(HEADS), diverging=True, rows_up=True, x_title="head", y_title="layer",
                    title=title, width=170, height=400, numbers=True)
        )  # fmt: skip
    best = heads[:SHOWN]
    looks = heatmap(
        [[row[k] for r in ROLES for k in (r, f"{r}, corrupted")] for row in best],
        [f"{row['head']}  {row['role']}" for row in best],
        [word for r in ROLES for word in (r.upper(), f"{r.upper()}*")],
        title="Attention of the last token (*: corrupted prompt)", width=260, height=400, numbers=True,
    )  # fmt: skip
    drawn = []
    for what, title in (("faithfulness", "Kept by the first n heads alone"), ("completeness", "Gone without them")):
        series = {row["ranking"]: row[what] for row in rows}
        band: dict[str, Any] = {
            row["ranking"]: (row[f"{what}_low"], row[f"{what}_high"]) for row in rows if f"{what}_p" in row
        }
        null = {f"random, as {row['ranking']}": row[f"{what}_random"] for row in rows if f"{what}_p" in row}
        control = {name: [sum(at) / len(at) for at in zip(*lines_, strict=True)] for name, lines_ in null.items()}
        ends = {name: [list(map(f, zip(*lines_, strict=True))) for f in (min, max)] for name, lines_ in null.items()}
        drawn.append(
            lines(series, x=list(map(str, rows[0]["sizes"])), control=control,
                  band=band | {name: tuple(both) for name, both in ends.items()},
                  x_title="heads, n of 72", title=title, width=380, height=250)
        )  # fmt: skip
    return panels([[*maps, looks], drawn], own_colours=(0,))


def table(record: dict[str, Any]) -> str:
    """The strongest heads, and the curves at some sizes, as Markdown."""
    out = [
        "| head | role, by rule | direct path | whole effect | attention to IO, S1, S2 |\n",
        "|---|---|---|---|---|\n",
    ]
    for row in record["heads"][:10]:
        looked = ", ".join(f"{row[r]:.2f}" for r in ROLES)
        out.append(f"| {row['head']} | {row['role']} | {row['path, mover']:+.2f} | {row['whole']:+.2f} | {looked} |\n")
    out += ["\n| ranking | n | kept by them alone | random | p | gone without them | random | p |\n"]
    out += ["|---|---|---|---|---|---|---|---|\n"]
    for row in record["rows"]:
        for i, n in enumerate(row["sizes"]):
            if n not in TOLD:
                continue
            cells = []
            for what in ("faithfulness", "completeness"):
                value, low, high = (row[f"{what}{end}"][i] for end in ("", "_low", "_high"))
                null = [line[i] for line in row.get(f"{what}_random", [])]
                cells += [f"{value:.2f} ({low:.2f} to {high:.2f})"]
                cells += [f"{sum(null) / len(null):.2f}", f"{row[f'{what}_p'][i]:.2f}"] if null else ["", ""]
            out.append(f"| {row['ranking']} | {n} | {' | '.join(cells)} |\n")
    return "".join(out)


def show(path: Path) -> None:
    """Draw the figure and write the table of a result file."""
    record = json.loads(path.read_text())
    PLOT.write_bytes(png(figure(record)))
    before, rest = PAGE.read_text().split(START)
    PAGE.write_text(before + START + table(record) + STOP + rest.split(STOP, 1)[1])


if __name__ == "__main__":
    if sys.argv[1:] == ["draw"]:
        show(RESULTS / f"{machine()}-ioi.json")
    else:
        main()
