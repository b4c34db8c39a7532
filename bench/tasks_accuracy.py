"""How often are Gemma 3 270M and a model with random weights right on each task?

Right among the candidates (beside chance), and right among the whole vocabulary. The random model has Gemma's tokenizer
and four of its layers with weights drawn anew: what a task gives away by its form alone it would get too.
Writes a result file, and the table of docs/tasks.md. Cost: some minutes. `python -m bench.tasks_accuracy NAME...`
measures the named tasks again and keeps the rows of the others.
"""

import copy
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import transformers
from scipy.stats import binomtest

import inscape as ins
from bench.common import RESULTS, ROOT, SEED, THREADS, commit, machine, set_up, write
from inscape import tasks

N = 48
PAGE = ROOT / "docs" / "tasks.md"
START, STOP = "<!-- measured: bench/tasks_accuracy.py writes this table -->\n", "<!-- end of measured -->\n"
TASKS: dict[str, Callable[[Any], tasks.Pairs]] = {
    "ioi": lambda m: tasks.ioi(m, N),
    "colored_objects": lambda m: tasks.colored_objects(m, N),
    "greater_than": lambda m: tasks.greater_than(m, N),
    "succession": lambda m: tasks.succession(m, 32),
    "agreement, same number": lambda m: tasks.agreement(m, N, number="same"),
    "agreement, other number": lambda m: tasks.agreement(m, N, number="other"),
    "agreement, 2 attractors": lambda m: tasks.agreement(m, N, attractors=2),
    "facts, capital": lambda m: tasks.facts(m),
    "facts, language": lambda m: tasks.facts(m, relation="language"),
    "facts, continent": lambda m: tasks.facts(m, relation="continent"),
    "facts, opposite": lambda m: tasks.facts(m, relation="opposite"),
    "facts, capital, swapped": lambda m: tasks.facts(m, swapped=True),
    "laundry_list, 3 items": lambda m: tasks.laundry_list(m, N, items=3),
    "laundry_list, 5 items": lambda m: tasks.laundry_list(m, N, items=5),
    "laundry_list, 10 items": lambda m: tasks.laundry_list(m, N, items=10),
    "laundry_list, 20 items": lambda m: tasks.laundry_list(m, N, items=20),
    "arithmetic, a + b": lambda m: tasks.arithmetic(m, N),
    "arithmetic, a + b, 4 shots": lambda m: tasks.arithmetic(m, N, shots=4),
    "arithmetic, a ± b, 4 shots": lambda m: tasks.arithmetic(m, N, ops="+-", shots=4),
    "arithmetic, a ± b ± c, 4 shots": lambda m: tasks.arithmetic(m, N, operands=3, ops="+-", shots=4),
    "arithmetic, a ± b, verbal": lambda m: tasks.arithmetic(m, N, ops="+-", template="verbal"),
    "arithmetic, a ± b, code": lambda m: tasks.arithmetic(m, N, ops="+-", template="code"),
    "acronym, words": lambda m: tasks.acronym(m, N, kind="word", shots=4),
    "acronym, fragments": lambda m: tasks.acronym(m, N, kind="fragment", shots=4),
    "counting, letter": lambda m: tasks.counting(m, N),
    "counting, letter, with hyphens": lambda m: tasks.counting(m, N, setting="hyphens"),
    "counting, length": lambda m: tasks.counting(m, N, kind="length"),
    "cipher, swap": lambda m: tasks.cipher(m, N),
    "cipher, sort": lambda m: tasks.cipher(m, N, kind="sort"),
    "cipher, shift by 1": lambda m: tasks.cipher(m, N, kind="shift", shift=1),
    "cipher, shift by 3": lambda m: tasks.cipher(m, N, kind="shift", shift=3),
    "name_order, first": lambda m: tasks.name_order(m, N),
    "name_order, last": lambda m: tasks.name_order(m, N, ask="last"),
    "induction": lambda m: tasks.induction(m, N),
    "graph_text, label": lambda m: tasks.graph_text(m, N).pairs,
    "graph_text, label, rewired": lambda m: tasks.graph_text(m, N, links="rewired").pairs,
    "graph_text, link": lambda m: tasks.graph_text(m, N, ask="link").pairs,
}


def random_model(model: ins.Model) -> ins.Model:
    """The same architecture, four layers of it, with weights drawn anew."""
    torch.manual_seed(SEED)
    config = copy.deepcopy(model.config)
    config.num_hidden_layers, config.layer_types = 4, config.layer_types[:4]
    module = transformers.AutoModelForCausalLM.from_config(config, dtype=model.dtype).eval()
    return ins.open(module, tokenizer=model.tokenizer)


def right_by(pairs: tasks.Pairs, model: ins.Model, batch: int = 16) -> dict[str, int]:
    """How many pairs the model answers right, of the candidates and of the vocabulary, from one forward."""
    right = {"candidates": 0, "vocabulary": 0}
    for start in range(0, len(pairs), batch):
        part = pairs.subset(slice(start, start + batch))
        logits = ins.run(model, [list(ids) for ids in part.clean_ids], output="last").output.logits[:, -1]
        for among in right:
            right[among] += int(part.is_right(logits, among).sum())
    return right


def measured(name: str, pairs: tasks.Pairs, models: dict[str, ins.Model]) -> dict[str, Any]:
    """Both models on one task: right among candidates and among the vocabulary, with 95 % intervals."""
    made: dict[str, Any] = {"task": name, "n": len(pairs), "chance": round(pairs.chance, 4)}
    for who, model in models.items():
        for among, right in right_by(pairs, model).items():
            interval = binomtest(right, len(pairs)).proportion_ci(method="wilson")
            made[f"{who}, {among}"] = round(right / len(pairs), 4)
            made[f"{who}, {among}, interval"] = [round(interval.low, 3), round(interval.high, 3)]
    print(f"  {name}: " + ", ".join(f"{v:.2f}" for v in made.values() if isinstance(v, float)), flush=True)
    return made


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| task | pairs | chance | Gemma 3 270M, candidates | vocabulary | random weights, candidates |\n"]
    lines.append("|---|---|---|---|---|---|\n")
    for row in rows:
        low, high = row["gemma, candidates, interval"]
        cells = (
            row["task"], row["n"], f"{row['chance']:.1%}", f"{row['gemma, candidates']:.0%} ({low:.0%} to {high:.0%})",
            f"{row['gemma, vocabulary']:.0%}", f"{row['random, candidates']:.0%}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |\n")
    return "".join(lines)


def kept(names: list[str]) -> dict[str, dict[str, Any]]:
    """Rows of the result file of this machine that are not measured again."""
    path = RESULTS / f"{machine()}-tasks_accuracy.json"
    if not names or not path.exists():
        return {}
    return {row["task"]: row for row in json.loads(path.read_text())["rows"] if row["task"] not in names}


def main(names: list[str]) -> None:
    """Measure these tasks again and keep the others' rows; all tasks when none is named."""
    set_up()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", THREADS)))
    gemma = ins.open("gemma-3-270m")
    models = {"gemma": gemma, "random": random_model(gemma)}
    rows = kept(names)
    for name in names or TASKS:
        pairs = TASKS[name](gemma)
        rows[name] = measured(name, pairs, models) | {"commit": commit()}
    ordered = [rows[name] for name in TASKS if name in rows]
    write("tasks_accuracy", ordered, model="gemma-3-270m", dtype=str(gemma.dtype))
    page = PAGE.read_text()
    before, rest = page.split(START)
    PAGE.write_text(before + START + table(ordered) + STOP + rest.split(STOP)[1])


if __name__ == "__main__":
    main(sys.argv[1:])
