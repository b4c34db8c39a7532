"""A long record of real text through Gemma 3 270M at two sites: was its cost predicted, and did memory stay flat?

The text is the documentation that Python packages on this machine bring along (read, never copied into the project).
`python -m bench.store_long [tokens]`; a million by default. Resident memory is sampled after every work unit.
"""

import ast
import shutil
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

import inscape as ins
from bench.common import ROOT, Row, resident, set_up, write
from inscape.store.check import verify
from inscape.store.outcome import outcomes

READ = ["layers.5.resid_post", "layers.9.resid_post"]
PLOT = ROOT / "docs" / "images" / "record-memory.png"
CHARACTERS = 1200  # of a sample: some 300 tokens


def main() -> None:
    set_up()
    warnings.simplefilter("ignore", SyntaxWarning)  # of the sources that are parsed for their docstrings
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    model = ins.open("gemma-3-270m", dtype=torch.float32)
    texts = chosen(model, real_text(), wanted)
    folder = Path(tempfile.mkdtemp(prefix="inscape-long-"))
    try:
        plan = ins.plan(model, texts, "record", sites=READ, dtype="bfloat16", max_length=512)
        print(f"  {plan}", flush=True)
        samples: list[list[float]] = []
        start = time.perf_counter()

        def watch(message: str, fraction: float | None) -> None:
            samples.append([round(time.perf_counter() - start, 2), round(resident() / 1e6, 1)])
            if len(samples) % 20 == 0:
                print(f"  {message}", flush=True)

        store = ins.record(
            model, texts, READ, folder / "acts", dtype="bfloat16", max_length=512, plan=plan, progress=watch
        )
        seconds = time.perf_counter() - start
        assert store.is_complete
        assert verify(store.path).is_sound
        (said,) = outcomes(store.path)
        warm = samples[len(samples) // 10][1]
        row: Row = {
            "case": "record two sites of real text", "tokens": len(store), "texts": len(texts), "seconds": seconds,
            "tokens_a_second": len(store) / seconds, "predicted": said["predicted"], "measured": said["measured"],
            "growth_mb_after_a_tenth": samples[-1][1] - warm, "samples": samples,
        }  # fmt: skip
        print(
            f"  {len(store):,} tokens in {seconds:,.0f} s ({len(store) / seconds:,.0f} a second; predicted "
            f"{plan.seconds:,.0f} s), {said['measured']['bytes'] / 1e6:,.1f} MB (predicted {plan.bytes / 1e6:,.1f}), "
            f"memory {row['growth_mb_after_a_tenth']:+.1f} MB after the first tenth"
        )
        write("store_long", [row], model="gemma-3-270m", dtype="float32", stored="bfloat16")
        draw(samples)
    finally:
        shutil.rmtree(folder)


def real_text() -> list[str]:
    """Documentation as samples of about `CHARACTERS`: pages, then what modules and functions say of themselves."""
    library = Path(sysconfig.get_paths()["purelib"])
    pages = sorted(p for pattern in ("*.md", "*.rst", "METADATA") for p in library.rglob(pattern))
    out = [s for p in pages for s in cut(p.read_text(encoding="utf-8", errors="ignore").split("\n\n"))]
    for package in ("transformers", "torch", "numpy"):
        for path in sorted((library / package).rglob("*.py")):
            out += cut(docstrings(path))
            if len(out) > 4500:  # a million tokens and some
                return list(dict.fromkeys(out))
    return list(dict.fromkeys(out))


def cut(paragraphs: Iterable[str]) -> Iterator[str]:
    """Paragraphs of words, joined up to the size of a sample."""
    held = ""
    for paragraph in paragraphs:
        if sum(c.isalpha() or c == " " for c in paragraph) < 0.8 * max(1, len(paragraph)):
            continue  # tables, code, lists of versions
        held += paragraph.strip() + "\n"
        if len(held) >= CHARACTERS:
            yield held[: 2 * CHARACTERS]
            held = ""


def docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8", errors="ignore"))
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield from (ast.get_docstring(node) or "").split("\n\n")


def chosen(model: "ins.Model", texts: list[str], tokens: int) -> list[str]:
    """As many texts as make so many tokens; all of them when there are fewer."""
    total, out = 0, []
    for text in texts:
        out.append(text)
        total += min(512, len(model.tokenizer(text)["input_ids"]))
        if total >= tokens:
            break
    print(f"  {total:,} tokens in {len(out):,} texts")
    return out


def draw(samples: list[list[float]]) -> None:
    import altair as alt

    values = [{"seconds": s, "resident memory, MB": mb} for s, mb in samples]
    top = max(mb for _, mb in samples) * 1.2
    chart = (
        alt.Chart(alt.Data(values=values), width=420, height=180)
        .mark_line()
        .encode(x="seconds:Q", y=alt.Y("resident memory, MB:Q", scale=alt.Scale(domain=[0, top])))
    )
    chart.save(str(PLOT), scale_factor=2)
    print(f"  wrote {PLOT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
