"""Greater-than: a span of years ends later than it begins, so every later year is right.

    clean      The war lasted from the year 1732 to the year 17      -> "33" to "99", not "00" to "32"
    corrupted  The war lasted from the year 1701 to the year 17      -> every year but one is later

Where the tokenizer writes years digit by digit (" ", "1", "7", "3", "2") the answer is the digit of the decade: after
1732 right are "4" to "9" and wrong "0" to "2"; "3" is left out, as 1731 is earlier and 1733 later.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from inscape.core.errors import TokenError
from inscape.tasks.drafts import Draft, collect, fill
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import EVENTS

TEMPLATE = "The {event} lasted from the year {start_century}{start_year} to the year {end_century}"
CENTURIES = tuple(range(11, 20))


def greater_than(model: Any, n: int = 32, *, events: Sequence[str] = EVENTS, seed: int = 0) -> Pairs:
    """Years later than a given one, two digits (or the first of them) as one token.

    Roles: event, start_century ("17"), start_year ("32"), end_century, end. Facts: century, year, digits (2 or 1).
    Every right and wrong year is a candidate: `answer_sets` are the later ones. `answers` and `wrong` are one of each,
    drawn; for the published measure, probability of the later years minus that of the others, sum over the sets.
    model: an opened model or a tokenizer.
    Raises: TokenError when neither two digits nor one continue the century as one token.
    Source: Hanna et al. 2023, arXiv:2305.00586; the form for digit tokens is ours.
    """
    tokens = Tokens(model)
    found = {c: _endings(tokens, c) for c in CENTURIES}
    wide = max((len(x[0]) for x in found.values()), default=0)
    digits = 2 if wide else 1
    usable = {c: x[2 - digits] for c, x in found.items() if len(x[2 - digits]) >= 10}
    if not usable:
        prompt = fill(TEMPLATE, event="war", start_century=17, start_year=32, end_century=17).text
        pieces = tokens.spelled(tokens.ids(prompt + "45")[-4:])
        raise TokenError(f"years are not continued by one token here: '...the year 1745' ends with {pieces}.")
    return collect("greater than", tokens, _drafts(random.Random(seed), events, usable, digits), n)


def _endings(tokens: Tokens, century: int) -> tuple[list[str], list[str]]:
    """Two-digit endings and one-digit ones that are one token after this century."""
    prompt = fill(TEMPLATE, event="war", start_century=century, start_year=32, end_century=century).text
    return tokens.ones(prompt, [f"{y:02d}" for y in range(100)]), tokens.ones(prompt, list("0123456789"))


def _drafts(
    rng: random.Random, events: Sequence[str], usable: dict[int, list[str]], digits: int
) -> Iterator[Draft | None]:
    while True:
        event, century, year = rng.choice(list(events)), rng.choice(list(usable)), rng.randrange(2, 99)
        later = tuple(e for e in usable[century] if int(e) > year // 10 ** (2 - digits))
        # two digits: the year itself is no later one; one digit: the same decade holds earlier and later years
        others = tuple(e for e in usable[century] if int(e) < year // 10 ** (2 - digits) + (digits == 2))
        words = {"event": event, "start_century": century, "end_century": century}
        if not later or not others:
            yield None
        else:
            yield Draft(
                fill(TEMPLATE, **words, start_year=f"{year:02d}"), fill(TEMPLATE, **words, start_year="01"),
                rng.choice(later), rng.choice(others), later + others, later,
                facts={"century": century, "year": year, "digits": digits},
            )  # fmt: skip
