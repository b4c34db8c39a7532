"""Which of two names came first: the question has one bit, and its answer is a name that was read.

    clean      At the market Mary spoke before John. The first one to speak was       -> " Mary", not " John"
    corrupted  At the market John spoke before Mary. The first one to speak was       -> " John"

Clean and corrupted hold the same words and differ in their order alone, so that nothing but the order can tell them
apart: the pairs on which a subspace for "who was first" can be looked for.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from inscape.tasks.drafts import Draft, check_choice, collect, fill
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import NAMES, PLACES

FORMS = (
    "At the {_place} {first} spoke before {second}. The {_ask} one to speak was",
    "When {first} arrived at the {_place}, {second} was not there yet. The {_ask} to arrive was",
    "In the queue at the {_place} {first} stands in front of {second}. The {_ask} in the queue is",
)


def name_order(
    model: Any,
    n: int = 32,
    *,
    ask: str = "first",
    templates: int = len(FORMS),
    names: Sequence[str] = NAMES,
    seed: int = 0,
) -> Pairs:
    """Sentences with two names in an order, and the question who was first.

    Roles: first, second, end. Facts: ask, template. Candidates are the two names, so chance is 1/2. The corrupted
    prompt has them the other way round.
    model: an opened model or a tokenizer. ask: "first", "last", or "mixed", half of each. templates: how many of the
    three sentences to use: find something with one, test it on the others.
    Raises: TokenError when fewer than two names are one token.
    """
    check_choice("name_order", "ask", ask, ("first", "last", "mixed"))
    check_choice("name_order", "templates", templates, (1, 2, 3))
    tokens = Tokens(model)
    kept, notes = tokens.singles(names, "names", after="When")
    return collect("name order", tokens, _drafts(random.Random(seed), kept, ask, templates), n, notes=notes)


def _drafts(rng: random.Random, names: Sequence[str], ask: str, templates: int) -> Iterator[Draft]:
    turn = 0
    while True:
        asked = ask if ask != "mixed" else ("first", "last")[turn % 2]
        turn += 1
        which = rng.randrange(templates)
        rest = {"_place": rng.choice(PLACES), "_ask": asked}
        a, b = rng.sample(list(names), 2)
        clean, corrupted = fill(FORMS[which], first=a, second=b, **rest), fill(FORMS[which], first=b, second=a, **rest)
        answer, wrong = (a, b) if asked == "first" else (b, a)
        yield Draft(clean, corrupted, f" {answer}", f" {wrong}", facts={"ask": asked, "template": which})
