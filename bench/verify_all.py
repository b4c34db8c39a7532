"""Which names are proven on every family of the tables, and on architectures outside them?

Runs `model.verify()` on every tiny random model of the tests and prints a line each: sites in the table, offered
afterwards, proven, withdrawn. Writes docs/verified.md. Cost: about two minutes on one core.
"""

import time
from pathlib import Path

import torch

import inscape as ins
from tests.common.zoo import ZOO, build, inputs_for
from tests.common.zoo_unknown import BUILDERS

HEAD = """# What is proven on each family

`python -m bench.verify_all` writes this page: `model.verify()` on one tiny random model of every family in the tables,
then on architectures that have no table. *Withdrawn* names are not offered on that model; the reason is beside them.
A name that is neither proven nor withdrawn is offered as the table says it.

| model | names | offered | proven | withdrawn | why |
|---|---|---|---|---|---|
"""


def row(name: str, module: torch.nn.Module, inputs: object) -> str:
    model = ins.open(module)
    total = len(model.all_sites)
    started = time.perf_counter()
    found = model.verify(inputs)
    reasons = sorted({r.proof.split(":")[0][:90] for r in found.rows if r.status == "withdrawn"})
    withdrawn = sum(r.status == "withdrawn" for r in found.rows)
    proven = sum(r.status == "proven" for r in found.rows)
    spent = time.perf_counter() - started
    print(f"{name:24s} {total:5d} {len(model.sites):5d} {proven:5d} {withdrawn:4d}  {spent:5.1f} s")
    return f"| {name} | {total} | {len(model.sites)} | {proven} | {withdrawn} | {'; '.join(reasons)} |\n"


def inputs_of_unknown(name: str) -> object:
    """Plain modules say nothing of their inputs, so they are given some."""
    return {"transformer_encoder": torch.randn(2, 7, 16), "sequential": torch.randn(4, 16)}.get(name)


def main() -> None:
    lines = [row(name, build(name), inputs_for(name)) for name in ZOO]
    lines.append("| *by inference, without a table* | | | | | |\n")
    for name, make in BUILDERS.items():
        lines.append(row(name, make().eval(), inputs_of_unknown(name)))
    Path("docs/verified.md").write_text(HEAD + "".join(lines))


if __name__ == "__main__":
    main()
