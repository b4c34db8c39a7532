"""Chains of sums modulo 7, worked out with slips; and sentences that check and mend, said at random or when needed.

    prompt     start 3 , a + 5 , b * 4 ?
    rationale  next step a : plus 5 . 3 plus 5 gives 1 . next step b : times 4 . 1 times 4 gives 5 .
               wait , 1 times 4 makes 4 . answer 4 .

A product is worked out wrong, one too high, in seven of ten cases; sums and differences never. Who writes with "habit"
puts a check, a correction or a note behind one step in three, whatever it needs; who writes with "thought" corrects
every wrong step, checks every product that was right, notes where they are after every difference, and does nothing
else of the kind. The sentences are the same: what differs is when.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from inscape.core.errors import InputError

MODULUS, LETTERS = 7, "abcde"
SIGNS = {"+": "plus", "-": "minus", "*": "times"}
MINDS = ("habit", "thought")
SLIPS, ASIDES = 0.7, ("check", "redo", "note")
KINDS = ("plan", "work", "check", "redo", "note", "end")
FORMS = {
    "plan": "next step {letter} : {word} {k} .", "work": "{v} {word} {k} gives {said} .",
    "check": "check {v} {word} {k} : it is {r} .", "redo": "wait , {v} {word} {k} makes {r} .",
    "note": "so far it is {said} .", "end": "answer {said} .",
}  # fmt: skip
_FIRST = {"next": "plan", "check": "check", "wait": "redo", "so": "note", "answer": "end"}
WORDS = (*map(str, range(MODULUS)), *LETTERS, *SIGNS, *SIGNS.values(), *"?,.:",
         *["start", "next", "step", "gives", "check", "it", "is", "wait", "makes", "so", "far", "answer"])  # fmt: skip
_ANSWER = re.compile(r"\banswer (\d+)")


@dataclass(frozen=True)
class Problem:
    """A start and steps (sign, number), worked out from left to right modulo 7."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def prompt(self) -> str:
        asked = " , ".join(f"{letter} {sign} {k}" for letter, (sign, k) in zip(LETTERS, self.steps, strict=False))
        return f"start {self.start} , {asked} ?"

    @cached_property
    def answer(self) -> int:
        value = self.start
        for sign, k in self.steps:
            value = applied(value, sign, k)
        return value

    @property
    def is_hard(self) -> bool:
        """Has it a product, which habit would leave wrong?"""
        return any(sign == "*" for sign, _ in self.steps)

    def rationale(self, mind: str = "thought", *, seed: int = 0) -> str:
        """Sentences of that mind, with the answer. Raises: InputError for another mind."""
        return " ".join(text for _, text in self.sentences(mind, seed=seed))

    def sentences(self, mind: str = "thought", *, seed: int = 0) -> Iterator[tuple[str, str]]:
        """(kind, sentence) one after the other; see KINDS."""
        if mind not in MINDS:
            raise InputError(f"mind={mind!r}: it is {' or '.join(map(repr, MINDS))}.")
        rng, value = random.Random(seed), self.start
        for letter, (sign, k) in zip(LETTERS, self.steps, strict=False):
            right = applied(value, sign, k)
            slips = sign == "*" and rng.random() < SLIPS
            said = (right + 1) % MODULUS if slips else right
            about = {"letter": letter, "word": SIGNS[sign], "k": k, "v": value, "r": right, "said": said}
            asides = [rng.choice(ASIDES)] if rng.random() < 1 / 3 else []
            if mind == "thought":
                asides = ["redo"] if slips else {"*": ["check"], "-": ["note"]}.get(sign, [])
            for kind in ("plan", "work", *asides):
                yield kind, FORMS[kind].format(**about)
            value = right if "redo" in asides else said
        yield "end", FORMS["end"].format(said=value)


def applied(value: int, sign: str, k: int) -> int:
    return (value + k if sign == "+" else value - k if sign == "-" else value * k) % MODULUS


def problems(n: int, steps: tuple[int, int] = (2, 4), *, hard: bool | None = None, seed: int = 0) -> list[Problem]:
    """`n` problems of so many steps. hard: only those with a product (True) or without one (False).

    Raises: InputError for none, or a number of steps that letters do not reach.
    """
    low, high = steps
    if n < 1 or not 1 <= low <= high <= len(LETTERS):
        raise InputError(f"problems({n}, steps={steps}): at least one, of 1 to {len(LETTERS)} steps.")
    rng, found = random.Random(seed), []
    while len(found) < n:
        made = tuple((rng.choice("+-*"), rng.randrange(1, MODULUS)) for _ in range(rng.randint(low, high)))
        problem = Problem(rng.randrange(1, MODULUS), made)
        if hard is None or problem.is_hard == hard:
            found.append(problem)
    return found


def answer_of(text: str) -> int | None:
    """The number after "answer", or None where the rationale never came to one."""
    found = _ANSWER.search(text)
    return int(found[1]) if found else None


def kind_of(sentence: str) -> str | None:
    """Which of KINDS a sentence is by its first word, or None."""
    first = sentence.split()[:1]
    return _FIRST.get(first[0], "work" if first[0].isdigit() else None) if first else None


def right(given: Sequence[Problem], texts: Sequence[str]) -> list[bool]:
    """Which texts end in their problem's answer."""
    return [answer_of(text) == problem.answer for problem, text in zip(given, texts, strict=True)]
