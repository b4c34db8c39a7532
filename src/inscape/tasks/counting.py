"""Counting inside a word: letters, a piece of it, its length, its different letters.

    clean      How many times does the letter "r" occur in the word "strawberry"? Answer:     -> " 3", not " 1"
    corrupted  How many times does the letter "b" occur in the word "strawberry"? Answer:     -> " 1"

`count_items` makes the questions, `Item.render` writes one in a setting (the word with hyphens, in capitals, ...), and
`Item.check` and `integer_in` judge a written answer; `counting` makes prompt pairs of them for a model.
"""

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from inscape.core.errors import InputError
from inscape.tasks.drafts import Draft, Text, check_choice, collect, fill
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import LONG_WORDS, listed

QUESTIONS = {
    "letter": 'How many times does the letter "{_target}" occur in the word "{word}"?',
    "substring": 'How many times does "{_target}" occur in the word "{word}"?',
    "length": 'How many letters does the word "{word}" have?',
    "distinct": 'How many different letters does the word "{word}" have?',
}
SETTINGS = ("plain", "spaces", "hyphens", "list", "capitals")
NUMBERS = listed("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen")


@dataclass(frozen=True)
class Item:
    """One question and its right count. target: the letter or piece asked for, "" where the kind has none."""

    kind: str
    word: str
    target: str
    count: int

    def render(self, setting: str = "plain") -> str:
        """The question with the word in a setting: "plain", "spaces" (w o r d), "hyphens", "list", "capitals"."""
        return fill(QUESTIONS[self.kind], word=_set(self.word, setting), _target=_set(self.target, setting)).text

    def check(self, text: str) -> bool | None:
        """Does a written answer give the right count? None when it holds no number (a parse failure, not an error)."""
        found = integer_in(text)
        return None if found is None else found == self.count


def count_of(kind: str, word: str, target: str = "") -> int:
    """The right answer. A piece is counted wherever it starts, so that occurrences may overlap: "aa" is in "aaa" twice.

    Raises: InputError for an unknown kind, an empty target, a letter of several characters, a word with other signs
    than letters.
    """
    check_choice("count_of", "kind", kind, tuple(QUESTIONS))
    if not word.isalpha():
        raise InputError(f"{word!r} holds signs that are no letters; counting has no rule for them.")
    if kind in ("length", "distinct"):
        return len(word) if kind == "length" else len(set(word.lower()))
    if not target or (kind == "letter" and len(target) != 1):
        raise InputError(f"count_of({kind!r}, {word!r}, {target!r}): the {kind} to count has no length it can have.")
    low, piece = word.lower(), target.lower()
    return sum(low.startswith(piece, i) for i in range(len(low)))


def integer_in(text: str) -> int | None:
    """The number that a written answer gives, or None: the one after the last "answer" or "=", else the last one.

    Digits and number words up to fifteen are understood; signs, decimals and digits in words ("b2b") are not counted.
    """
    word = rf"(?<![\w.,-])(\d+|{'|'.join(NUMBERS)})(?![\w]|[.,]\d)"
    marked = list(re.finditer(rf"(?:answer(?: is)?|=)\W*?{word}", text, re.IGNORECASE))
    found = marked or list(re.finditer(word, text, re.IGNORECASE))
    if not found:
        return None
    said = found[-1].group(1).lower()
    return NUMBERS.index(said) if said in NUMBERS else int(said)


def count_items(
    kind: str = "letter", n: int = 32, *, words: Sequence[str] = LONG_WORDS, balance: bool = True, seed: int = 0
) -> list[Item]:
    """n different questions, drawn; with `balance` each count is as frequent as the words allow.

    Raises: InputError when there are not as many different questions.
    """
    rng = random.Random(seed)
    every = _every(kind, words, rng)
    if not 1 <= n <= len(every):
        raise InputError(f"count_items({kind!r}, {n}): these {len(words)} words give 1 to {len(every)} questions.")
    chosen = list(itertools.islice(_in_turn(every, rng), n)) if balance else every[:n]
    rng.shuffle(chosen)
    return chosen


