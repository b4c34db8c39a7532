"""Made-up languages with one grammar and the same things to say, in words that none shares with another.

    <bos> a3 a41 a17 . a12 a44 a29 . a8 a50 a21 .      a text: things do what they usually do to what they do it to
    <bos> c5 b5 ; c18 b18 ; c30 b30 ; c2 b2 ; c9 b9    a list of words of one language, each in another

Word `a5` means what `b5` and `c5` mean: the truth of every translation is known, and so is every word that would be
right in a language that nobody asked for. How much text there is in each language is up to the caller; lists of
translations are as frequent whatever the texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.models.toy.words import SPECIAL, word_tokenizer

SIGNS = (".", ";")
PAIRS = 5  # words in a list
SENTENCES = 4  # in a text: as many tokens as in a list


@dataclass(frozen=True)
class ParallelLanguages:
    """Languages `names` of `things` nouns and `doings` verbs each; `seed` draws what usually does what to what.

    A thing does one of 3 doings, a doing is done to one of 6 things, in every language alike.
    """

    names: tuple[str, ...] = ("a", "b", "c")
    things: int = 24
    doings: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.names) < 2 or self.things < 6 or self.doings < 3:
            raise InputError(
                f"{len(self.names)} languages of {self.things} things and {self.doings} doings: at least 2, 6 and 3."
            )

    @property
    def words(self) -> tuple[str, ...]:
        """Every token after the special ones, in order: signs, then each language's things and doings."""
        n = self.things + self.doings
        return (*SIGNS, *(f"{name}{i}" for name in self.names for i in range(n)))

    @cached_property
    def tokenizer(self) -> Any:
        """One token a word or sign."""
        return word_tokenizer(self.words, split="spaces")

    def ids(self, language: str | int, meaning: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
        """Tokens of these meanings in a language."""
        place = language if isinstance(language, int) else self.names.index(language)
        return len(SPECIAL) + len(SIGNS) + place * (self.things + self.doings) + meaning

    def sign(self, text: str) -> int:
        return len(SPECIAL) + SIGNS.index(text)

    @cached_property
    def _usual(self) -> tuple[Int[Tensor, "thing 3"], Int[Tensor, "doing 6"]]:
        g = torch.Generator().manual_seed(self.seed)
        does = torch.stack([torch.randperm(self.doings, generator=g)[:3] for _ in range(self.things)])
        done_to = torch.stack([torch.randperm(self.things, generator=g)[:6] for _ in range(self.doings)])
        return does, done_to

    def texts(
        self, n: int, shares: Sequence[float] | Float[Tensor, " language"], generator: torch.Generator
    ) -> Int[Tensor, "n pos"]:
        """Texts of four sentences, each in one language, drawn with these shares."""
        does, done_to = self._usual
        weights = torch.as_tensor(shares, dtype=torch.float)
        language = torch.multinomial(weights, n, replacement=True, generator=generator)

        def one_of(table: Tensor) -> Tensor:
            pick = torch.randint(table.shape[-1], table.shape[:-1], generator=generator)
            return table.gather(-1, pick[..., None])[..., 0]

        who = torch.randint(self.things, (n, SENTENCES), generator=generator)
        doing = one_of(does[who])
        whom = one_of(done_to[doing])
        said = torch.stack([who, self.things + doing, whom], -1)
        said = said + self.ids(0, language * (self.things + self.doings))[:, None, None]
        stop = torch.full((n, SENTENCES, 1), self.sign("."))
        return torch.cat([torch.full((n, 1), SPECIAL.index("<bos>")), torch.cat([said, stop], -1).flatten(1)], 1)

    def lists(
        self,
        n: int,
        generator: torch.Generator,
        source: str | None = None,
        target: str | None = None,
        pairs: int = PAIRS,
    ) -> tuple[Int[Tensor, "n pos"], Int[Tensor, "n pair"]]:
        """Lists of words with their translations, and what each pair means; languages are drawn where not given."""
        k = len(self.names)
        one = torch.randint(k, (n,), generator=generator)
        two = (one + torch.randint(1, k, (n,), generator=generator)) % k
        one = one if source is None else torch.full((n,), self.names.index(source))
        two = two if target is None else torch.full((n,), self.names.index(target))
        meaning = torch.stack([torch.randperm(self.things, generator=generator)[:pairs] for _ in range(n)])
        size = self.things + self.doings
        left, right = (self.ids(0, meaning + (x * size)[:, None]) for x in (one, two))
        row = torch.stack([left, right, torch.full((n, pairs), self.sign(";"))], -1).flatten(1)
        return torch.cat([torch.full((n, 1), SPECIAL.index("<bos>")), row], 1)[:, :-1], meaning

    def prompts(
        self, n: int, source: str, target: str, *, seed: int = 0
    ) -> tuple[Int[Tensor, "n pos"], Int[Tensor, " n"]]:
        """Lists that end before the last translation, and what is asked for; every thing equally often."""
        g = torch.Generator().manual_seed(seed)
        rows, meaning = self.lists(n, g, source, target)
        asked = torch.arange(n) % self.things
        # what is asked for changes places with what was drawn, so that no example shows the answer
        clash = (meaning[:, :-1] == asked[:, None]).nonzero()
        meaning[clash[:, 0], clash[:, 1]] = meaning[clash[:, 0], -1]
        meaning[:, -1] = asked
        rows[:, 1::3], rows[:, 2::3] = self.ids(source, meaning), self.ids(target, meaning)
        return rows[:, :-1], asked
