"""A paper as claims with bounds, and what one run of its recipe measured beside its controls.

A claim's bound stands in the recipe's source, written before the full run. A result holds numbers only; whether a
claim holds is worked out from both here, the same way for every paper:

| measured | on the control | verdict |
|---|---|---|
| missing, NaN or infinite | | not measured |
| outside the bound | | failed |
| inside | inside too | not supported: holds, but so does its control |
| inside | missing, though the claim names a control | not measured |
| inside | outside, or the claim names none | holds |

Nothing here imports torch, so that the command line can list papers at once.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from inscape.core.drawing import Drawing
from inscape.core.errors import PaperError

Word = Literal["holds", "failed", "not supported", "not measured"]
Cell = str | float | int | bool | None
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper with the bound that decides whether it holds here.

    name: what the recipe calls the number. text: the sentence. Bounds: at least one; two make a range.
    control: on what the same number is also measured and must not hold ("shuffled labels"). Empty for claims that are
    a check in themselves, such as one that compares with a control in its very number.
    """

    name: str
    text: str
    at_least: int | float | None = None
    at_most: int | float | None = None
    above: int | float | None = None
    below: int | float | None = None
    control: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or not self.text.strip():
            raise PaperError(
                f"a claim is called {self.name!r} and says {self.text!r}.\n"
                f"  give it a short name in lower case (best_head) and a sentence."
            )
        bounds = self.bounds
        if not bounds or not all(math.isfinite(value) for value in bounds.values()):
            raise PaperError(
                f"the claim {self.name!r} has {'no bound' if not bounds else 'a bound that is not finite'}, so nothing "
                f"could fail it.\n  give at_least=, at_most=, above= or below= before the first full run."
            )
        if {"at_least", "above"} <= bounds.keys() or {"at_most", "below"} <= bounds.keys():
            raise PaperError(f"the claim {self.name!r} has two bounds on one side.\n  keep the one that is meant.")

    @property
    def bounds(self) -> dict[str, int | float]:
        """The bounds that were given, by name."""
        given = {k: getattr(self, k) for k in ("at_least", "at_most", "above", "below")}
        return {k: v for k, v in given.items() if v is not None}

    @property
    def bound(self) -> str:
        """The bounds as signs: "≥ 0.8"."""
        signs = {"at_least": "≥", "above": ">", "at_most": "≤", "below": "<"}
        return " and ".join(f"{sign} {self.bounds[k]:g}" for k, sign in signs.items() if k in self.bounds)

    def admits(self, value: float) -> bool:
        """Is a number inside the bounds?"""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


@dataclass(frozen=True)
class Paper:
    """What a recipe reproduces: where it was published, what it claims, and what must not show the same.

    name: the paper's short name, which the command line takes ("logit-lens"). link: its page. code: the authors' code.
    control: one sentence on what stands beside the effects ("untrained weights; a random direction of equal length").
    """

    name: str
    title: str
    authors: str
    year: int
    link: str
    claims: tuple[Claim, ...]
    control: str
    code: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise PaperError(
                f"a paper is called {self.name!r}.\n  give it a short name in lower case, such as 'logit-lens'."
            )
        empty = [what for what in ("title", "authors", "link", "control") if not getattr(self, what).strip()]
        if empty or not self.claims:
            raise PaperError(f"the paper {self.name!r} has no {' and no '.join(empty or ['claims'])}.")
        names = [claim.name for claim in self.claims]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PaperError(f"the paper {self.name!r} has two claims called {twice[0]!r}.")

    def claim(self, name: str) -> Claim:
        """The claim of a name, or PaperError with the names there are."""
        for claim in self.claims:
            if claim.name == name:
                return claim
        raise PaperError(
            f"{self.name!r} claims nothing called {name!r}.\n  its claims are "
            f"{', '.join(c.name for c in self.claims)}; a number without a claim goes to also=."
        )


@dataclass(frozen=True)
class Verdict:
    """What became of one claim: the number, its interval, the same on the control, and one word."""

    claim: Claim
    word: Word
    measured: float | None
    control: float | None
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        return "holds, but so does its control: not supported" if self.word == "not supported" else self.word


