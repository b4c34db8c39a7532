"""Which edges do greedy cuts, edge attribution and learned masks keep, and do these keep the behaviour?

Three nets: one whose weights were written by hand, so that its circuit is known, and two toys. Each method finds its
circuit on some pairs, with as many edges as the greedy cuts left; faithfulness is measured on other pairs (of the net
by hand: on the same), by the answer's lead over the wrong one and by the divergence from the whole model, beside 20
sets of random paths of as many edges. Masks are trained from three seeds.
Writes a result file, the table of docs/circuits.md and the picture beside it. Cost: some ten minutes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import inscape as ins
from bench.common import ROOT, THREADS, commit, set_up, write
from inscape import tasks
from inscape.circuits.attribution.edges import edge_attribution
from inscape.circuits.edges import Wiring, best_edges, edge_faithfulness, greedy_edges, learned_edges
from inscape.core.circuit import Circuit
from inscape.core.errors import InputError
from inscape.core.metrics import Metric, kl, logit_diff
from inscape.tasks.pairs import Pairs
from tests.common.hand_built import induction_by_hand

PAGE = ROOT / "docs" / "circuits.md"
PICTURE = ROOT / "docs" / "images" / "circuit.png"
START, STOP = "<!-- measured: bench/circuit_discovery.py writes this table -->\n", "<!-- end of measured -->\n"
THRESHOLD = 0.1  # nats
STEPS, DRAWS, SEEDS = 200, 8, 3
KNOWN = {("embed", "0.0", "v"), ("0.0", "1.1", "k"), ("1.1", "logits", "")}  # of the net by hand


@dataclass(frozen=True)
class Case:
    """A net, the pairs that circuits are found on, and those that they are tried on, each with its metric."""

    name: str
    model: ins.Model
    found: tuple[Any, Any, Metric]
    fresh: tuple[Any, Any, Metric]
    known: set[tuple[str, str, str]] | None = None


def by_hand() -> Case:
    clean = torch.tensor([[0, 3, 5, 1, 6, 2, 3], [0, 2, 6, 1, 5, 4, 2]])
    corrupted = torch.tensor([[0, 4, 5, 1, 6, 2, 3], [0, 3, 6, 1, 5, 4, 2]])
    both = (clean, corrupted, logit_diff([5, 6], [1, 1]))
    return Case("by hand", induction_by_hand(), both, both, KNOWN)


def induction() -> Case:
    model = ins.open("toy-induction")
    return Case("toy-induction", model, _given(_unseen(model, 16, 0)), _given(_unseen(model, 32, 1)))


def _unseen(model: ins.Model, n: int, seed: int) -> Pairs:
    """The corrupted prompt has another word where the repeated one stood before, so that there is nothing to repeat."""
    made = tasks.induction(model, n, length=8, seen=4, seed=seed)
    rows = [text.split() for text in made.clean]
    other = [" ".join([*row[:3], word.strip(), *row[4:]]) for row, word in zip(rows, made.wrong, strict=True)]
    return Pairs.of(model, [" ".join(r) for r in rows], other, made.answers, [f" {row[1]}" for row in rows])


def name_order() -> Case:
    model = ins.open("toy-name-order")
    found, fresh = (tasks.name_order(model, 16, templates=1, seed=seed) for seed in (0, 1))
    return Case("toy-name-order", model, _given(found), _given(fresh))


def _given(pairs: Pairs) -> tuple[Any, Any, Metric]:
    return pairs.clean, pairs.corrupted, logit_diff(pairs.answer_ids, pairs.wrong_ids)


def circuits(case: Case) -> dict[str, list[Circuit]]:
    """By method; the first one decides how many edges the others keep."""
    clean, corrupted, metric = case.found
    out = {f"greedy cuts, threshold {THRESHOLD}": [greedy_edges(case.model, clean, corrupted, threshold=THRESHOLD)]}
    n = _edges(case.model, out[next(iter(out))][0])
    for steps in (1, 5, 50):
        scores = edge_attribution(case.model, clean, corrupted, metric, steps=steps)
        name = "EAP" if steps == 1 else f"EAP-IG, {steps} steps"
        try:
            out[name] = [best_edges(case.model, scores, n)]
        except InputError:
            out[name] = []
    out[f"learned masks, {STEPS} steps"] = [
        learned_edges(
            case.model, clean, corrupted, n=n, steps=STEPS, draws=DRAWS, batch=8, lr=0.1, climb=0.05, seed=seed
        )
        for seed in range(SEEDS)
    ]
    return out


def _edges(model: ins.Model, circuit: Circuit) -> int:
    return int(Wiring.of(model).keep_of(circuit).sum())


def rows_of(case: Case) -> list[dict[str, Any]]:
    clean, corrupted, metric = case.fresh
    out, every = [], circuits(case)
    if case.name == "toy-induction":
        next(iter(every.values()))[0].draw().save(PICTURE)
    for method, found in every.items():
        row: dict[str, Any] = {"net": case.name, "method": method, "found": len(found)}
        if found:
            lead = edge_faithfulness(case.model, found, clean, corrupted, metric=metric)
            near = edge_faithfulness(case.model, found, clean, corrupted, metric=kl())
            row |= {"edges": [t.n_edges for t in lead], "of": lead[0].of}
            row |= {"lead": [round(t.faithfulness.value, 4) for t in lead]}
            row |= {"divergence": [round(t.faithfulness.value, 4) for t in near]}
            row |= {"random, lead": _null(lead), "random, divergence": _null(near)}
            row |= {"about": [c.about for c in found]}
            if case.known is not None:
                row["exactly the known"] = sum(set(c.edges) == case.known for c in found)
        print(f"  {row}", flush=True)
        out.append(row | {"commit": commit()})
    return out


def _null(tried: Sequence[Any]) -> dict[str, float]:
    every = torch.cat([t.null for t in tried])
    return {"mean": round(float(every.mean()), 4), "most": round(float(every.max()), 4)}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| net | method | edges | lead kept | divergence kept | random paths: mean, most (lead) | known circuit |\n"
    ]
    lines.append("|---|---|---|---|---|---|---|\n")
    for row in rows:
        if not row["found"]:
            cells = (row["net"], row["method"], "none that reach the embedding", "", "", "", "no")
        else:
            null = row["random, lead"]
            known = row.get("exactly the known")
            cells = (
                row["net"], row["method"], f"{_span(row['edges'], '{:d}')} of {row['of']}", _span(row["lead"]),
                _span(row["divergence"]), f"{null['mean']:.3f}, {null['most']:.3f}",
                "" if known is None else f"{known} of {row['found']}",
            )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |\n")
    return "".join(lines)


def _span(values: Sequence[float], form: str = "{:.2f}") -> str:
    said = [form.format(v) for v in (min(values), max(values))]
    return said[0] if said[0] == said[1] else f"{said[0]} to {said[1]}"


def main() -> None:
    set_up()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", THREADS)))
    rows = [row for make in (by_hand, induction, name_order) for row in rows_of(make())]
    write("circuit_discovery", rows, threshold=THRESHOLD, steps=STEPS, draws=DRAWS)
    page = PAGE.read_text()
    before, rest = page.split(START)
    PAGE.write_text(before + START + table(rows) + STOP + rest.partition(STOP)[2])


if __name__ == "__main__":
    main()
