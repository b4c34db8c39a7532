"""The papers that are here: found by looking, searched by words or by meaning, run by name.

A recipe is a file `recipes/<theme>/<idea>_<year>.py`; nothing is registered. Listing and searching by words read the
sources and import no torch. What the last full run of each measured stands in `recipes/results/`.
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from inscape.core.errors import PaperError
from inscape.core.paper import Paper, Result
from inscape.recipes.source import Source, read_source

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGE = Path(__file__).parent
HERE = PACKAGE  # where recipes are looked for
FILE = re.compile(r"[a-z0-9_]+_\d{4}\.py")


@dataclass(frozen=True)
class Entry:
    """One paper of the catalogue: its recipe's source, and where its results are."""

    source: Source
    results: Path

    @property
    def paper(self) -> Paper:
        return self.source.paper

    @property
    def name(self) -> str:
        return self.source.paper.name

    def result(self, folder: Path | None = None) -> Result | None:
        """What the last full run measured; None before there was one. folder: results of your own runs.

        Raises: FileError when the file is damaged.
        """
        from inscape.core.result_file import load_result

        path = (folder or self.results) / f"{self.name}.json"
        return load_result(path) if path.exists() else None

    def figure(self, folder: Path | None = None) -> Path | None:
        """The figure of that run, where there is one."""
        path = (folder or self.results) / f"{self.name}.png"
        return path if path.exists() else None

    def is_current(self, result: Result) -> bool:
        """Are the claims still those that the result was measured for?"""
        return result.paper.claims == self.paper.claims

    def module(self) -> ModuleType:
        """The recipe itself, imported now."""
        path = self.source.path
        if path.is_relative_to(PACKAGE):
            return import_module(".".join(["inscape.recipes", *path.relative_to(PACKAGE).with_suffix("").parts]))
        spec = spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def entries(folder: Path | None = None) -> list[Entry]:
    """Every paper, by name.

    Raises: PaperError for a recipe that cannot be read, or two of one name.
    """
    folder = folder or HERE
    found: dict[str, Entry] = {}
    for path in sorted(folder.glob("*/*.py")):
        if not FILE.fullmatch(path.name):
            continue
        entry = Entry(read_source(path), folder / "results")
        if entry.name in found:
            raise PaperError(
                f"two recipes are called {entry.name!r}: {found[entry.name].source.path.name}, {path.name}."
            )
        found[entry.name] = entry
    return [found[name] for name in sorted(found)]


def entry(name: str, folder: Path | None = None) -> Entry:
    """The paper of a name.

    Raises: PaperError with the nearest names when there is none.
    """
    known = {entry.name: entry for entry in entries(folder)}
    if name in known:
        return known[name]
    near = get_close_matches(name.lower(), known, n=3, cutoff=0.4) or [e.name for e in by_words(name, folder)[:3]]
    there = f"the nearest names are {', '.join(near)}" if near else f"there are {len(known)} papers"
    raise PaperError(
        f"no paper is called {name!r}.\n  {there}.\n"
        f"  inscape papers list prints all of them, inscape papers search WORDS searches them."
    )


def by_words(query: str, folder: Path | None = None) -> list[Entry]:
    """Papers that hold words of the query, the best first: rare words count more, those of the name and title most.

    A word is found in any form that begins with it ("patch" finds "patching").
    """
    words = _words(query)
    scored = []
    fields = [(entry, _fields(entry)) for entry in entries(folder)]
    for entry_, texts in fields:
        score = 0.0
        for word in words:
            common = sum(any(_holds(text, word) for text, _ in other) for _, other in fields)
            score += max((weight for text, weight in texts if _holds(text, word)), default=0.0) / (1 + common)
        if score > 0:
            scored.append((-score, entry_.name, entry_))
    return [found for _, _, found in sorted(scored, key=lambda row: row[:2])]


def by_meaning(query: str, folder: Path | None = None, n: int = 5) -> list[tuple[Entry, float]]:
    """The n papers whose description is nearest in meaning, with the cosine: a sentence will do.

    Cost: opens the packaged MiniLM encoder (seconds), one forward of every description.
    Raises: MissingExtraError without the extra `demo`.
    """
    from inscape.recipes.meaning import embedded

    every = entries(folder)
    if not every:
        return []
    vectors = embedded([query, *(description(entry) for entry in every)])
    cosine = (vectors[1:] @ vectors[0]).tolist()
    return sorted(zip(every, cosine, strict=True), key=lambda pair: -pair[1])[:n]


def description(entry: Entry) -> str:
    """What a paper is about, in a few sentences."""
    return ". ".join([entry.paper.title, entry.source.summary, *(claim.text for claim in entry.paper.claims)])


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _fields(entry: Entry) -> "Sequence[tuple[list[str], float]]":
    claims = " ".join(claim.text for claim in entry.paper.claims)
    uses = " ".join(entry.source.uses).replace("_", " ")
    return (
        (_words(f"{entry.name} {entry.paper.title} {entry.source.theme}"), 3.0),
        (_words(f"{entry.paper.authors} {entry.paper.year} {entry.source.about} {claims} {uses}"), 1.0),
    )


def _holds(text: list[str], word: str) -> bool:
    return any(other.startswith(word) for other in text)
