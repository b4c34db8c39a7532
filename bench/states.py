"""What the benches of readouts read: sentences of Python's own documentation, and every block's output at their ends.

States are kept in the folder of temporary files under the name of the model and the number of sentences, so that one
recording serves several benches; delete it to record again.
"""

import ast
import re
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor

import inscape as ins

WORDS = (5, 20)
SKIPPED = {"site-packages", "dist-packages", "idlelib", "test", "tests", "lib2to3", "encodings"}


def sentences(n: int = 4000, seed: int = 0) -> tuple[list[str], Tensor]:
    """Different sentences of Python's docstrings, comments and manual, half with a digit, and which those are."""
    found: dict[str, bool] = {}
    for text in _texts():
        for sentence in re.split(r"(?<=[.:])\s+(?=[A-Z])|\n\s*\n", text):
            clean = " ".join(sentence.split())
            if WORDS[0] <= len(clean.split()) <= WORDS[1] and clean.isascii():
                found[clean] = any(c.isdigit() for c in clean)
    draw = torch.Generator().manual_seed(seed)
    kinds: list[list[str]] = [[s for s, digit in found.items() if digit == kind] for kind in (False, True)]
    if min(map(len, kinds)) < n // 2:
        raise AssertionError(f"{len(kinds[1])} sentences with a digit and {len(kinds[0])} without; {n} are wanted")
    chosen = [kind[i] for kind in kinds for i in torch.randperm(len(kind), generator=draw)[: n // 2].tolist()]
    order = torch.randperm(n, generator=draw).tolist()
    return [chosen[i] for i in order], torch.tensor([i >= n // 2 for i in order])


def _texts() -> Iterator[str]:
    """Docstrings, comments and the manual that comes with Python."""
    yield from topics.values()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if not SKIPPED.isdisjoint(path.parts):
            continue
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""
        for block in re.finditer(r"(?m)(?:^[ \t]*#.*\n)+", source):
            yield " ".join(line.strip().lstrip("#").strip() for line in block.group(0).splitlines())


def states(n: int = 4000, name: str = "gemma-3-270m", batch: int = 32) -> tuple[dict[str, Tensor], Tensor]:
    """{site: [n, d]} of every block's output at the last token, and whether the sentence has a digit."""
    from safetensors.torch import load_file, save_file

    texts, digit = sentences(n)
    path = Path(tempfile.gettempdir()) / f"inscape-bench-states-{name}-{n}.safetensors"
    if not path.exists():
        recorded = _recorded(texts, name, batch)
        save_file({**recorded, "digit": digit.to(torch.uint8)}, path)
    held = load_file(path)
    if not torch.equal(held.pop("digit").bool(), digit):
        raise AssertionError(f"{path.name} was recorded from other sentences: delete it")
    return dict(sorted(held.items(), key=lambda kv: int(kv[0].split(".")[1]))), digit


def _recorded(texts: Sequence[str], name: str, batch: int) -> dict[str, Tensor]:
    model = ins.open(name)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    kept: dict[str, Tensor] = {}
    began = time.perf_counter()
    for start in range(0, len(texts), batch):
        rows = order[start : start + batch]
        trace = ins.run(model, [texts[i] for i in rows], read="layers.*.resid_post", reduce="last")
        for site, value in trace.items():
            value = value.reshape(len(rows), -1).float()
            kept.setdefault(site, torch.empty(len(texts), value.shape[1]))[torch.tensor(rows)] = value
        print(f"\r  {start + len(rows)} sentences, {time.perf_counter() - began:.0f} s", end="", file=sys.stderr)
    return kept


if __name__ == "__main__":
    found, label = states()
    print({site: tuple(x.shape) for site, x in found.items()}, float(label.float().mean()))
