"""Ordered classes whose members are one token: days, months, numbers, letters, and who follows whom in them.

    >>> ordinals(model)[0]
    OrdinalClass(days, " Monday": 7 of 7, cyclic)
    >>> ordinals(model)[0].steps[:2]                     # rows of indices into the class: Monday -> Tuesday, ...
    tensor([[0, 1], [1, 2]])

A class is listed once for each way of writing it (after a space or not, capital or small) that the tokenizer has.
`succession` makes prompts of them: "Monday, Tuesday, Wednesday," -> " Thursday".
"""

import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.errors import TokenError
from inscape.tasks.drafts import Draft, Text, check_choice, check_range, collect
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import listed

CLASSES: dict[str, tuple[bool, tuple[str, ...]]] = {  # name -> (does the last lead to the first, members in order)
    "days": (True, listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")),
    "months": (
        True,
        listed("January February March April May June July August September October November December"),
    ),
    "seasons": (True, listed("spring summer autumn winter")),
    "letters": (False, tuple(string.ascii_uppercase)),
    "numerals": (False, tuple(map(str, range(201)))),
    "number words": (
        False,
        listed(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty"
        ),
    ),
    "tens": (False, listed("ten twenty thirty forty fifty sixty seventy eighty ninety")),
    "ordinal words": (
        False,
        listed(
            "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
            "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
        ),
    ),
    "roman numerals": (False, listed("I II III IV V VI VII VIII IX X XI XII XIII XIV XV XVI XVII XVIII XIX XX")),
}


@dataclass(frozen=True, eq=False)
class OrdinalClass:
    """Members of an ordered class that are one token each.

    words: as the tokenizer writes them, with their space. ids: their tokens. values: their places in the full class, of
    `size` members; members of several tokens leave gaps. cyclic: the last is followed by the first.
    """

    name: str
    words: tuple[str, ...]
    ids: Int[Tensor, " member"]
    values: tuple[int, ...]
    size: int
    cyclic: bool
    dropped: tuple[str, ...] = ()

    @property
    def steps(self) -> Int[Tensor, "step 2"]:
        """(member, its successor) for every member whose successor is here, as indices into the class."""
        at = {value: i for i, value in enumerate(self.values)}
        following = [(i, (v + 1) % self.size if self.cyclic else v + 1) for i, v in enumerate(self.values)]
        return torch.tensor([(i, at[v]) for i, v in following if v in at]).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.words)

    def __repr__(self) -> str:
        cyclic = ", cyclic" if self.cyclic else ""
        return f'OrdinalClass({self.name}, "{self.words[0]}": {len(self)} of {self.size}{cyclic})'


def ordinals(model: Any, *, names: Sequence[str] | None = None, at_least: int = 4) -> list[OrdinalClass]:
    """Every ordered class, in every way of writing it of which at least `at_least` members are one token.

    A way of writing is "Monday", " Monday", "monday" or " monday" as they are tokens in running text, with the space of
    a word in the middle of a sentence or without. `dropped` names the members of several tokens.
    model: an opened model or a tokenizer. names: of the classes; all of them when left out.
    Raises: TokenError when no class is left, with pieces of what was dropped.
    """
    tokens = Tokens(model)
    made, seen = [], set()
    for name in names or CLASSES:
        check_choice("ordinals", "names", name, tuple(CLASSES))
        cyclic, members = CLASSES[name]
        for space in (" ", ""):
            for change in (str, str.lower, str.title):
                words = [space + change(m) for m in members]
                if name == "roman numerals" and change is not str:
                    continue
                ids = [_alone(tokens, w) for w in words]
                kept = [i for i, x in enumerate(ids) if x is not None]
                key = (name, tuple(ids))  # a tokenizer without spaces or capitals knows fewer ways
                if len(kept) >= at_least and key not in seen:
                    seen.add(key)
                    chosen, left = (
                        tuple(words[i] for i in kept),
                        tuple(w for w, x in zip(words, ids, strict=True) if x is None),
                    )
                    at = torch.tensor([ids[i] for i in kept])
                    made.append(OrdinalClass(name, chosen, at, tuple(kept), len(members), cyclic, left))
    if not made:
        shown = "; ".join(f"{w!r} is {tokens.spelled(_tail(tokens, w))}" for w in (" Monday", " March", " 7"))
        raise TokenError(f"no ordered class has {at_least} members of one token here: {shown}.")
    return made


