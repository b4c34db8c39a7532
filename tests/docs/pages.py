"""Run the code of a Markdown page, and compare what it prints with what the page shows.

Every ```python block of a page runs, in order, in one namespace. Where an ```output block follows, the code must
print exactly that. To write what the code prints into a page: `python -m tests.docs.pages docs/edits.md`.
"""

import contextlib
import functools
import io
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import inscape as ins

FENCE = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n?^```output\n(?P<shown>.*?)^```\n)?", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One piece of code of a page: `line` is where the code starts, `shown` what the page says it prints."""

    code: str
    shown: str | None
    line: int


def blocks_of(text: str) -> list[Block]:
    return [Block(m["code"], m["shown"], text.count("\n", 0, m.start("code"))) for m in FENCE.finditer(text)]


def printed_by(block: Block, page: str, namespace: dict[str, Any]) -> str:
    """Run one block; errors point at the line of the page."""
    source = compile("\n" * block.line + block.code, page, "exec")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(source, namespace)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def rewritten(text: str, page: str) -> str:
    """The page with every block's output as it is printed now."""
    namespace: dict[str, Any] = {"__name__": "__page__"}
    parts, end = [], 0
    for match, block in zip(FENCE.finditer(text), blocks_of(text), strict=True):
        printed = printed_by(block, page, namespace)
        shown = f"\n```output\n{printed}```\n" if printed else ""
        parts += [text[end : match.start()], f"```python\n{block.code}```\n", shown]
        end = match.end()
    return "".join([*parts, text[end:]])


@contextlib.contextmanager
def shared_models() -> Iterator[None]:
    """Every page opens its model, and some verify it: here each model is opened and verified once for all pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ins, "open", functools.cache(ins.open))
        patch.setattr(ins.Model, "verify", functools.cache(ins.Model.verify))
        yield


def main(names: list[str]) -> None:
    pages = [Path(name).resolve() for name in names]
    with shared_models(), tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # pages write files
        for page in pages:
            page.write_text(rewritten(page.read_text(), str(page)))


if __name__ == "__main__":
    main(sys.argv[1:])
