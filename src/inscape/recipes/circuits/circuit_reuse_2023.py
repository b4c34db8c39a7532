"""Circuit reuse: two tasks share heads, in the same roles, and a head that fails at one can be set right.

Path patching finds the heads of "who received" and of "what was asked for" in a net that learned both; their overlap
stands beside layer-matched random circuits, ablation beside random heads of the same layers, and the repair (the
attention of the heads that move the answer's rivals is sent to them) beside the same edit on random heads.
Cost: minutes. Differs from the source: a trained 4-layer net in place of GPT-2 medium (which is not to be had here),
short lists in place of colored objects; the names are also run on Gemma 3 270M, where nothing but the ablation beside
random heads is claimed.
"""

from typing import Any

import torch

import inscape as ins
from inscape.circuits.discover import Trail, compare, discover
from inscape.circuits.knockout import knock_out
from inscape.circuits.paths import path_patching
from inscape.core.circuit import circuit_of
from inscape.core.drawing import Drawing
from inscape.core.nulls import layer_matched_sets
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.dynamics.toys.two_tasks import list_pairs, name_pairs

PAPER = Paper(
    name="circuit-reuse",
    title="Circuit Component Reuse Across Tasks in Transformer Language Models",
    authors="Merullo, Eickhoff, Pavlick",
    year=2023,
    link="https://arxiv.org/abs/2310.08744",
    code="https://github.com/jmerullo/circuit_reuse",
    control="random heads of the same layers; for paths, prompts that are equal up to the patched token",
    claims=(
        Claim("ablation_ratio", "taking out the five heads with the largest direct effect costs at least 3 times what "
              "random heads of the same layers cost", at_least=3),
        Claim("overlap_percentile", "the two circuits share more than 95 of 100 layer-matched random ones",
              at_least=0.95),
        Claim("repair_gain", "sending the found heads' attention to the wrong answers mends more lists that are too "
              "long than the same edit on random heads", above=0),
        Claim("nothing_patched", "paths from tokens that are equal in both prompts do nothing", at_most=1e-5),
        Claim("everything_patched", "patching every head and MLP everywhere does what the other prompt does",
              at_least=0.999, at_most=1.001),
    ),
)  # fmt: skip
QUICK = dict(pairs=4, hard=8, sets=10, gemma_pairs=0)
TRAIL = (Trail("mover", positions=-1), Trail("inhibition", "mover", "q", positions=-1))


def run(model="toy-two-tasks", *, pairs: int = 32, hard: int = 200, sets: int = 200, gemma_pairs: int = 16,
        seed: int = 0, progress=None) -> Result:  # fmt: skip
    model = ins.open(model) if isinstance(model, str) else model
    names, lists = name_pairs(model, pairs, seed), list_pairs(model, pairs, seed + 1)
    heads = model.points["layers.0.attn.z"].heads or 1
    tell(progress, "direct effects of both tasks", 0.0)
    direct = {p.name: path_patching(model, p) for p in (names, lists)}
    top = [_best(grid, 5) for grid in direct.values()]
    ratios = [_ablation(model, p, chosen, heads, sets, seed) for p, chosen in zip((names, lists), top, strict=True)]
    tell(progress, "circuits of both tasks", 0.3)
    circuits = [discover(model, p, trail=TRAIL, top=4) for p in (names, lists)]
    shared = compare(circuits[0], circuits[1], heads, n=2000, seed=seed)
    tell(progress, "repairing lists that are too long", 0.5)
    inhibition = [(n.layer, n.head) for n in circuits[1].of_role("inhibition")] or _best(direct["lists"], 3)
    repaired = _repair(model, inhibition, heads, hard, sets, seed)
    alone = knock_out(model, circuits[0], names, n_sets=sets, seed=seed)
    series: dict[str, Any] = {name: grid.normalised() for name, grid in direct.items()}
    notes = f"toy: {circuits[0]!r} and {circuits[1]!r}; names: {alone}; the two circuits {shared}."
    also: dict[str, Any] = {
        "jaccard": shared.jaccard, "jaccard_random": float(shared.null.mean()), "overlap_p": shared.p,
        "accuracy_long": repaired["plain"], "accuracy_repaired": repaired["found"],
        "accuracy_random_heads": repaired["random"], "names_faithfulness": alone.faithfulness,
    }  # fmt: skip
    if gemma_pairs:
        tell(progress, "indirect objects on Gemma 3 270M", 0.7)
        made, said = _gemma(gemma_pairs, sets, seed)
        also, notes = also | made, f"{notes} {said}"
    first = int(names.roles["end"][0, 0]) - 3  # before the name that differs
    zero = path_patching(model, names, positions=list(range(first))).normalised().abs().max()
    everything = [s for s in map(str, model.sites) if s.endswith(("attn_out", "mlp_out"))]
    measured = {
        "ablation_ratio": min(ratios),
        "overlap_percentile": float((shared.null < shared.jaccard).double().mean()),
        "repair_gain": repaired["found"] - max(repaired["plain"], repaired["random"]),
        "nothing_patched": float(zero),
        "everything_patched": _everything(model, names, everything),
    }
    return Result(
        PAPER, measured, series=series, also=also, seed=seed, notes=notes,
        figure=Drawing("heatmap", show=("names",), x_title="head", y_title="layer"),
        tables={"heads": [{"task": p.name, "head": f"{a}.{b}"} for p, found in zip((names, lists), top, strict=True)
                          for a, b in found]},
    )  # fmt: skip