def succession(
    model: Any, n: int = 32, *, shown: int = 3, names: Sequence[str] = ("days", "months", "letters", "number words"),
    seed: int = 0,
) -> Pairs:  # fmt: skip
    """The next member of an ordered class after `shown` of them in order, with commas.

    Roles: shown_1 .. shown_n, end. Facts: class, value (of the answer). Candidates are the members of the class that
    are one token, so chance is one in 7 to 26. The corrupted prompt starts elsewhere in the same class.
    Raises: TokenError when no class has enough members of one token.
    """
    check_range("succession", "shown", shown, 1, 20)
    tokens = Tokens(model)
    found: dict[str, OrdinalClass] = {}
    for made in ordinals(model, names=names, at_least=1):
        if made.words[0][0] == " " and made.name not in found and _rivals(_chains(made, shown)):
            found[made.name] = made
    if not found:
        pieces = "; ".join(f"{w!r} is {tokens.spelled(_tail(tokens, w))}" for w in (" Monday", " March", " seven"))
        raise TokenError(f"none of {', '.join(names)} has enough members of one token in a row here: {pieces}.")
    drafts = _drafts(random.Random(seed), list(found.values()), shown)
    return collect("succession", tokens, drafts, n)


def _chains(members: OrdinalClass, shown: int) -> list[list[int]]:
    """Every run of `shown` members and the one after them, as indices into the class."""
    follows = {int(a): int(b) for a, b in members.steps}
    made = []
    for start in range(len(members)):
        chain = [start]
        while len(chain) <= shown and chain[-1] in follows:
            chain.append(follows[chain[-1]])
        if len(set(chain)) == shown + 1:
            made.append(chain)
    return made


def _rivals(chains: list[list[int]]) -> list[tuple[list[int], list[int]]]:
    """Runs two by two, such that what follows the second does not stand in the first."""
    return [(one, other) for one in chains for other in chains if other[-1] not in one]


def _drafts(rng: random.Random, classes: Sequence[OrdinalClass], shown: int) -> Iterator[Draft]:
    rivals = {made.name: _rivals(_chains(made, shown)) for made in classes}
    while True:
        members = rng.choice(classes)
        one, other = rng.choice(rivals[members.name])
        yield Draft(
            _listed(members, one[:-1]), _listed(members, other[:-1]), members.words[one[-1]], members.words[other[-1]],
            members.words, facts={"class": members.name, "value": members.values[one[-1]]},
        )  # fmt: skip


def _listed(members: OrdinalClass, chain: Sequence[int]) -> Text:
    text, spans = "", {}
    for i, member in enumerate(chain, 1):
        word = members.words[member].lstrip() if i == 1 else members.words[member]
        start = len(text) + (word[0] == " ")
        text += word + ","
        spans[f"shown_{i}"] = [(start, len(text) - 1)]
    return Text(text, spans)


def _tail(tokens: Tokens, word: str) -> tuple[int, ...]:
    return tokens.ids("the" + word)[len(tokens.ids("the")) :]


def _alone(tokens: Tokens, word: str) -> int | None:
    """The token of a word: in running text where it starts with a space, by itself where it does not."""
    if word[0] == " ":
        try:
            return tokens.one("the", word)
        except TokenError:
            return None
    plain = tokens.ids(word)[len(tokens.ids("")) :]
    return plain[0] if len(plain) == 1 and not tokens.unknown(word) else None
