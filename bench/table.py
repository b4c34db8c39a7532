"""Write what was measured into README.md, between `<!-- bench -->` and `<!-- /bench -->`, missed numbers included."""

import json
from typing import Any

from bench.common import RESULTS, ROOT, machine

START, END = "<!-- bench -->", "<!-- /bench -->"
NAMES = ("engine_gemma", "engine_tiny", "startup", "memory")


def main() -> None:
    results = {n: json.loads(p.read_text()) for n in NAMES if (p := RESULTS / f"{machine()}-{n}.json").exists()}
    if not results:
        print("  no results of this machine yet")
        return
    readme = ROOT / "README.md"
    readme.write_text(placed(readme.read_text(), table(results)))
    print("  wrote the table in README.md")


def table(results: dict[str, Any]) -> str:
    some = next(iter(results.values()))
    lines = [
        f"Measured on {some['machine']['cpu']}, {some['threads']} threads, torch {some['packages']['torch']}, "
        f"transformers {some['packages']['transformers']}; time as a multiple of the bare module's, median and "
        "quartiles of paired rounds.",
        "",
        "| what | | ratio | quartiles | time | to reach |",
        "|---|---|---|---|---|---|",
    ]
    for result in results.values():
        lines += [line(r) for r in result["rows"] if "ratio" in r]
    if "memory" in results:
        said = "; ".join(f"{r['calls']:,} {r['case']}: {r['growth_mb']:+.1f} MB" for r in results["memory"]["rows"])
        lines += ["", f"Resident memory, growth after the first tenth: {said} ([plot](docs/images/memory.png))."]
    return "\n".join([*lines, "", "`make bench` measures again; the files are in `bench/results/`."])


def line(r: dict[str, Any]) -> str:
    low, high = r["quartiles"]
    limit = f"≤ {r['limit_s']:g} s" if "limit_s" in r else f"≤ {r['limit']:g}" if r["limit"] is not None else ""
    missed = ", missed" if r["met"] is False else ""
    seconds = r["median_s"]
    took = f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"
    return f"| {r['title']} | {r['case']} | {r['ratio']:.2f} | {low:.2f} to {high:.2f} | {took} | {limit}{missed} |"


def placed(text: str, new: str) -> str:
    """The text with what is between the markers replaced; an end marker is put where there is none."""
    before, found, after = text.partition(START)
    if not found:
        raise SystemExit(f"README.md has no {START} to write to")
    if END in after:
        after = after.partition(END)[2]
    return f"{before}{START}\n{new}\n{END}{after}"


if __name__ == "__main__":
    main()
