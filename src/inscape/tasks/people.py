"""Made-up people of whom three things are known, so that what a net answers about them is known to be right or wrong.

    "Anna Bell :"    -> "lives in Oslo , works as baker , likes soup ."

First and last names recur, people do not. How often each is told decides whether a net can know them; of some nothing
is ever told, and what it says about those is made up.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from inscape.core.errors import InputError

FIRST, LAST, CITIES, JOBS, FOODS = (
    tuple(line.split())
    for line in (
        "Anna Boris Clara David Elena Felix Greta Hugo Irene Jonas Karin Leo Maria Nils Olga Paul Quinn Rosa Stefan "
        "Tina Ulrich Vera Walter Xenia",
        "Bell Castro Dahl Egger Falk Grant Hahn Ibsen Jensen Klein Lang Moss Noble Ortiz Pratt Quist Reed Stone Thorn "
        "Unger Vance Wolf Young Zorn",
        "Oslo Rome Lima Cairo Delhi Kyoto Quito Paris Dakar Perth Milan Turin Basel Ghent Malmo Porto",
        "baker nurse pilot judge miner farmer tailor singer",
        "soup rice bread cheese figs plums nuts fish",
    )
)
TOLD = (0, 1, 2, 4, 8, 16)  # how often a person is told of, all as common


@dataclass(frozen=True)
class Person:
    """prompt and answer in words; told: how often the training text has them."""

    prompt: str
    answer: str
    told: int


def people(n: int = 400, *, told: Sequence[int] = TOLD, seed: int = 0) -> list[Person]:
    """Different people, each told of as often as its turn in `told` says. Raises: InputError for more than 576."""
    names = list(itertools.product(FIRST, LAST))
    if not 1 <= n <= len(names):
        raise InputError(f"n={n}: there are {len(names)} names.")
    rng = random.Random(f"people {seed}")
    rng.shuffle(names)
    return [
        Person(
            f"{first} {last} :",
            f"lives in {rng.choice(CITIES)} , works as {rng.choice(JOBS)} , likes {rng.choice(FOODS)} .",
            told[i % len(told)],
        )
        for i, (first, last) in enumerate(names[:n])
    ]


def words() -> tuple[str, ...]:
    """Every word of this task, once."""
    frame = (":", "lives", "in", ",", "works", "as", "likes", ".")
    return tuple(dict.fromkeys([*FIRST, *LAST, *CITIES, *JOBS, *FOODS, *frame]))
