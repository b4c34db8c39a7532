"""Facts a language model may know: a subject, a relation, and the object that completes the sentence.

    clean      The capital of France is the city of      -> " Paris", not " Rome"
    corrupted  The capital of Italy is the city of       -> " Rome"

The relations are capital, language, continent and opposite. The corrupted prompt has another subject of as many tokens.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from inscape.core.errors import TokenError
from inscape.tasks.drafts import Draft, Text, check_choice, collect, fill
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens


@dataclass(frozen=True)
class Relation:
    """Sentences with {subject} that end where the object follows, and the objects of its subjects."""

    templates: tuple[str, ...]
    table: dict[str, str]


def _table(text: str) -> dict[str, str]:
    return dict(line.strip().split(": ") for line in text.split(";"))


CAPITALS = _table(
    "France: Paris; Italy: Rome; Spain: Madrid; Germany: Berlin; England: London; Japan: Tokyo; Russia: Moscow; China: "
    "Beijing; Egypt: Cairo; Greece: Athens; Austria: Vienna; Portugal: Lisbon; Ireland: Dublin; Norway: Oslo; Sweden: "
    "Stockholm; Poland: Warsaw; Cuba: Havana; Iraq: Baghdad; Iran: Tehran; Turkey: Ankara; Canada: Ottawa; Peru: Lima; "
    "Kenya: Nairobi; Finland: Helsinki; Denmark: Copenhagen; Hungary: Budapest; Thailand: Bangkok; Vietnam: Hanoi; "
    "Belgium: Brussels; Syria: Damascus; Lebanon: Beirut; Scotland: Edinburgh; Ukraine: Kiev; Bulgaria: Sofia"
)
LANGUAGES = _table(
    "France: French; Italy: Italian; Spain: Spanish; Germany: German; England: English; Japan: Japanese; Russia: "
    "Russian; China: Chinese; Egypt: Arabic; Greece: Greek; Austria: German; Portugal: Portuguese; Poland: Polish; "
    "Sweden: Swedish; Brazil: Portuguese; Mexico: Spanish; Turkey: Turkish; Hungary: Hungarian; Denmark: Danish; "
    "Vietnam: Vietnamese; Korea: Korean; Cuba: Spanish; Argentina: Spanish; Australia: English; Syria: Arabic; "
    "Thailand: Thai; Ukraine: Ukrainian; Norway: Norwegian"
)
CONTINENTS = _table(
    "France: Europe; Italy: Europe; Spain: Europe; Germany: Europe; Poland: Europe; Sweden: Europe; Norway: Europe; "
    "Greece: Europe; Austria: Europe; Japan: Asia; China: Asia; India: Asia; Thailand: Asia; Vietnam: Asia; "
    "Korea: Asia; "
    "Iran: Asia; Iraq: Asia; Nepal: Asia; Kenya: Africa; Nigeria: Africa; Ghana: Africa; Morocco: Africa; "
    "Sudan: Africa; "
    "Uganda: Africa; Ethiopia: Africa; Tunisia: Africa"
)
OPPOSITES = _table(
    "hot: cold; big: small; long: short; up: down; left: right; black: white; day: night; good: bad; open: closed; "
    "old: new; rich: poor; hard: soft; fast: slow; high: low; light: dark; happy: sad; full: empty; strong: weak; "
    "first: last; early: late; wet: dry; true: false; more: less; war: peace; begin: end; inside: outside; "
    "north: south; east: west; love: hate; buy: sell"
)
RELATIONS = {
    "capital": Relation(("The capital of {subject} is the city of", "{subject}'s capital is the city of"), CAPITALS),
    "language": Relation(("The people of {subject} speak", "In {subject}, most people speak"), LANGUAGES),
    "continent": Relation(
        ("The country of {subject} lies in the continent of", "{subject} is a country in"), CONTINENTS
    ),
    "opposite": Relation(("The opposite of {subject} is", "The word {subject} means the opposite of"), OPPOSITES),
}


def facts(
    model: Any,
    n: int | None = None,
    *,
    relation: str = "capital",
    templates: int = 1,
    swapped: bool = False,
    seed: int = 0,
) -> Pairs:
    """Subject and object of one relation; the corrupted prompt asks for another subject's object.

    Roles: subject, end. Facts: relation, template, subject. Candidates are all objects of the relation, so chance is
    one in 3 to 34; `answered_by` says which of them a model knows.
    model: an opened model or a tokenizer. n: that many of them, drawn; all that fit when None. relation: "capital",
    "language", "continent", "opposite". templates: how many of its two sentences to use. swapped: every object is a
    wrong one, so that the "right" answers are false: the control for what a metric gives without knowledge.
    Raises: TokenError when no two objects are one token; InputError for more pairs than there are.
    """
    check_choice("facts", "relation", relation, tuple(RELATIONS))
    check_choice("facts", "templates", templates, (1, 2))
    tokens, rng = Tokens(model), random.Random(seed)
    table = RELATIONS[relation].table
    kept, notes = tokens.singles(sorted(set(table.values())), f"objects of {relation!r}", after="is")
    known = {subject: o for subject, o in table.items() if o in kept}
    if swapped:
        known = _swapped(rng, known)
    drafts = _drafts(rng, tokens, known, relation, templates)
    return collect(f"facts: {relation}", tokens, drafts, n, notes=notes)


def _drafts(
    rng: random.Random, tokens: Tokens, known: dict[str, str], relation: str, templates: int
) -> Iterator[Draft]:
    forms = RELATIONS[relation].templates[:templates]
    candidates = tuple(f" {o}" for o in sorted(set(known.values())))
    asked = [(subject, form) for form in forms for subject in known]
    rng.shuffle(asked)
    for subject, form in asked:
        clean = fill(form, subject=subject)
        others = [
            (s, text)
            for s, o in known.items()
            if o != known[subject] and _alike(tokens, clean, text := fill(form, subject=s))
        ]
        if others:  # a subject of as many tokens and another object
            other, corrupted = rng.choice(others)
            yield Draft(
                clean, corrupted, f" {known[subject]}", f" {known[other]}", candidates,
                facts={"relation": relation, "template": form, "subject": subject},
            )  # fmt: skip


def _alike(tokens: Tokens, one: Text, other: Text) -> bool:
    try:
        return len(tokens.ids(one.text)) == len(tokens.ids(other.text))
    except TokenError:
        return False


def _swapped(rng: random.Random, known: dict[str, str]) -> dict[str, str]:
    """Every subject with an object that is not its own, drawn among the others as often as they occur."""
    objects: Sequence[str] = list(known.values())
    return {s: rng.choice([o for o in objects if o != own]) for s, own in known.items()}