def _every(kind: str, words: Sequence[str], rng: random.Random) -> list[Item]:
    """All questions there are, in an order that is drawn."""
    check_choice("count_items", "kind", kind, tuple(QUESTIONS))
    asked = [(word, target) for word in dict.fromkeys(words) for target in _targets(kind, word, rng)]
    rng.shuffle(asked)
    return [Item(kind, word, target, count_of(kind, word, target)) for word, target in asked]


def _in_turn(items: Sequence[Item], rng: random.Random) -> Iterator[Item]:
    """One of each count in turn, until they run out."""
    by_count: dict[int, list[Item]] = {}
    for item in items:
        by_count.setdefault(item.count, []).append(item)
    while by_count:
        for count in rng.sample(sorted(by_count), len(by_count)):
            yield by_count[count].pop()
            if not by_count[count]:
                del by_count[count]


def counting(
    model: Any,
    n: int = 32,
    *,
    kind: str = "letter",
    setting: str = "plain",
    words: Sequence[str] = LONG_WORDS,
    balance: bool = True,
    seed: int = 0,
) -> Pairs:
    """Counting questions whose answer is one token; the corrupted prompt has another count.

    Corrupted is another letter or piece of the same word; for "length" and "distinct" another word of as many tokens.
    Roles: word, end. Facts: kind, word, target, count. Candidates are 0 to the largest count asked for; chance is one
    in as many, which with `balance` is about what always saying one count gives too.
    model: an opened model or a tokenizer. setting: see `Item.render`.
    Raises: TokenError when counts are not one token, or nothing fits; InputError for other kinds and settings.
    """
    tokens, rng = Tokens(model), random.Random(seed)
    every = _every(kind, words, rng)
    if balance:
        every = list(_in_turn(every, rng))
    end, space = tokens.ending(f"{every[0].render(setting)} Answer:", "3")
    drafts = _drafts(rng, tokens, every, setting, end, space)
    return collect(f"counting {kind}, {setting}", tokens, drafts, n)


def _targets(kind: str, word: str, rng: random.Random) -> list[str]:
    """What is asked of a word: each of its letters and one that it has not; its pieces of two letters and one other."""
    if kind in ("length", "distinct"):
        return [""]
    if kind == "letter":
        absent = [c for c in "abcdefghijklmnopqrstuvwxyz" if c not in word.lower()]
        return [*sorted(set(word.lower())), rng.choice(absent)]
    pieces = sorted({word[i : i + 2].lower() for i in range(len(word) - 1)})
    return [*pieces, next(p for p in ("qz", "jx", "vq") if p not in pieces)]


def _set(word: str, setting: str) -> str:
    check_choice("render", "setting", setting, SETTINGS)
    return {
        "plain": word,
        "spaces": " ".join(word),
        "hyphens": "-".join(word),
        "list": ", ".join(word),
        "capitals": word.upper(),
    }[setting]


def _drafts(
    rng: random.Random, tokens: Tokens, items: Sequence[Item], setting: str, end: str, space: str
) -> Iterator[Draft]:
    numbers = [f"{space}{v}" for v in range(max(x.count for x in items) + 1)]
    candidates = tuple(tokens.ones(_prompt(items[0], setting, end).text, numbers))
    for item in items:
        clean = _prompt(item, setting, end)
        length = len(tokens.ids(clean.text))
        # another letter of the word, or another word: as many tokens, another count
        others = [x for x in items if x.count != item.count and (item.target == "" or x.word == item.word)]
        rng.shuffle(others)
        alike = [x for x in others if len(tokens.ids(_prompt(x, setting, end).text)) == length]
        for other in (alike or others)[:1]:  # where none has as many tokens, it is left out with that reason
            yield Draft(
                clean, _prompt(other, setting, end), f"{space}{item.count}", f"{space}{other.count}", candidates,
                facts={"kind": item.kind, "word": item.word, "target": item.target, "count": item.count},
            )  # fmt: skip


def _prompt(item: Item, setting: str, end: str) -> Text:
    form = f"{QUESTIONS[item.kind]} Answer:{end}"
    return fill(form, word=_set(item.word, setting), _target=_set(item.target, setting))
