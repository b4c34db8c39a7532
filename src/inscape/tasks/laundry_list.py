"""Laundry list: a list of things, all but one of them again, and which one is left.

    clean      Anna needs to buy milk, bread, rice, and soap. So far Anna has bought rice, milk, and soap. The only
               thing left to buy is                                        -> " bread", not " soap"
    corrupted  Anna needs to buy milk, bread, rice, and soap. So far Anna has bought rice, milk, and bread. The only
               thing left to buy is                                        -> " soap"

One word differs between the two prompts. From 3 to 20 things.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from inscape.tasks.drafts import Draft, Text, check_range, collect
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import NAMES, SHOPPING

FORMS = (
    "{name} needs to buy {ITEMS}. So far {name} has bought {BOUGHT}. The only thing left to buy is",
    "{name}'s shopping list says {ITEMS}. In the basket there are already {BOUGHT}. What is missing is",
    "{name} went out to get {ITEMS}. {name} came back with {BOUGHT}. {name} forgot the",
)


def laundry_list(
    model: Any,
    n: int = 32,
    *,
    items: int = 5,
    templates: int = 1,
    things: Sequence[str] = SHOPPING,
    shuffle: bool = True,
    seed: int = 0,
) -> Pairs:
    """The one thing of a list that is not named again.

    Roles: item_1 .. item_n (the list, in order), items (all of them), missing and rival (where the answer, and the
    answer of the corrupted prompt, stand in the list), bought (all things named again), changed (the one word in which
    the prompts differ), end. Facts: missing (its place in the list, from 1), template. Candidates are the things of the
    list, so chance is 1 / items. Each place is missing equally often.
    model: an opened model or a tokenizer. items: 3 to 20. templates: how many of the three wordings. shuffle: the
    things bought come in another order than in the list.
    Raises: TokenError when fewer than `items` things are one token; InputError for lists of other lengths.
    Source: Merullo et al. 2024, arXiv:2406.09519; wording and things here.
    """
    check_range("laundry_list", "items", items, 3, 20)
    check_range("laundry_list", "templates", templates, 1, len(FORMS))
    tokens = Tokens(model)
    kept, notes = tokens.singles(things, "things", at_least=items)
    names, more = tokens.singles(NAMES, "names", after="When", at_least=1)
    drafts = _drafts(random.Random(seed), kept, names, items, templates, shuffle)
    return collect(f"laundry list of {items}", tokens, drafts, n, notes=(*notes, *more))


def _drafts(
    rng: random.Random, things: Sequence[str], names: Sequence[str], items: int, templates: int, shuffle: bool
) -> Iterator[Draft]:
    turn = 0
    while True:
        missing = turn % items
        turn += 1
        listed = rng.sample(list(things), items)
        bought = [x for i, x in enumerate(listed) if i != missing]
        if shuffle:
            rng.shuffle(bought)
        changed = rng.randrange(items - 1)
        rival = listed.index(bought[changed])
        name, form = rng.choice(list(names)), rng.randrange(templates)
        clean = _text(form, name, listed, bought, changed, {"missing": missing, "rival": rival})
        swapped = [listed[missing] if i == changed else x for i, x in enumerate(bought)]
        corrupted = _text(form, name, listed, swapped, changed, {})
        yield Draft(
            clean, corrupted, f" {listed[missing]}", f" {listed[rival]}", tuple(f" {x}" for x in listed),
            facts={"missing": missing + 1, "template": form},
        )  # fmt: skip


def _text(form: int, name: str, listed: Sequence[str], bought: Sequence[str], changed: int, at: dict[str, int]) -> Text:
    before, between, after = FORMS[form].replace("{name}", name).replace("{BOUGHT}", "{ITEMS}").split("{ITEMS}")
    text, first = _joined(before, listed)
    text, second = _joined(text + between, bought)
    spans = {f"item_{i + 1}": [s] for i, s in enumerate(first)}
    spans |= {role: [first[i]] for role, i in at.items()}
    return Text(text + after, spans | {"items": first, "bought": second, "changed": [second[changed]]})


def _joined(text: str, words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The text with the words after it, listed with commas and 'and'; where each of them stands."""
    spans = []
    for i, word in enumerate(words):
        if i:
            text += (", and " if len(words) > 2 else " and ") if i == len(words) - 1 else ", "
        spans.append((len(text), len(text) + len(word)))
        text += word
    return text, spans
