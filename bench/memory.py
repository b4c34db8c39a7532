"""Resident memory over 1,000 runs and 200 edited generations of a tiny model: flat, or something is retained."""

import gc
import os
from collections.abc import Callable
from typing import Any

import torch

import inscape as ins
from bench.common import ROOT, Row, resident, set_up, write
from bench.engine_tiny import READ, SITE, tiny

PLOT = ROOT / "docs" / "images" / "memory.png"
ALLOWED_MB = 8.0  # growth from one tenth of the calls to the end; one retained trace of 36 sites is 0.6 MB


def main() -> None:
    set_up()
    scale = float(os.environ.get("INSCAPE_BENCH_MEMORY", 1))
    model = ins.open(tiny())
    ids = torch.randint(1, 1000, (1, 32))
    vector = torch.randn(128, generator=torch.Generator().manual_seed(0)) * 5
    edits = [ins.add(ins.Direction(SITE, vector, source="random")), ins.ablate("layers.3.mlp_out", "zero", at="last")]
    rows = [
        watch("runs that read 36 sites", int(1000 * scale), lambda: ins.run(model, ids, read=READ, output=True)),
        watch(
            "edited generations",
            int(200 * scale),
            lambda: ins.generate(model, ids, edits=edits, read=SITE, max_new_tokens=20),
        ),
    ]
    write("memory", rows, model="random GPT-2, 12 layers, width 128, vocabulary 1000", dtype="float32")
    draw(rows)


def watch(name: str, calls: int, call: Callable[[], Any]) -> Row:
    """Sample resident memory 50 times over the calls; growth counts from a tenth on, when caches are warm."""
    every, samples = max(1, calls // 50), []
    for done in range(1, calls + 1):
        call()
        if done % every == 0:
            gc.collect()
            samples.append([done, round(resident() / 1e6, 2)])
    warm = next(mb for done, mb in samples if done >= calls / 10)
    growth = samples[-1][1] - warm
    print(
        f"  {name}: {calls} calls, {samples[-1][1]:.0f} MB at the end, {growth:+.1f} MB since call {calls // 10}",
        flush=True,
    )
    return {
        "case": name,
        "calls": calls,
        "growth_mb": round(growth, 2),
        "limit_mb": ALLOWED_MB,
        "met": growth <= ALLOWED_MB,
        "samples": samples,
    }


def draw(rows: list[Row]) -> None:
    import altair as alt

    values = [
        {"call": done, "resident memory, MB": mb, "what": row["case"]} for row in rows for done, mb in row["samples"]
    ]
    top = max(v["resident memory, MB"] for v in values) * 1.2
    chart = (
        alt.Chart(alt.Data(values=values), width=300, height=180)
        .mark_line(point=True)
        .encode(
            x=alt.X("call:Q"),
            y=alt.Y("resident memory, MB:Q", scale=alt.Scale(domain=[0, top])),
            column=alt.Column("what:N", title=None),
        )
        .resolve_scale(x="independent")
    )
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    chart.save(str(PLOT), scale_factor=2)
    print(f"  wrote {PLOT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
