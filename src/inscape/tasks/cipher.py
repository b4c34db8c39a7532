"""Tasks that a rule decides and habit pulls at: swapping two words, sorting, shifting letters.

    swap    salt and pepper => pepper and salt\\nbread and butter => butter and         -> " bread", not " butter"
    sort    tree, apple, moon => apple\\nriver, cloud, stone =>                          -> " cloud", not " river"
    shift   a => d, k => n, f => i, m =>                                                -> " p", not " n"

In "swap" habit says "bread and butter" the other way round; in "sort" it repeats the first word; in "shift" it says the
letter's neighbour.
"""

import random
import string
from collections.abc import Iterator, Sequence
from typing import Any

from inscape.core.errors import InputError
from inscape.tasks.drafts import Draft, after, check_choice, check_range, collect, fill
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import BY_LETTER

KINDS = ("swap", "sort", "shift")
BINOMIALS = (  # in the order in which they are said
    ("bread", "butter"), ("salt", "pepper"), ("black", "white"), ("men", "women"), ("king", "queen"), ("day", "night"),
    ("cat", "mouse"), ("fish", "chips"), ("hands", "feet"), ("north", "south"), ("east", "west"), ("sun", "moon"),
    ("war", "peace"), ("hot", "cold"), ("rich", "poor"), ("young", "old"), ("left", "right"), ("trial", "error"),
    ("supply", "demand"), ("research", "development"), ("friends", "family"), ("food", "drink"), ("time", "money"),
    ("love", "hate"), ("life", "death"), ("past", "present"), ("body", "soul"), ("wind", "rain"), ("cup", "plate"),
    ("brother", "sister"), ("mother", "father"), ("boys", "girls"), ("fire", "water"), ("land", "sea"),
)  # fmt: skip


def cipher(
    model: Any, n: int = 32, *, kind: str = "swap", shots: int = 3, shift: int = 3, words: int = 3, seed: int = 0
) -> Pairs:
    """A rule shown by `shots` solved cases, and one case to solve.

    swap: two words that are usually said in one order, in the other. Facts: usual, whether the answer makes the usual
    order (half of them do). Roles: first, second, end. Candidates: the two words.
    sort: which of `words` words comes first in the alphabet. Facts: place (of the answer).
    Roles: word_1 .. word_n, end. Candidates: the words listed.
    shift: the letter `shift` places on, from z to a. Roles: letter, end. Candidates: the alphabet.
    model: an opened model or a tokenizer. words: 2 to 6.
    Raises: TokenError when too few words or letters are one token; InputError for more pairs than there are.
    Source: tasks of the kind of arXiv:2504.12585 and arXiv:2309.13638, in wording of our own.
    """
    check_choice("cipher", "kind", kind, KINDS)
    check_range("cipher", "shots", shots, 0, 16)
    if not (2 <= words <= 6 and shift % 26):
        raise InputError(f"cipher(words={words}, shift={shift}): 2 to 6 words, and a shift that moves letters.")
    tokens, rng = Tokens(model), random.Random(seed)
    if kind == "swap":
        kept, notes = tokens.singles(sorted({w for two in BINOMIALS for w in two}), "words", at_least=4)
        drafts = _swaps(rng, [two for two in BINOMIALS if set(two) <= set(kept)], shots)
    elif kind == "sort":
        pool = [w for text in BY_LETTER.values() for w in text.split()]
        kept, notes = tokens.singles(pool, "words", at_least=words + 1)
        drafts = _sorts(rng, kept, words, shots)
    else:
        kept, notes = tokens.singles(string.ascii_lowercase, "letters", at_least=4)
        drafts = _shifts(rng, kept, shift, shots)
    return collect(f"cipher {kind}", tokens, drafts, n, notes=notes)


def _swaps(rng: random.Random, binomials: Sequence[tuple[str, str]], shots: int) -> Iterator[Draft]:
    turn = 0
    while True:
        usual = bool(turn % 2)
        turn += 1
        two, *examples = rng.sample(list(binomials), min(shots + 1, len(binomials)))
        before = ""
        for example in examples:
            a, b = rng.sample(example, 2)
            before += f"{a} and {b} => {b} and {a}\n"
        a, b = two[::-1] if usual else two
        form = "{first} and {second} => {_again} and"
        clean, corrupted = fill(form, first=a, second=b, _again=b), fill(form, first=b, second=a, _again=a)
        # the answer completes "b and a", which is the usual order where the case shows the other one
        yield Draft(after(before, clean), after(before, corrupted), f" {a}", f" {b}", facts={"usual": usual})


def _sorts(rng: random.Random, pool: Sequence[str], words: int, shots: int) -> Iterator[Draft | None]:
    turn = 0
    form = ", ".join(f"{{word_{i}}}" for i in range(1, words + 1)) + " =>"

    def drawn() -> list[str]:
        """Words of different first letters."""
        while True:
            made = rng.sample(list(pool), words)
            if len({w[0] for w in made}) == words:
                return made

    def line(listed: Sequence[str]) -> Any:
        return fill(form, **{f"word_{i}": w for i, w in enumerate(listed, 1)})

    while True:
        place = turn % words
        turn += 1
        listed = sorted(drawn())
        answer, *rest = listed
        rng.shuffle(rest)
        listed = [*rest[:place], answer, *rest[place:]]
        second = min(rest)
        later = [w for w in pool if w[0] > second[0] and w[0] not in {x[0] for x in rest}]
        if not later:
            yield None
            continue
        changed = [rng.choice(later) if w == answer else w for w in listed]  # so that the second becomes the first
        before = "".join(f"{line(example).text} {min(example)}\n" for example in (drawn() for _ in range(shots)))
        yield Draft(
            after(before, line(listed)), after(before, line(changed)), f" {answer}", f" {second}",
            tuple(f" {w}" for w in listed), facts={"place": place + 1},
        )  # fmt: skip


def _shifts(rng: random.Random, letters: Sequence[str], shift: int, shots: int) -> Iterator[Draft]:
    def on(letter: str) -> str:
        return string.ascii_lowercase[(string.ascii_lowercase.index(letter) + shift) % 26]

    usable = [x for x in letters if on(x) in letters]
    candidates = tuple(f" {x}" for x in letters)
    while len(usable) > shots + 1:
        asked, other, *examples = rng.sample(usable, shots + 2)
        before = "".join(f"{x} => {on(x)}, " for x in examples)
        clean, corrupted = fill("{letter} =>", letter=asked), fill("{letter} =>", letter=other)
        yield Draft(
            after(before, clean), after(before, corrupted), f" {on(asked)}", f" {on(other)}", candidates,
            facts={"letter": asked},
        )  # fmt: skip
