"""Texts made harder to read without changing what they say."""

import random
from collections.abc import Sequence

from inscape.core.errors import InputError


def prefixed(texts: Sequence[str], words: Sequence[str] = ("aaa", "bbb"), *, seed: int = 0) -> tuple[str, ...]:
    """One of these words, drawn, before each text.

    Source: Jin et al. 2024, arXiv:2404.07066.
    """
    if not words or not all(words):
        raise InputError(f"words={tuple(words)!r}: one word or more is needed, none of them empty.")
    rng = random.Random(seed)
    return tuple(f"{rng.choice(list(words))} {text}" for text in texts)


def misspelt(texts: Sequence[str], rate: float = 0.1, *, seed: int = 0) -> tuple[str, ...]:
    """In this share of the words of four letters or more, drawn, two neighbouring inner letters change places."""
    if not 0 <= rate <= 1:
        raise InputError(f"rate={rate}: it is a share of the words, from 0 to 1.")
    rng = random.Random(seed)

    def slipped(word: str) -> str:
        if len(word) < 4 or not word.isalpha() or rng.random() >= rate:
            return word
        at = rng.randrange(1, len(word) - 2)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]

    return tuple(" ".join(slipped(word) for word in text.split(" ")) for text in texts)
