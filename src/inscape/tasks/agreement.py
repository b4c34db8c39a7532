"""Subject and verb agree in number, whatever noun stands between them.

    clean      The keys near the cabinet            -> " are", " were", " have", not " is", " was", " has"
    corrupted  The key near the cabinet             -> " is", " was", " has"

The noun between subject and verb, the attractor, has the other number in half of the pairs.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from inscape.tasks.drafts import Draft, Text, check_choice, collect, fill
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import NOUNS

LINKS = ("near", "behind", "beside", "above", "under")
VERBS = {"singular": (" is", " was", " has"), "plural": (" are", " were", " have")}


def agreement(
    model: Any, n: int = 32, *, attractors: int = 1, number: str = "mixed", nouns: Sequence[str] = NOUNS, seed: int = 0
) -> Pairs:
    """The number of the verb after a subject and `attractors` (0 to 2) nouns that are not its subject.

    Roles: subject, attractor_1, attractor_2, end. Facts: number (of the subject), attractor ("same" number as the
    subject, "other", or "none"). Answers are three verbs of one number against three of the other, as sets, so chance
    is 1/2. The corrupted prompt has the subject in the other number, all else equal.
    model: an opened model or a tokenizer. number: of the attractors, "same" or "other" as the subject's, or "mixed",
    half of each.
    Raises: TokenError when fewer than four nouns are one token in both numbers.
    Source: Linzen et al. 2016, arXiv:1611.01368; sentences here.
    """
    check_choice("agreement", "attractors", attractors, (0, 1, 2))
    check_choice("agreement", "number", number, ("same", "other", "mixed"))
    tokens = Tokens(model)
    one, notes = tokens.singles(nouns, "nouns", after="The", at_least=4)
    many, more = tokens.singles([f"{x}s" for x in one], "plural nouns", after="The", at_least=4)
    both = [x for x in one if f"{x}s" in many]
    drafts = _drafts(random.Random(seed), both, attractors, number)
    return collect("agreement", tokens, drafts, n, notes=(*notes, *more))


def _drafts(rng: random.Random, nouns: Sequence[str], attractors: int, number: str) -> Iterator[Draft]:
    template = "The {subject}" + "".join(f" {{_link_{i}}} the {{attractor_{i}}}" for i in range(1, attractors + 1))
    turn = 0
    while True:
        plural = bool(turn % 2)
        other = number == "other" or (number == "mixed" and turn // 2 % 2 == 1)
        turn += 1
        subject, *rest = rng.sample(list(nouns), attractors + 1)
        words = {f"_link_{i}": rng.choice(LINKS) for i in range(1, attractors + 1)}
        words |= {f"attractor_{i}": _in(noun, plural != other) for i, noun in enumerate(rest, 1)}

        def text(plural: bool, subject: str = subject, words: dict[str, str] = words) -> Text:
            return fill(template, subject=_in(subject, plural), **words)

        right, wrong = VERBS["plural" if plural else "singular"], VERBS["singular" if plural else "plural"]
        which = rng.randrange(len(right))
        facts = {
            "number": "plural" if plural else "singular",
            "attractor": ("other" if other else "same") if attractors else "none",
        }
        yield Draft(text(plural), text(not plural), right[which], wrong[which], (*right, *wrong), right, facts)


def _in(noun: str, plural: bool) -> str:
    return f"{noun}s" if plural else noun
