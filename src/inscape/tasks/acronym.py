"""Acronyms: the first letters of some words, in order, spell the answer.

    clean      line use star: lus\\nring army food: raf\\nmoon apple north:      -> " man", not " mam"
    corrupted  line use star: lus\\nring army food: raf\\nmoon apple moon:       -> " mam"

The answer follows from the words alone, but what it spells may be a word ("man") or a fragment no one says ("mam"): the
pull of common answers is measured between the two. One word differs between the prompts.
"""

import itertools
import random
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inscape.core.errors import InputError, TokenError
from inscape.tasks.drafts import Draft, Text, after, check_choice, collect
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import BY_LETTER, listed

SPELLED = listed(  # three-letter words; other strings of three letters are fragments
    "act age air arm art bad bag bar bat bed big bit box boy bus buy can cap car cat cow cup cut day dog dry "
    "ear eat egg  end eye fan far fat fit fix fly fun gas get gun hat hit hot ice job key kid law leg let lie "
    "lip log lot low man map  mix mud net new nut oil old one out pan pay pen pet pie pig pin pot put ran red "
    "run sad sea see set sit sky son sun  tax tea ten tie tip toe top toy try two use van war way wet who win "
    "yes you zoo"
)
CONSONANTS, VOWELS = "bcdfghlmnprst", "aeiou"


def acronym(
    model: Any, n: int = 32, *, kind: str = "mixed", letters: int = 3, shots: int = 2,
    words: Mapping[str, str] = BY_LETTER, seed: int = 0,
) -> Pairs:  # fmt: skip
    """What the first letters of `letters` words spell, after `shots` solved lines.

    Roles: word_1 .. word_n, changed (the word in which the prompts differ), end. Facts: spelled, kind. Candidates are
    all answers that can be asked for and are one token: chance is one in some hundreds.
    model: an opened model or a tokenizer. kind: "word" (the answer is an English word), "fragment" (it is none), or
    "mixed", half of each. letters: 2 or 3; with 2 there are fragments only. words: first letter -> words, with spaces.
    Raises: TokenError when no two answers that differ in one letter are one token.
    Source: the acronym task of arXiv:2504.12585, in wording and words of our own.
    """
    check_choice("acronym", "kind", kind, ("word", "fragment", "mixed"))
    check_choice("acronym", "letters", letters, (2, 3))
    tokens = Tokens(model)
    known = {x: kept for x, text in words.items() if (kept := _single(tokens, text.split()))}
    spelled = _spelled(tokens, known, letters)
    kinds = ("word", "fragment") if kind == "mixed" and letters == 3 else (("fragment",) if letters == 2 else (kind,))
    if any(not spelled[x] for x in kinds):
        raise TokenError(
            f"no {' or '.join(kinds)} of {letters} letters is one token here: ' sun' is "
            f"{tokens.spelled(tokens.ids('the sun'))} after 'the', and {len(known)} letters have words of one token."
        )
    return collect(f"acronym {kind}", tokens, _drafts(random.Random(seed), known, spelled, kinds, shots), n)


