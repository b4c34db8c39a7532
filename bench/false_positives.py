"""How often does each measure find something where there is nothing, and how often where there is?

The rows are in `nothing_there`, a file a room. A row is run with 200 seeds of random data at level 0.05: the share
found, with its binomial interval, must not lie above 0.05; and with 50 seeds of planted data, whose share found is the
power. Every row is written when it is done, so that a run that was stopped keeps its rows, and
`python -m bench.false_positives WORD ...` runs those whose name has one of these words in it and keeps the others.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO

import torch

from bench.common import RESULTS, Row, commit, machine, set_up, write
from bench.nothing_there import CASES, Case
from inscape.core import nulls

LEVEL, SEEDS, POWER_SEEDS = 0.05, 200, 50
NAME = "false_positives"


def measured(name: str, case: Case, seeds: int, planted: int) -> Row:
    """One row: the share found in noise and in planted data, with intervals."""
    start = time.perf_counter()
    noise = nulls.share([case(seed, 0.0) <= LEVEL for seed in range(seeds)])
    power = nulls.share([case(10_000 + seed, 1.0) <= LEVEL for seed in range(planted)])
    met = noise.low <= LEVEL
    took = 1e3 * (time.perf_counter() - start) / (seeds + planted)
    said = "kept" if met else "ABOVE 0.05"
    print(f"  {name}: found in noise {noise}, planted {power}  ({said}; {took:.0f} ms a seed)", flush=True)
    return {
        "title": "false positives",
        "case": name,
        "found": [noise.value, noise.low, noise.high],
        "power": [power.value, power.low, power.high],
        "seeds": seeds,
        "met": met,
        "commit": commit(),
    }


def known() -> dict[str, Row]:
    """The rows that were written before, of cases that still are."""
    path = RESULTS / f"{machine()}-{NAME}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    return {row["case"]: row for row in rows if row["case"] in CASES}


def main(words: Sequence[str] = ()) -> None:
    set_up()
    torch.set_num_threads(1)  # small tensors
    seeds, planted = (10, 5) if "INSCAPE_BENCH_SMALL" in os.environ else (SEEDS, POWER_SEEDS)
    rows, failed = known(), []
    for name, case in CASES.items():
        if words and not any(w.lower() in name.lower() for w in words):
            continue
        try:
            row = measured(name, case, seeds, planted)
        except Exception as error:  # one broken row must not cost the others
            print(f"  {name}: {type(error).__name__}: {error}", flush=True)
            failed.append(name)
            continue
        if seeds == SEEDS:
            rows[name] = row
            with redirect_stdout(StringIO()):  # it says where, once a row
                write(NAME, [rows[n] for n in CASES if n in rows], level=LEVEL)
    if failed:
        raise SystemExit(f"{len(failed)} rows failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
