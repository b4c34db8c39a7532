"""Where the source drifts: our largest files, and the most alike pair of recipes. Numbers to talk about, not gates.

`python -m bench.drift`. Alike: the share of runs of eight tokens that two files have in common, docstrings left out.
"""

import ast
import io
import tokenize
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from bench.common import ROOT

SOURCE = ROOT / "src" / "inscape"
SKIPPED = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENDMARKER}


def main(n: int = 12) -> None:
    files = largest(SOURCE)
    print(f"{len(files)} files, {sum(lines for _, lines in files):,} lines; the largest:")
    for path, lines in files[:n]:
        print(f"  {lines:5}  {path.relative_to(SOURCE)}")
    recipes = sorted((SOURCE / "recipes").glob("*/*_[0-9][0-9][0-9][0-9].py"))
    pairs = alike(recipes)
    print(f"\n{len(recipes)} recipes{'; the most alike:' if pairs else ', no pair to compare'}")
    for share, a, b in pairs[:3]:
        print(f"  {share:5.1%}  {a.stem}, {b.stem}")


def largest(folder: Path) -> list[tuple[Path, int]]:
    """Every Python file with its lines, the longest first."""
    counted = [(path, len(path.read_text().splitlines())) for path in folder.rglob("*.py")]
    return sorted(counted, key=lambda pair: (-pair[1], pair[0]))


def alike(paths: Sequence[Path]) -> list[tuple[float, Path, Path]]:
    """Pairs of files with what they share, the most alike first."""
    texts = {path: path.read_text() for path in paths}
    pairs = [(likeness(texts[a], texts[b]), a, b) for a, b in combinations(paths, 2)]
    return sorted(pairs, key=lambda pair: -pair[0])


def likeness(a: str, b: str, size: int = 8) -> float:
    """The share of runs of `size` tokens that two sources have in common."""
    first, second = _runs(a, size), _runs(b, size)
    return len(first & second) / max(1, len(first | second))


def _runs(source: str, size: int) -> set[tuple[str, ...]]:
    tree = ast.parse(source)
    if ast.get_docstring(tree) is not None:
        source = "\n".join(source.splitlines()[tree.body[0].end_lineno or 0 :]) + "\n"
    words = [t.string for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in SKIPPED]
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


if __name__ == "__main__":
    main()
