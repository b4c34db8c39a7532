"""Indirect object identification: of two names, the one that was not said again.

    clean      When Mary and John went to the store, John gave a drink to        -> " Mary", not " John"
    corrupted  When Anna and Peter went to the store, Ruth gave a drink to       (corrupted="abc")
    corrupted  When Mary and John went to the store, Mary gave a drink to        (corrupted="swap")

The indirect object is what the sentence ends with; the subject is the name that comes twice.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from inscape.core.errors import InputError
from inscape.tasks.drafts import Draft, check_choice, check_fields, collect, fill
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import GIFTS, NAMES, PLACES

TEMPLATES = (
    "When {NAMES} went to the {_place}, {s2} gave a {_gift} to",
    "Then {NAMES} went to the {_place}, and {s2} gave a {_gift} to",
    "After {NAMES} met at the {_place}, {s2} handed a {_gift} to",
    "While {NAMES} were working at the {_place}, {s2} gave a {_gift} to",
    "Friends {NAMES} found a {_gift} at the {_place}, and {s2} gave it to",
)
ORDERS = {"ABBA": "{io} and {s1}", "BABA": "{s1} and {io}"}


def ioi(
    model: Any,
    n: int = 32,
    *,
    kind: str = "mixed",
    corrupted: str = "abc",
    templates: int | Sequence[str] = len(TEMPLATES),
    names: Sequence[str] = NAMES,
    seed: int = 0,
) -> Pairs:
    """Sentences in which one of two names returns; the answer is the other.

    Roles: io (the name that is the answer), s1 and s2 (the subject's first and second mention), s1_plus_1 (the token
    after s1), end. Facts: kind, template. Candidates are the two names, so chance is 1/2.
    model: an opened model or a tokenizer. kind: "ABBA" (the indirect object is named first), "BABA", or "mixed", half
    of each. corrupted: "abc", three other names, so that nothing is repeated; "swap", the indirect object returns in
    place of the subject, so that the other name is right. templates: how many of the five sentence forms to use, or
    forms of your own with {NAMES}, {s2}, {_place}, {_gift}. names: those of several tokens are left out.
    Raises: TokenError when fewer than five names are one token; InputError for another kind.
    Source: Wang et al. 2023, arXiv:2211.00593; other sentences and names here.
    """
    check_choice("ioi", "kind", kind, (*ORDERS, "mixed"))
    check_choice("ioi", "corrupted", corrupted, ("abc", "swap"))
    tokens = Tokens(model)
    kept, notes = tokens.singles(names, "names", after="When", at_least=5)
    forms = TEMPLATES[:templates] if isinstance(templates, int) else tuple(templates)
    if not forms:
        raise InputError(f"ioi(templates={templates!r}): at least one sentence form is needed.")
    for form in forms:
        check_fields("ioi", form, ("NAMES", "s2", "_place", "_gift"))
    drafts = _drafts(random.Random(seed), kept, forms, kind, corrupted)
    return collect(f"ioi {kind}", tokens, drafts, n, following={"s1_plus_1": "s1"}, notes=notes)


def _drafts(
    rng: random.Random, names: Sequence[str], forms: Sequence[str], kind: str, corrupted: str
) -> Iterator[Draft]:
    turn = 0
    while True:
        order = kind if kind in ORDERS else ("ABBA", "BABA")[turn % 2]
        turn += 1
        form = rng.choice(forms)
        template = form.replace("{NAMES}", ORDERS[order])
        place = {"_place": rng.choice(PLACES), "_gift": rng.choice(GIFTS)}
        io, s, a, b, c = rng.sample(list(names), 5)
        clean = fill(template, io=io, s1=s, s2=s, **place)
        other = (
            fill(template, io=a, s1=b, s2=c, **place)
            if corrupted == "abc"
            else fill(template, io=io, s1=s, s2=io, **place)
        )
        yield Draft(clean, other, f" {io}", f" {s}", facts={"kind": order, "template": form})
