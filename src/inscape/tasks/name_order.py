"""Which of two names came first: the question has one bit, and its answer is a name that was read.

    clean      At the market Mary spoke before John. The first one to speak was       -> " Mary", not " John"
    corrupted  At the market John spoke before Mary. The first one to speak was       -> " John"
    corrupted  At the market Mary spoke before John. The last one to speak was        -> " John"  (corrupted="ask")

Clean and corrupted hold the same words and differ in their order alone, or in the one word that asks: the pairs on
which a subspace for one bit can be looked for.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from inscape.core.errors import InputError
from inscape.tasks.drafts import Draft, check_choice, collect, fill
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import NAMES, PLACES

FORMS = (
    "At the {_place} {first} spoke before {second}. The {ask} one to speak was",
    "When {first} arrived at the {_place}, {second} was not there yet. The {ask} to arrive was",
    "In the queue at the {_place} {first} stands in front of {second}. The {ask} in the queue is",
)


def name_order(
    model: Any,
    n: int = 32,
    *,
    ask: str = "first",
    corrupted: str = "order",
    templates: int | Sequence[int] = len(FORMS),
    names: Sequence[str] = NAMES,
    seed: int = 0,
) -> Pairs:
    """Sentences with two names in an order, and the question who was first.

    Roles: first, second, ask (the word that asks), end. Facts: ask, template. Candidates are the two names, so chance
    is 1/2.
    model: an opened model or a tokenizer. ask: "first", "last", or "mixed", half of each. corrupted: "order", the names
    the other way round; "ask", the other question about the same sentence, so that one bit tells the two apart and the
    names do not. templates: how many of the three sentences to use, or which, (0, 2): find something with some of them,
    test it on the others.
    Raises: TokenError when fewer than two names are one token.
    """
    check_choice("name_order", "ask", ask, ("first", "last", "mixed"))
    check_choice("name_order", "corrupted", corrupted, ("order", "ask"))
    chosen = tuple(range(templates)) if isinstance(templates, int) else tuple(templates)
    if not chosen or not set(chosen) <= set(range(len(FORMS))):
        raise InputError(
            f"name_order(templates={templates!r}): there are {len(FORMS)} sentences, 0 to {len(FORMS) - 1}."
        )
    tokens = Tokens(model)
    kept, notes = tokens.singles(names, "names", after="When")
    return collect("name order", tokens, _drafts(random.Random(seed), kept, ask, corrupted, chosen), n, notes=notes)


def _drafts(
    rng: random.Random, names: Sequence[str], ask: str, corrupted: str, templates: Sequence[int]
) -> Iterator[Draft]:
    turn = 0
    while True:
        asked = ask if ask != "mixed" else ("first", "last")[turn % 2]
        turn += 1
        which = rng.choice(templates)
        place = rng.choice(PLACES)
        a, b = rng.sample(list(names), 2)
        clean = fill(FORMS[which], first=a, second=b, _place=place, ask=asked)
        if corrupted == "order":
            other = fill(FORMS[which], first=b, second=a, _place=place, ask=asked)
        else:
            other = fill(FORMS[which], first=a, second=b, _place=place, ask="last" if asked == "first" else "first")
        answer, wrong = (a, b) if asked == "first" else (b, a)
        yield Draft(clean, other, f" {answer}", f" {wrong}", facts={"ask": asked, "template": which})
