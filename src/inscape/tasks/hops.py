"""Pointer hops: a ring of arrows in the context, and where one ends after some steps along them.

    c>a a>g f>b g>f b>h d>e h>d e>c 3:a      -> b     (a>g, g>f, f>b)

Step k needs the result of step k - 1. The arrows make one ring of all eight letters, in an order that is drawn, so
every answer is as likely, and up to four steps there is no shorter way backwards.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from inscape.core.errors import InputError
from inscape.models.toy.arrows import LETTERS, STEPS
from inscape.tasks.labelled import LabelledTexts


@dataclass(frozen=True)
class Hops:
    """Prompts, how many hops each asks for, and where 1, 2, ... hops lead from where it starts."""

    texts: tuple[str, ...]
    asked: tuple[int, ...]
    ends: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def answers(self) -> tuple[str, ...]:
        """What each prompt asks for."""
        return tuple(ends[k - 1] for ends, k in zip(self.ends, self.asked, strict=True))

    def after(self, hops: int) -> LabelledTexts:
        """The prompts labelled with where this many hops lead, whatever they ask for."""
        if not 1 <= hops <= STEPS:
            raise InputError(f"after({hops}): the ends of 1 to {STEPS} hops are known.")
        labels = tuple(ends[hops - 1] for ends in self.ends)
        return LabelledTexts(f"{hops} hops", self.texts, labels, tuple(map(str, range(len(self)))), "c>a a>g ... 3:a")


def hops(n: int = 128, asked: int | Sequence[int] = (1, 2, 3, 4), *, seed: int = 0) -> Hops:
    """n prompts, each asking for one of these numbers of hops in turn.

    Raises: InputError for numbers outside 1 to 4, or n below 1. Source: pointer chasing; the ring is ours.
    """
    counts = (asked,) if isinstance(asked, int) else tuple(asked)
    if n < 1 or not counts or not all(1 <= k <= STEPS for k in counts):
        raise InputError(f"hops({n}, {asked}): one prompt or more, asking for 1 to {STEPS} hops.")
    rng = random.Random(seed)
    texts, ks, ends = [], [], []
    for i in range(n):
        ring = rng.sample(LETTERS, len(LETTERS))
        arrows = [f"{x}>{ring[(j + 1) % len(ring)]}" for j, x in enumerate(ring)]
        rng.shuffle(arrows)
        start, k = rng.randrange(len(ring)), counts[i % len(counts)]
        texts.append(f"{' '.join(arrows)} {k}:{ring[start]}")
        ks.append(k)
        ends.append(tuple(ring[(start + j) % len(ring)] for j in range(1, STEPS + 1)))
    return Hops(tuple(texts), tuple(ks), tuple(ends))
