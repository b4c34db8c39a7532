"""Write docs/papers.md from the recipes and their recorded results: `python -m tests.docs.papers`.

Every number on the page is in a result file, and a run wrote that file.
"""

import os
from pathlib import Path

from inscape.core.paper import Result, Verdict, counted
from inscape.recipes.catalogue import PACKAGE, Entry, entries

PAGE = Path(__file__).parents[2] / "docs" / "papers.md"
LEAD = """# Which papers are in here, and did they hold?

Every paper is a recipe: claims with bounds that were written before the full run, the control that must not show the
same, and one function that measures both. A claim that failed stays here as failed.

```text
inscape papers list                      every paper, and how many of its claims held
inscape papers search path patching      by words; a sentence with --meaning
inscape papers show NAME                 method, claims, numbers, controls, versions
inscape papers run NAME --quick          seconds: does it work at all?
inscape papers run NAME                  the full measurement, and its figure
inscape papers run NAME --model MODEL    on your own model, where the method takes one
```

A full run with the recipe's own settings, inside a checkout of the source, replaces what is recorded and shown here.
Any other run writes into `./inscape-results`, or the folder that `--to` names; `inscape papers show NAME --from FOLDER`
reads it there.

## How does a claim come to its verdict?

| verdict | when |
|---|---|
| holds | the number is inside its bound, and the same number on the control is not |
| failed | the number is outside its bound |
| not supported | it holds, but so does its control: the claim says nothing |
| not measured | there is no number, or none on the control that the claim names |

```python
from inscape.core.nulls import share
from inscape.core.paper import Claim, Paper, Result

paper = Paper(
    name="example",
    title="An example",
    authors="Nobody",
    year=2020,
    link="https://example.org",
    control="shuffled labels",
    claims=(
        Claim("accuracy", "the probe finds the label", at_least=0.8, control="shuffled labels"),
        Claim("loss", "its loss is low", below=1.0, control="shuffled labels"),
        Claim("transfer", "it works on other texts", at_least=0.6),
    ),
)
result = Result(
    paper,
    measured={"accuracy": share([1] * 45 + [0] * 5), "loss": 0.4},
    controls={"accuracy": 0.52, "loss": 0.7},
)
for verdict in result.verdicts:
    print(f"{verdict.claim.name:9} {verdict}")
print(result.summary)
```

```output
accuracy  holds
loss      holds, but so does its control: not supported
transfer  not measured
1 of 3 claims hold, 1 not supported, 1 not measured
```
"""
END = """## When not to trust these numbers

Models here are small, and so are the data: a claim that failed may hold at the size of the paper, and one that holds
may not hold there. A bound says what we were ready to call a success, not what the authors measured. Quick runs only
show that a recipe works, and are never recorded.
"""


def page() -> str:
    """The page as Markdown."""
    every = entries()
    results = {entry.name: entry.result() for entry in every}
    lines = ["\n## The papers\n"]
    if not every:
        lines.append("None is here yet.\n")
    else:
        verdicts = [v for r in results.values() if r for v in r.verdicts]
        count = counted(verdicts)
        lines.append(
            f"{len(every)} papers, {sum(r is not None for r in results.values())} of them with a recorded run. Of "
            f"{len(verdicts)} claims in these, {count['holds']} hold, {count['failed']} failed, "
            f"{count['not supported']} hold on their control too, and {count['not measured']} were not measured.\n"
        )
        lines += ["| paper | year | claims that hold | what it is about |", "|---|---|---|---|"]
        for entry in every:
            result = results[entry.name]
            held = (
                f"{sum(v.word == 'holds' for v in result.verdicts)} of {len(result.verdicts)}" if result else "not run"
            )
            about = entry.source.summary.replace("|", "\\|")
            lines.append(f"| [{entry.name}](#{entry.name}) | {entry.paper.year} | {held} | {about} |")
        lines.append("")
        lines += [section(entry, results[entry.name]) for entry in every]
    return "\n".join([LEAD.rstrip(), *lines, END])


def section(entry: Entry, result: Result | None) -> str:
    """One paper: what was measured beside its control, on what, and its figure."""
    paper = entry.paper
    code = f" Code: <{paper.code}>." if paper.code else ""
    recipe = os.path.relpath(entry.source.path, PAGE.parent)
    lines = [
        f"### {entry.name}\n",
        f"[{paper.title}]({paper.link}), {paper.authors}, {paper.year}.{code}\n",
        f"Control: {paper.control}. Made of {', '.join(f'`{name}`' for name in entry.source.uses)}; "
        f"[the recipe]({recipe}).\n",
    ]
    if result is None or result.ran is None:
        return "\n".join([*lines, "No full run is recorded yet.\n"])
    lines += ["| claim | bound | measured | control | verdict |", "|---|---|---|---|---|"]
    lines += [_row(verdict) for verdict in result.verdicts]
    ran = result.ran
    model = f" on `{ran.model}`" if ran.model else ""
    lines.append(
        f"\nMeasured{model} on {ran.date[:10]}, seed {result.seed}, in {ran.seconds:,.0f} s on {ran.machine}, "
        f"with {', '.join(f'{name} {version}' for name, version in ran.packages.items())}.\n"
    )
    lines += [f"{note}\n" for note in result.notes.splitlines()]
    if figure := entry.figure():
        caption = (result.figure.caption if result.figure else "") or f"What {entry.name} measured"
        lines.append(f"![{caption}]({os.path.relpath(figure, PAGE.parent)})\n")
    return "\n".join(lines)


def _row(verdict: Verdict) -> str:
    claim = verdict.claim
    measured = "" if verdict.measured is None else f"{verdict.measured:.4g}"
    if verdict.interval:
        measured += " [{:.3g}, {:.3g}]".format(*verdict.interval)
    control = "" if verdict.control is None else f"{verdict.control:.4g}"
    if claim.control:
        control = f"{control} ({claim.control})".strip()
    text, control = (said.replace("|", "\\|") for said in (claim.text, control))
    return f"| {text} | {claim.bound} | {measured} | {control} | {verdict.word} |"


def main() -> None:
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(PAGE.parents[1])} from {PACKAGE.relative_to(PAGE.parents[1])}")


if __name__ == "__main__":
    main()
