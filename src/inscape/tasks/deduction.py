"""Two facts that together answer a question, in the pattern of bAbI's task 15, with others between them.

    wolves are afraid of mice . cats are afraid of wolves . gertrude is a wolf . mice are afraid of sheep .
    winona is a mouse . sheep are afraid of cats .
    what is gertrude afraid of ?                                                                       mice

Every kind fears another one of the story. Some names are never asked about unless `new_names` asks for them: what is
right about those was not learned by name. The words are few and parted by spaces, for the vocabulary of a toy net;
`english` is the same story for a language model, as a sentence to go on with.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from inscape.core.errors import InputError

KINDS = {"wolf": "wolves", "mouse": "mice", "cat": "cats", "sheep": "sheep", "dog": "dogs", "horse": "horses",
         "lion": "lions", "snake": "snakes"}  # fmt: skip
PLURALS = tuple(KINDS.values())
NAMES = ("gertrude", "winona", "emily", "jessica", "bernhard", "lily")
NEW_NAMES = ("brian", "wanda")
MOST_NAMES = 8  # in a story
_SAID = "are afraid of is a what . ?"
WORDS = (*KINDS, *(p for s, p in KINDS.items() if p != s), *NAMES, *NEW_NAMES, *_SAID.split())


@dataclass(frozen=True)
class Deduction:
    """fears: kind -> the kind it fears. creatures: name -> kind. order: the statements as told. asked: a name."""

    fears: tuple[tuple[str, str], ...]
    creatures: tuple[tuple[str, str], ...]
    order: tuple[str, ...]
    asked: str

    @property
    def kind(self) -> str:
        """What the one that is asked about is."""
        return dict(self.creatures)[self.asked]

    @property
    def answer(self) -> str:
        """What it is afraid of, in the plural."""
        return KINDS[dict(self.fears)[self.kind]]

    @property
    def wrong(self) -> tuple[str, ...]:
        """The other kinds of the story, in the plural; its own is the first."""
        return (KINDS[self.kind], *(KINDS[k] for k, _ in self.fears if k != self.kind and KINDS[k] != self.answer))

    @property
    def story(self) -> str:
        return " ".join(self.order)

    @property
    def prompt(self) -> str:
        """Story and question, after which the answer comes."""
        return f"{self.story} {question(self.asked)}"

    @property
    def english(self) -> str:
        """Story and the beginning of a sentence that ends with the answer (and its leading space)."""
        said = " ".join(f"{s[0].upper()}{s[1:-2]}." for s in self.order)
        for name, _ in self.creatures:
            said = said.replace(f"{name} is", f"{name.capitalize()} is")
        return f"{said} So {self.asked.capitalize()} is afraid of"


def question(name: str) -> str:
    return f"what is {name} afraid of ?"


def deductions(
    n: int, *, kinds: int | tuple[int, int] = 4, names: int | tuple[int, int] = (2, 4), new_names: bool = False,
    last: bool = False, seed: int = 0,
) -> list[Deduction]:  # fmt: skip
    """`n` stories of so many kinds and creatures (or of a number between two), asking about one of the creatures.

    new_names: ask about names that are never asked about otherwise; they stand in stories either way. last: what the
    one that is asked about is, is told last, so that it need not be found among the others.
    Raises: InputError for no stories, or numbers of kinds (2 to 8) or names (1 to 8) that there are not.
    """
    (few, most), (least, top) = (_range(x) for x in (kinds, names))
    if n < 1 or not 2 <= few <= most <= len(KINDS) or not 1 <= least <= top <= MOST_NAMES:
        raise InputError(
            f"deductions({n}, kinds={kinds}, names={names}): one story or more, of 2 to {len(KINDS)} kinds and 1 to "
            f"{MOST_NAMES} names."
        )
    rng = random.Random(f"deduction {seed}")
    return [_drawn(rng, rng.randint(few, most), rng.randint(least, top), new_names, last) for _ in range(n)]


def _drawn(rng: random.Random, n_kinds: int, n_names: int, new: bool, last: bool) -> Deduction:
    here = rng.sample(list(KINDS), n_kinds)
    fears = tuple((kind, rng.choice([k for k in here if k != kind])) for kind in here)
    asked = rng.choice(NEW_NAMES if new else NAMES)
    others = rng.sample([x for x in (*NAMES, *NEW_NAMES) if x != asked], n_names - 1)
    creatures = tuple((name, rng.choice(here)) for name in (asked, *others))
    order = [f"{KINDS[a]} are afraid of {KINDS[b]} ." for a, b in fears]
    order += [f"{name} is a {kind} ." for name, kind in creatures]
    told = rng.sample(order, len(order))
    if last:
        told.sort(key=lambda statement: statement.startswith(f"{asked} "))  # the rest stays in its order
    return Deduction(fears, creatures, tuple(told), asked)


def _range(given: int | Sequence[int]) -> tuple[int, int]:
    low, high = (given, given) if isinstance(given, int) else given
    return low, high
