"""Colored objects: three things of three colours, and the question what colour one of them is.

    Q: On the table, I see a red cup, a blue book, and a black pin. What color is the book?
    A: Blue

    Q: On the floor, there is a green lamp, an orange hat, and a white fork. What color is the hat?
    A:                                                    -> " Orange", not " White"

The corrupted prompt asks for another of the three, and differs in that one word. The worked example uses other things
and other colours than the question.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from inscape.tasks.drafts import Draft, Text, after, check_choice, check_range, collect, fill
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import COLOURS, OBJECTS

SURFACES = ("table", "floor", "desk", "shelf", "bed")
SIGHTS = ("there is", "I see", "you see")
ORDER = ("first", "second", "third")
QUESTION = (
    "Q: On the {_surface}, {_sight} {_a1} {colour_1} {object_1}, {_a2} {colour_2} {object_2}, and {_a3} {colour_3} "
    "{object_3}. What color is the {queried}?\nA:"
)


def colored_objects(
    model: Any,
    n: int = 32,
    *,
    shots: int = 1,
    ask: str = "mixed",
    objects: Sequence[str] = OBJECTS,
    colours: Sequence[str] = COLOURS,
    seed: int = 0,
) -> Pairs:
    """The colour of one of three objects, after `shots` worked examples.

    Roles: object_1..3 and colour_1..3 in the order of the list, queried (the object as it is asked for), right_object,
    right_colour, wrong_colour (where the answer, and the answer of the corrupted prompt, stand in the list), end.
    Facts: asked (1 to 3). Candidates are the three colours, so chance is 1/3.
    model: an opened model or a tokenizer. ask: "first", "second", "third", or "mixed", each as often.
    Raises: TokenError when fewer than six colours or objects are one token.
    Source: Merullo et al. 2023, arXiv:2310.08744; objects, surfaces and wording here.
    """
    check_choice("colored_objects", "ask", ask, (*ORDER, "mixed"))
    check_range("colored_objects", "shots", shots, 0, 8)
    tokens = Tokens(model)
    kept, notes = tokens.singles(objects, "objects", at_least=6)
    small, more = tokens.singles(colours, "colours", at_least=6)
    large, most = tokens.singles([c.capitalize() for c in small], "capitalised colours", after="A:", at_least=6)
    known = [c for c in small if c.capitalize() in large]
    drafts = _drafts(random.Random(seed), kept, known, shots, ask)
    return collect("colored objects", tokens, drafts, n, notes=(*notes, *more, *most))


def _drafts(
    rng: random.Random, objects: Sequence[str], colours: Sequence[str], shots: int, ask: str
) -> Iterator[Draft]:
    turn = 0
    while True:
        asked = ORDER.index(ask) if ask in ORDER else turn % 3
        turn += 1
        things, hues = rng.sample(list(objects), 3), rng.sample(list(colours), 3)
        others = [x for x in objects if x not in things], [c for c in colours if c not in hues]
        before = ""
        for _ in range(shots):
            what, how, which = rng.sample(others[0], 3), rng.sample(others[1], 3), rng.randrange(3)
            before += f"{_question(rng, what, how, which).text} {how[which].capitalize()}\n\n"
        wrong = rng.choice([i for i in range(3) if i != asked])
        state = rng.getstate()
        clean = _question(rng, things, hues, asked)
        rng.setstate(state)  # the same surface and sight
        corrupted = _question(rng, things, hues, wrong)
        spans = dict(clean.spans) | {
            "right_object": clean.spans[f"object_{asked + 1}"],
            "right_colour": clean.spans[f"colour_{asked + 1}"],
            "wrong_colour": clean.spans[f"colour_{wrong + 1}"],
        }
        names = [f" {c.capitalize()}" for c in hues]
        yield Draft(
            after(before, Text(clean.text, spans)), after(before, corrupted), names[asked], names[wrong],
            tuple(names), facts={"asked": asked + 1},
        )  # fmt: skip


def _question(rng: random.Random, things: Sequence[str], hues: Sequence[str], asked: int) -> Text:
    words = {"_surface": rng.choice(SURFACES), "_sight": rng.choice(SIGHTS), "queried": things[asked]}
    for i in range(3):
        article = "an" if hues[i][0] in "aeiou" else "a"
        words |= {f"_a{i + 1}": article, f"colour_{i + 1}": hues[i], f"object_{i + 1}": things[i]}
    return fill(QUESTION, **words)
