"""Chains of sums modulo 19 with written rationales, wordy or terse, for nets that reason in tokens.

    prompt   start 7 , a + 5 , b * 3 ?
    wordy    now step a : we have 7 , plus 5 that makes 12 . then comes step b : 12 times 3 gives us 17 . answer 17
    terse    a + 5 = 12 ; b * 3 = 17 ; answer 17
    mixed    a + 5 = 12 ; then comes step b : 12 times 3 gives us 17 . so far it is 17 . answer 17

From left to right, every step modulo 19. A mixed rationale says every step wordily at a rate of its own. The words are
few and parted by spaces, for the vocabulary of a toy net; a language model reads them too, when told the modulus.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from inscape.core.errors import InputError

MODULUS = 19
LETTERS = "abcdefghij"
SIGNS = {"+": "plus", "-": "minus", "*": "times"}
STYLES = ("wordy", "terse")
FIRST = "now step {l} : we have {v} , {word} {k} that makes {r} ."
SECOND = "then comes step {l} : {v} {word} {k} gives us {r} ."
AGAIN = "so far it is {r} ."
TERSE = "{l} {sign} {k} = {r} ;"
_SAID = "start answer now step we have that makes then comes gives us so far it is"
WORDS = (*map(str, range(MODULUS)), *LETTERS, *SIGNS, *SIGNS.values(), *"?,.:;=", *_SAID.split())
_WRITTEN = re.compile(r"(?:makes|gives us|=) (\d+)")
_END = re.compile(r"[.;](?= |$)")
_ANSWER = re.compile(r"\banswer (\d+)")


@dataclass(frozen=True)
class Chain:
    """A start and steps (sign, number), worked out from left to right modulo 19."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @cached_property
    def values(self) -> tuple[int, ...]:
        """The value after every step."""
        value, found = self.start, []
        for sign, k in self.steps:
            value = (value + k if sign == "+" else value - k if sign == "-" else value * k) % MODULUS
            found.append(value)
        return tuple(found)

    @property
    def answer(self) -> int:
        """The value after the last step."""
        return self.values[-1]

    @property
    def prompt(self) -> str:
        """The question, up to where a rationale begins."""
        asked = " , ".join(f"{letter} {sign} {k}" for letter, (sign, k) in zip(LETTERS, self.steps, strict=False))
        return f"start {self.start} , {asked} ?"

    def rationale(self, style: str = "wordy", *, seed: int | None = None) -> str:
        """A right rationale with its answer. Wordy ones choose their sentences by `seed`; None: the first wording.

        Raises: InputError for another style than "wordy" and "terse".
        """
        if style not in STYLES:
            raise InputError(f"style={style!r}: a rationale is {' or '.join(map(repr, STYLES))}.")
        rng = random.Random(seed)

        def form() -> str:
            return TERSE if style == "terse" else FIRST if seed is None else rng.choice((FIRST, SECOND))

        return self._said(form, lambda: style == "wordy" and seed is not None and rng.random() < 0.25)

    def mixed(self, rate: float, *, seed: int = 0) -> str:
        """A right rationale whose every step is wordy with the probability `rate`, and said again with half of it.

        Raises: InputError for a rate that is no probability.
        """
        if not 0 <= rate <= 1:
            raise InputError(f"rate={rate}: it is the share of steps that are said wordily, from 0 to 1.")
        rng = random.Random(seed)

        def form() -> str:
            return rng.choice((FIRST, SECOND)) if rng.random() < rate else TERSE

        return self._said(form, lambda: rng.random() < rate / 2)

    def _said(self, form: Callable[[], str], again: Callable[[], bool]) -> str:
        """Step by step: the sentence that `form` draws, and where `again` says so its value once more."""
        value, said = self.start, []
        for letter, (sign, k), r in zip(LETTERS, self.steps, self.values, strict=False):
            said.append(form().format(l=letter, v=value, word=SIGNS[sign], sign=sign, k=k, r=r))
            if again():
                said.append(AGAIN.format(r=r))
            value = r
        return " ".join([*said, f"answer {self.answer}"])


def chains(n: int, steps: int | tuple[int, int] = (2, 10), *, largest: int = MODULUS - 1, seed: int = 0) -> list[Chain]:
    """`n` chains of so many steps (or of a number between two), by numbers up to `largest`.

    Small numbers are common: k comes as often as 1 / k.
    Raises: InputError for no chains, a number of steps that letters do not reach, or no numbers.
    """
    low, high = (steps, steps) if isinstance(steps, int) else steps
    if n < 1 or not 1 <= low <= high <= len(LETTERS):
        raise InputError(f"chains({n}, steps={steps}): at least one, of 1 to {len(LETTERS)} steps.")
    if not 1 <= largest < MODULUS:
        raise InputError(f"largest={largest}: steps go by numbers from 1 to at most {MODULUS - 1}.")
    rng = random.Random(seed)
    numbers = range(1, largest + 1)
    common = [1 / k for k in numbers]

    def drawn() -> Chain:
        length = rng.randint(low, high)
        ks = rng.choices(numbers, common, k=length)
        return Chain(rng.randrange(MODULUS), tuple((rng.choice("+-*"), k) for k in ks))

    return [drawn() for _ in range(n)]


def answer_of(text: str) -> int | None:
    """The number after "answer", or None where the rationale never came to one."""
    found = _ANSWER.search(text)
    return int(found[1]) if found else None


def sentences_of(text: str) -> list[bool]:
    """Sentence by sentence of a rationale, is it wordy?"""
    return [end == "." for end in _END.findall(text.partition("answer")[0])]


def steps_of(text: str) -> list[int]:
    """The values that a rationale writes, step by step, right or wrong."""
    return [int(x) for x in _WRITTEN.findall(text.partition("answer")[0])]


def first_slip(chain: Chain, text: str) -> int | None:
    """The first step whose value is wrong, counted from 0, or None. A missing step counts as wrong."""
    said: Sequence[int] = steps_of(text)
    for i, value in enumerate(chain.values):
        if i >= len(said) or said[i] != value:
            return i
    return None