def _best(grid: "ins.Grid", n: int) -> list[tuple[int, int]]:
    flat = grid.normalised().abs().flatten().topk(n).indices.tolist()
    return [divmod(i, grid.values.shape[1]) for i in flat]


def _ablation(model: Any, pairs: Any, chosen: list, heads: int, sets: int, seed: int) -> float:
    """What knocking out the chosen heads costs, over the mean for random heads of the same layers."""
    tried = knock_out(model, circuit_of(chosen), pairs, n_sets=sets, seed=seed)
    return tried.completeness.value / max(1e-6, float(tried.completeness_null.mean()))


def _repair(model: Any, found: list, heads: int, n: int, sets: int, seed: int) -> dict[str, float]:
    """Accuracy on lists longer than in training: as it is, with the edit on the found heads, and on random ones."""
    hard = list_pairs(model, n, seed + 2, length=6)
    at = torch.tensor(hard.facts["rivals"])
    candidates = [
        sorted({int(a), *(hard.clean_ids[i][p] for p in at[i].tolist())}) for i, a in enumerate(hard.answer_ids)
    ]
    score = ins.accuracy(hard.answer_ids, among=candidates)
    draws = layer_matched_sets(found, heads, n=min(20, sets), exclude=found, seed=seed)

    def accuracy(edits: list) -> float:
        logits = ins.run(model, list(hard.clean), edits=edits, output="last").output.logits[:, -1]
        return float(score.bound(model.tokenizer, n).of_logits(logits, torch.arange(n)).mean())

    def sent(chosen: Any) -> list:
        return [
            ins.attend(f"layers.{layer}", "redirect", keys="all", to=at, at=-1, heads=head) for layer, head in chosen
        ]

    random = [accuracy(sent(d)) for d in draws]
    return {"plain": accuracy([]), "found": accuracy(sent(found)), "random": sum(random) / len(random)}


def _everything(model: Any, pairs: Any, sites: list[str]) -> float:
    """The effect of every part's corrupted value at once, embeddings included."""
    theirs = ins.run(model, list(pairs.corrupted), read=["layers.0.resid_pre", *sites])
    total = []
    for i in range(len(pairs.clean)):
        edits = [ins.patch(s, theirs[s][i : i + 1]) for s in theirs]
        grid = ins.sweep(
            model, pairs.clean[i], pairs.corrupted[i], edits=[edits], direction="noise",
            metric=ins.logit_diff(int(pairs.answer_ids[i]), int(pairs.wrong_ids[i])),
        )  # fmt: skip
        total.append(grid.normalised())
    return float(torch.cat(total).mean())


def _gemma(n: int, sets: int, seed: int) -> tuple[dict[str, Any], str]:
    """The names on a real model: its movers, and what taking them out costs beside random heads."""
    from inscape import tasks

    model = ins.open("gemma-3-270m", dtype=torch.float32)
    pairs = tasks.ioi(model, 4 * n, seed=seed)
    pairs = pairs.filtered(pairs.answered_by(model)).subset(slice(n))
    grid = path_patching(model, pairs)
    chosen = _best(grid, 5)
    tried = knock_out(model, circuit_of(chosen), pairs, n_sets=min(sets, 50), seed=seed)
    trail = discover(model, pairs, top=5)
    circuit = knock_out(model, trail, pairs, n_sets=min(sets, 50), seed=seed)
    named = ", ".join(f"{a}.{b}" for a, b in chosen)
    return {
        "gemma_top5_gone": tried.completeness, "gemma_top5_gone_random": float(tried.completeness_null.mean()),
        "gemma_top5_p": tried.completeness_p, "gemma_circuit_heads": len(trail),
        "gemma_circuit_faithfulness": circuit.faithfulness, "gemma_circuit_faithfulness_p": circuit.faithfulness_p,
        "gemma_pairs": len(pairs.clean),
    }, f"Gemma 3 270M, {len(pairs.clean)} prompts it answers: largest direct effects {named}; {circuit}."  # fmt: skip