def spelling(
    answers: Sequence[str], *, shots: int = 0, among: Sequence[str] = SPELLED, spaced: bool = False,
    words: Mapping[str, str] = BY_LETTER, seed: int = 0,
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Prompts whose words spell these answers, and the answers as continuations, of as many tokens as they have.

    For answers of any length and tokenizer; `acronym` makes pairs where they are one token. shots: solved lines before
    each, which spell others `among` these. spaced: letter by letter (" m a n") instead of " man".
    Raises: InputError for a letter without words, with those that have some.
    """
    rng = random.Random(seed)
    known = {x: kept for x, text in words.items() if (kept := [w for w in text.split() if len(w) > 1])}
    odd = next((a for a in (*answers, *(among if shots else ())) if not a or not set(a) <= known.keys()), None)
    if odd is not None:
        raise InputError(f"no words spell {odd!r}: there are words for the letters {''.join(sorted(known))}.")
    if shots >= len(set(among)) or any(not a for a in answers):
        raise InputError(f"{shots} solved lines need more than {len(set(among))} answers to draw them from.")

    def line(spelled: str) -> str:
        return " ".join(rng.choice(known[c]) for c in spelled) + ":"

    def written(spelled: str) -> str:
        return f" {' '.join(spelled)}" if spaced else f" {spelled}"

    prompts = []
    for answer in answers:
        shown = rng.sample([x for x in dict.fromkeys(among) if x != answer], shots)
        prompts.append("".join(f"{line(x)}{written(x)}\n" for x in shown) + line(answer))
    return prompts, [written(answer) for answer in answers]


def _single(tokens: Tokens, words: Sequence[str]) -> list[str]:
    return [kept[1:] for kept in tokens.ones("the", [f" {word}" for word in words])]


def _spelled(tokens: Tokens, known: Mapping[str, list[str]], letters: int) -> dict[str, list[str]]:
    """Answers of one token that have words for every letter and a neighbour in one letter, by kind."""
    shapes = (
        itertools.product(CONSONANTS, VOWELS, CONSONANTS) if letters == 3 else itertools.product(VOWELS, CONSONANTS)
    )
    made = {"word": [x for x in SPELLED if letters == 3], "fragment": []}
    made["fragment"] = [x for x in map("".join, shapes) if x not in SPELLED]
    single = {kind: [x for x in _single(tokens, xs) if all(c in known for c in x)] for kind, xs in made.items()}
    everything = {x for xs in single.values() for x in xs}
    return {kind: [x for x in xs if _neighbours(x, everything)] for kind, xs in single.items()}


def rivals(answers: Sequence[str], among: Sequence[str] | None = None) -> list[list[str]]:
    """For each answer the others (of `among`, else of the answers) with one letter changed: what a slip would spell."""
    every = set(answers if among is None else among)
    return [[other for _, other in _neighbours(answer, every)] for answer in answers]


def fragments(words: Sequence[str], n: int = 1, *, known: Sequence[str] = SPELLED, seed: int = 0) -> list[list[str]]:
    """For each word `n` strings with one letter changed (a vowel for a vowel) that are no word of either list.

    They are spelled as easily as the word, and few texts hold them. `known`: further words to stay clear of.
    Raises: InputError for a word with fewer such strings than asked for.
    """
    rng, taken, made = random.Random(seed), {*words, *known}, []
    for word in words:
        swaps = [
            word[:i] + c + word[i + 1 :] for i, x in enumerate(word)
            for c in (VOWELS if x in VOWELS else CONSONANTS) if c != x
        ]  # fmt: skip
        free = [x for x in dict.fromkeys(swaps) if x not in taken]
        if len(free) < n:
            raise InputError(f"{word!r} has {len(free)} fragments that are one letter away, and {n} are asked for.")
        made.append(rng.sample(free, n))
        taken.update(made[-1])
    return made


def _neighbours(spelled: str, among: set[str]) -> list[tuple[int, str]]:
    """(place, other) for every other answer that differs in this one letter."""
    made = [(i, spelled[:i] + c + spelled[i + 1 :]) for i in range(len(spelled)) for c in string.ascii_lowercase]
    return [(i, other) for i, other in made if other != spelled and other in among]


def _drafts(
    rng: random.Random, known: Mapping[str, list[str]], spelled: dict[str, list[str]], kinds: Sequence[str], shots: int
) -> Iterator[Draft]:
    everything = {x for xs in spelled.values() for x in xs}
    candidates = tuple(f" {x}" for x in sorted(everything))
    turn = 0
    while True:
        kind = kinds[turn % len(kinds)]
        turn += 1
        answer = rng.choice(spelled[kind])
        place, other = rng.choice(_neighbours(answer, everything))
        words = [rng.choice(known[c]) for c in answer]
        changed = [rng.choice(known[other[i]]) if i == place else w for i, w in enumerate(words)]
        before = ""
        for _ in range(shots):
            example = rng.choice([x for x in sorted(everything) if x not in (answer, other)])
            before += " ".join(rng.choice(known[c]) for c in example) + f": {example}\n"
        yield Draft(
            after(before, _line(words, place)), after(before, _line(changed, place)), f" {answer}", f" {other}",
            candidates, facts={"spelled": answer, "kind": kind},
        )  # fmt: skip


def _line(words: Sequence[str], changed: int) -> Text:
    text, spans = "", {}
    for i, word in enumerate(words):
        text += " " * (i > 0)
        spans[f"word_{i + 1}"] = [(len(text), len(text) + len(word))]
        text += word
    return Text(text + ":", spans | {"changed": spans[f"word_{changed + 1}"]})