@dataclass(frozen=True)
class Ran:
    """How a result came about; the run fills it in.

    date: of the end, in UTC. packages: versions. machine: its kind, never its name. commit: of the source, with + where
    it was changed; empty outside a checkout. seconds: wall time. quick: with the recipe's QUICK settings, which show
    that it works and measure nothing. settings: the arguments of `run`.
    """

    date: str
    packages: Mapping[str, str]
    python: str
    machine: str
    threads: int
    commit: str
    seconds: float
    quick: bool
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Result:
    """Numbers that one run of a recipe measured, by claim, with their controls and what its figure shows.

    measured: claim -> number; an `Interval` keeps its ends. A claim that is left out is "not measured".
    controls: claim -> the same quantity on the control that the claim names. also: numbers that no claim is about.
    series: name -> numbers along one axis, or rows of them; `figure` says how they are drawn. tables: name -> rows.
    notes: what a reader must know (what was left out, what differs from the source). ran: filled in by the run.

    Raises: PaperError for a number whose claim is not there, or a control that the claim does not name.
    """

    paper: Paper
    measured: Mapping[str, Any]
    controls: Mapping[str, Any] = field(default_factory=dict)
    series: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    seed: int = 0
    notes: str = ""
    also: Mapping[str, Any] = field(default_factory=dict)
    figure: Drawing | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    ran: Ran | None = None

    def __post_init__(self) -> None:
        for name in self.measured:
            self.paper.claim(name)
        for name in self.controls:
            if not self.paper.claim(name).control:
                raise PaperError(
                    f"the claim {name!r} has a number on a control, and names none.\n"
                    f"  say in Claim(..., control='shuffled labels') what it is."
                )
        ends = {
            name: (float(value.low), float(value.high))
            for numbers in (self.measured, self.also)
            for name, value in numbers.items()
            if hasattr(value, "low") and hasattr(value, "high")
        }
        set_ = object.__setattr__
        set_(self, "intervals", {**self.intervals, **ends})
        for name in ("measured", "controls", "also"):
            set_(self, name, {key: float(value) for key, value in getattr(self, name).items()})
        set_(self, "series", {name: _numbers(values, name) for name, values in self.series.items()})
        set_(self, "tables", {name: [_cells(row) for row in rows] for name, rows in self.tables.items()})

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One a claim, in the paper's order."""
        return tuple(self._verdict(claim) for claim in self.paper.claims)

    @property
    def summary(self) -> str:
        """How many claims hold: "4 of 5 claims hold, 1 failed"."""
        words = [verdict.word for verdict in self.verdicts]
        rest = [f"{words.count(w)} {w}" for w in ("failed", "not supported", "not measured") if w in words]
        return ", ".join([f"{words.count('holds')} of {len(words)} claims hold", *rest])

    def ran_as(self, ran: Ran) -> "Result":
        """The same numbers with how they came about."""
        return replace(self, ran=ran)

    def _verdict(self, claim: Claim) -> Verdict:
        value, control = (_finite(numbers.get(claim.name)) for numbers in (self.measured, self.controls))
        word: Word = "holds"
        if value is None:
            word = "not measured"
        elif not claim.admits(value):
            word = "failed"
        elif claim.control and control is None:
            word = "not measured"
        elif control is not None and claim.admits(control):
            word = "not supported"
        return Verdict(claim, word, value, control, self.intervals.get(claim.name))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _numbers(values: Any, name: str) -> list[Any]:
    """One axis of numbers, or rows of them, from a list, array or tensor."""
    if hasattr(values, "detach"):
        values = values.detach()
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    if not isinstance(listed, list):
        raise PaperError(f"the series {name!r} is one number.\n  a single number goes to also=.")
    if any(isinstance(value, Sequence) or getattr(value, "ndim", 0) for value in listed):
        rows = [_numbers(row, name) for row in listed]
        if any(isinstance(value, list) for row in rows for value in row):
            raise PaperError(f"the series {name!r} has more than two axes.\n  reduce it, or give one series each.")
        return rows
    return [float("nan") if value is None else float(value) for value in listed]


def _cells(row: Mapping[str, Any]) -> dict[str, Cell]:
    def plain(value: Any) -> Cell:
        value = value.item() if hasattr(value, "item") else value
        return value if value is None or isinstance(value, str | float | int | bool) else str(value)

    return {str(key): plain(value) for key, value in row.items()}


def counted(verdicts: Iterable[Verdict]) -> dict[Word, int]:
    """How many claims came to each verdict."""
    out: dict[Word, int] = {"holds": 0, "failed": 0, "not supported": 0, "not measured": 0}
    for verdict in verdicts:
        out[verdict.word] += 1
    return out
