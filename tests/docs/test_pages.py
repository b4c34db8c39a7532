"""The code of README.md and of every page runs, and prints what the page shows."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import Block, blocks_of, printed_by, rewritten, shared_models

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_CODE = [page for page in PAGES if blocks_of(page.read_text())]


@pytest.fixture(scope="module")
def models() -> Iterator[None]:
    with shared_models():
        yield


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_a_page_prints_what_it_shows(page: Path, models: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # pages write files
    namespace: dict[str, Any] = {"__name__": "__page__"}
    for block in blocks_of(page.read_text()):
        printed = printed_by(block, str(page), namespace)
        if block.shown is not None or printed:
            assert printed == (block.shown or ""), f"{page.name}:{block.line}; python -m tests.docs.pages rewrites it"


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_blocks_share_one_namespace_and_their_output_is_found() -> None:
    text = "# t\n\n```python\nx = 2\n```\n\nand\n\n```python\nprint(x + 1)\n```\n\n```output\n3\n```\n"
    first, second = blocks_of(text)
    assert first == Block("x = 2\n", None, 3)
    assert second.shown == "3\n"
    assert rewritten(text, "t") == text
    assert rewritten(text.replace("3\n", "4\n"), "t") == text


def test_an_error_in_a_page_names_its_line() -> None:
    text = "# t\n\n```python\nx = 1\nx.nothing\n```\n"
    with pytest.raises(AttributeError) as caught:
        printed_by(blocks_of(text)[0], "t.md", {})
    assert caught.traceback[-1].lineno == 4  # counted from 0: the fifth line of the page
