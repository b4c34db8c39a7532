"""A site: a named place where one activation lives. A value: it holds no tensor and no module."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import translate
from re import compile as regex

from inscape.core.errors import SiteError


@dataclass(frozen=True)
class Site:
    """A named place where one activation lives: `layers.6.resid_post`.

    shape: axes with their sizes where known ("batch pos d_model=640"). path: the module it is read at.
    status: "table" (from the family's table), "inferred" (from structure), "proven" or "withdrawn" (by `verify`).
    note: the proof, or the reason why the site is not offered.
    """

    name: str
    shape: str = ""
    meaning: str = ""
    path: str = ""
    status: str = "table"
    note: str = ""

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(part.split("=")[0] for part in self.shape.split())

    def __str__(self) -> str:
        return self.name


class SiteTable:
    """The sites of one model, in the order a forward pass meets them; call it with a pattern to filter."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self._sites = {site.name: site for site in sites}

    @property
    def names(self) -> list[str]:
        return list(self._sites)

    def __call__(self, *patterns: "str | Site") -> "SiteTable":
        """The sites that match any of the patterns; SiteError names the nearest when one matches nothing."""
        return SiteTable(self._sites[name] for name in self.match(*patterns))

    def match(self, *patterns: "str | Site") -> list[str]:
        """Names that match, in table order; `*` stands for anything, `{0..3}` and `[..]` as in file names."""
        found: set[str] = set()
        for pattern in patterns:
            text = str(pattern)
            if text in self._sites:
                found.add(text)
                continue
            is_match = regex(translate(text)).match
            hits = [name for name in self._sites if is_match(name)] if any(c in text for c in "*?[") else []
            if not hits:
                raise self.unknown(text)
            found.update(hits)
        return [name for name in self._sites if name in found]

    def unknown(self, name: str) -> SiteError:
        """The error for a name that is not here."""
        near = get_close_matches(name, self._sites, n=3, cutoff=0.4)
        nearest = f"; the nearest names are {', '.join(near)}" if near else ""
        return SiteError(
            f"no site matches {name!r}.\n  this model has {len(self._sites)} sites{nearest}.\n"
            "  print them all with model.sites, or give a module path as '@model.layers.3.mlp'."
        )

    def with_status(self, changes: dict[str, tuple[str, str]]) -> "SiteTable":
        """The same table with (status, note) of some sites replaced."""
        return SiteTable(
            replace(site, status=changes[site.name][0], note=changes[site.name][1]) if site.name in changes else site
            for site in self
        )

    def __getitem__(self, name: str) -> Site:
        if name not in self._sites:
            raise self.unknown(name)
        return self._sites[name]

    def __contains__(self, name: object) -> bool:
        return str(name) in self._sites

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites.values())

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        rows = list(self._sites.values())
        shown = rows if len(rows) <= 40 else [*rows[:20], *rows[-10:]]
        width = max((len(r.name) for r in shown), default=4)
        wide = max((len(r.shape) for r in shown), default=5)
        lines = [f"{r.name:<{width}}  {r.shape:<{wide}}  {r.meaning}" for r in shown]
        if len(shown) < len(rows):
            lines.insert(20, f"... {len(rows) - 30} more; model.sites('layers.3.*') shows one layer ...")
        return "\n".join([f"{len(rows)} sites", *lines])
