"""Write what was measured into README.md and docs/speed.md, between `<!-- bench -->` and `<!-- /bench -->`.

Missed numbers are written like the others.
"""

import json
from typing import Any

from bench.common import RESULTS, ROOT, machine

START, END = "<!-- bench -->", "<!-- /bench -->"
NAMES = ("engine_gemma", "engine_tiny", "sweep", "startup", "memory")  # in the README
STORE = ("store", "store_kill", "store_long", "store_peer", "sweep_peers")  # in docs/speed.md


def main() -> None:
    for page, names, make in (("README.md", NAMES, table), ("docs/speed.md", STORE, store_table)):
        results = {n: json.loads(p.read_text()) for n in names if (p := RESULTS / f"{machine()}-{n}.json").exists()}
        if not results:
            print(f"  no results of this machine for {page} yet")
            continue
        path = ROOT / page
        path.write_text(placed(path.read_text(), make(results)))
        print(f"  wrote the table in {page}")


def store_table(results: dict[str, Any]) -> str:
    lines: list[str] = []
    if "store" in results:
        rows = results["store"]["rows"]
        lines += ["| what | | ratio | quartiles | time | to reach |", "|---|---|---|---|---|---|"]
        lines += [line(r) for r in rows if "ratio" in r]
        (many,) = [r for r in rows if "megabytes" in r]
        lines += ["", f"A store of 10,000 shards is opened in {many['seconds']:.2f} s and {many['megabytes']:.0f} MB."]
    if "store_kill" in results:
        (r,) = results["store_kill"]["rows"]
        lines += ["", f"Two writers were killed with `kill -9` at {r['kills']} random moments; the finished record's "
                  f"{r['rows']:,} rows equal those of an undisturbed one bit for bit, every checksum is right and "
                  f"no work unit is there twice."]  # fmt: skip
    if "store_long" in results:
        (r,) = results["store_long"]["rows"]
        told, took = r["predicted"], r["measured"]
        lines += ["", f"{r['tokens']:,} tokens of real text through Gemma 3 270M at two sites: {r['seconds']:,.0f} s "
                  f"(predicted {told['seconds']:,.0f} s), {took['bytes'] / 1e6:,.1f} MB (predicted "
                  f"{told['bytes'] / 1e6:,.1f} MB), peak {took['peak_bytes'] / 1e9:.2f} GB (predicted "
                  f"{told['peak_bytes'] / 1e9:.2f} GB), memory {r['growth_mb_after_a_tenth']:+.1f} MB after the first "
                  f"tenth."]  # fmt: skip
    if "store_peer" in results:
        lines += ["", *beside_saelens(results["store_peer"])]
    if "sweep_peers" in results:
        lines += ["", *beside_peers(results["sweep_peers"]["rows"])]
    return "\n".join(lines)


def beside_saelens(result: dict[str, Any]) -> list[str]:
    """What recording costs in both, and what each does when it is started again after a kill."""
    timed = [r for r in result["rows"] if "ratio" in r]
    said = ", ".join(
        f"{r['case']} {r['ratio']:.3f} of the blocks ({r['tokens_a_cpu_second']:,} tokens a CPU second)" for r in timed
    )
    killed = "; ".join(
        f"{r['case']}: {r['kept']} of {r['of']} parts kept, {'finished' if r['finished'] else 'refused'}"
        for r in result["rows"]
        if "kept" in r
    )
    version = result["peer"]["sae_lens"]
    about = f"Beside SAELens {version}, one site, {result['tokens']:,} tokens, one thread"
    return [f"{about}: {said}. {killed[0].upper()}{killed[1:]}."]


def beside_peers(rows: list[dict[str, Any]]) -> list[str]:
    """The same sweep by other tools, whole or scaled from the cells that were run."""
    lines = ["A patching sweep of an indirect-object pair on Gemma 3 270M, every value compared first:", ""]
    lines += ["| peer | cells run | all cells | here, logit difference | here, any metric |", "|---|---|---|---|---|"]
    for r in rows:
        ours = [f"{s:.2f} s, {r['times'][name]:.0f} times as fast" for name, s in r["ours_s"].items()]
        lines.append(
            f"| {r['peer']} {r['version']} | {r['cells_run']} | {r['seconds']:.1f} s | {ours[0]} | {ours[1]} |"
        )
    return lines


def table(results: dict[str, Any]) -> str:
    some = next(iter(results.values()))
    lines = [
        f"Measured on {some['machine']['cpu']}, {some['threads']} threads, torch {some['packages']['torch']}, "
        f"transformers {some['packages']['transformers']}; time as a multiple of the bare module's (of a sweep: of "
        "one forward with a hook a cell), median and quartiles of paired rounds.",
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
    ratio, spread = short(r["ratio"]), f"{short(low)} to {short(high)}"
    return f"| {r['title']} | {r['case']} | {ratio} | {spread} | {took} | {limit}{missed} |"


def short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.4f}"


def placed(text: str, new: str) -> str:
    """The text with what is between the markers replaced; an end marker is put where there is none."""
    before, found, after = text.partition(START)
    if not found:
        raise SystemExit(f"the page has no {START} to write to")
    if END in after:
        after = after.partition(END)[2]
    return f"{before}{START}\n{new}\n{END}{after}"


if __name__ == "__main__":
    main()
