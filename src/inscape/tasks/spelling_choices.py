"""Words and fragments to be spelled, each chosen among strings that differ from the word in one letter.

    line use star: lus\\nmoon apple north:      -> " man", among " man", " map", " mad", " mun", " mab", " gan"

A slip of one letter is the error to expect, and the options are all such slips: what is chosen says which of them a
model prefers, of any length and number of tokens.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inscape.core.errors import InputError, TokenError
from inscape.tasks.acronym import SPELLED, fragments, rivals, spelling
from inscape.tasks.tokens import Tokens
from inscape.tasks.words import BY_LETTER


@dataclass(frozen=True)
class SpellingChoices:
    """prompts: one an item. right: its answer, with the space before it. options: what it is chosen among, the right
    one first. family: the word an item belongs to, for intervals: a word and its fragment share their options.
    """

    prompts: tuple[str, ...]
    right: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    family: tuple[int, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Letters of each answer."""
        return tuple(len(answer) - 1 for answer in self.right)

    @property
    def chance(self) -> float:
        """What a guess gets right."""
        return sum(1 / len(some) for some in self.options) / len(self.options)

    def __len__(self) -> int:
        return len(self.prompts)


def spelling_choices(
    model: Any, n: int = 16, *, lengths: Sequence[int] = (3, 4, 5), made: int = 3, shots: int = 4,
    words: Mapping[str, str] = BY_LETTER, seed: int = 0,
) -> SpellingChoices:  # fmt: skip
    """For `n` words of each length: the word and a fragment next to it, chosen among what is one letter away.

    Choose it to ask models of any tokenizer whether common answers pull (`read.behaviour.choices.choose`); `acronym`
    makes pairs for patching, of answers that are one token. The options of a word are itself, the words of these
    lengths that differ from it in one letter, and `made` fragments; those with a token the tokenizer does not know are
    left out, and words left without another option.
    model: an opened model or a tokenizer. shots: solved lines before each, of words and fragments. words: first letter
    -> words, with spaces; the longer answers are drawn from them, those of three letters from `SPELLED`.
    Raises: InputError for more words than there are, TokenError where the tokenizer leaves no word two options.
    Source: the acronyms of arXiv:2504.12585; options one letter away, and fragments beside words, are ours.
    """
    tokens, rng = Tokens(model), random.Random(seed)
    letters = {x for x, text in words.items() if any(len(word) > 1 for word in text.split())}
    every = {3: list(SPELLED)}
    for word in (x for text in words.values() for x in text.split() if len(x) != 3):
        every.setdefault(len(word), []).append(word)
    pools = [[x for x in every.get(length, []) if set(x) <= letters] for length in lengths]
    for length, pool in zip(lengths, pools, strict=True):
        if n < 1 or len(pool) < n:
            raise InputError(f"{n} words of {length} letters are asked for, and there are {len(pool)} to draw from.")
    drawn = [word for pool in pools for word in rng.sample(pool, n)]
    new = fragments(drawn, made, seed=seed)
    near = rivals(drawn, [x for pool in pools for x in pool])
    families = [
        [x for x in (word, *others, *strange) if not tokens.unknown(f"the {x}")]
        for word, others, strange in zip(drawn, near, new, strict=True)
    ]
    families = [family for family in families if family]
    strange = {x for xs in new for x in xs}
    items = [
        (answer, tuple(f" {x}" for x in (answer, *(x for x in family if x != answer))), i)
        for i, family in enumerate(families) if len(family) > 1
        for answer in dict.fromkeys((family[0], next((x for x in family if x in strange), family[0])))
    ]  # fmt: skip
    if not items:
        raise TokenError(
            f"none of {len(drawn)} words has two options whose tokens are all known here: {drawn[0]!r} and its "
            f"neighbours are {families[0] if families else 'unknown'}."
        )
    among = [x for family in families for x in (family[0], family[-1])]
    prompts, right = spelling([answer for answer, _, _ in items], shots=shots, among=among, words=words, seed=seed)
    return SpellingChoices(
        tuple(prompts), tuple(right), tuple(some for _, some, _ in items), tuple(i for *_, i in items)
    )
