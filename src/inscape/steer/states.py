"""One vector a text at every site: what directions are fitted from, read in one pass without the head."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError, TokenError
from inscape.core.positions import check_at
from inscape.engine.planning import names_of
from inscape.models.model import Model
from inscape.store.harvest import Harvest

HELD_BYTES = 256 << 20  # of the states of the texts that are read together


@dataclass(frozen=True, eq=False)
class TextStates:
    """Reads texts at sites: batches of like length, stopped after the last site, one vector a text.

    patterns: sites. position: "last", "first", "mean", a position among real tokens, or several (a list, a slice,
    `ins.span`), whose mean is taken. batch_tokens: padded tokens a forward. max_length: tokens a text is cut to.
    """

    model: Model
    patterns: Any
    position: Any = "last"
    batch_tokens: int = 4096
    max_length: int | None = None

    @cached_property
    def sites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names_of(self.model, self.patterns)))

    @cached_property
    def harvest(self) -> Harvest:
        if self.position is None or (isinstance(self.position, str) and self.position == "all"):
            raise InputError(
                "position says which token's state stands for a text.\n"
                "  give 'last', 'mean', a position, or a slice such as slice(-5, None), whose mean is taken."
            )
        position = self.position if self.position == "mean" else check_at(self.position)
        made = Harvest(
            self.model, {s: (s, None) for s in self.sites}, position,
            batch_tokens=self.batch_tokens, max_length=self.max_length,
        )  # fmt: skip
        made.check()
        return made

    def step(self, n_sets: int) -> int:
        """Texts of each of some sets to read together, so that their states stay within `HELD_BYTES`."""
        axes = (self.model.sites[s].shape if s in self.model.sites else "" for s in self.sites)
        row = sum(_numbers(shape) for shape in axes) * 4
        return max(16, min(1024, HELD_BYTES // max(1, row)) // n_sets)

    def of(self, texts: Sequence[Any], name: str = "", first: int = 0) -> dict[str, Float[Tensor, "n *axes"]]:
        """States of texts at every site, [text, ...] in the order given, on the CPU.

        Means over several positions are float32. name, first: what messages call the texts, number of the first one.
        Raises: TokenError for a text that has no such position, SiteError, InputError, NotFiniteError.
        """
        return self.both(texts, [], (name, ""), first)

    def both(
        self, high: Sequence[Any], low: Sequence[Any], names: tuple[str, str] = ("positive", "negative"), first: int = 0
    ) -> dict[str, Float[Tensor, "n *axes"]]:
        """States of two sets of texts, the first ones first, batched together."""
        texts = [*high, *low]
        columns, about = self.harvest.unit(0, texts)
        owner = columns.pop("sample", torch.zeros(0, dtype=torch.long))
        counts = torch.bincount(owner, minlength=len(texts))
        if int(counts.min()) == 0:
            i = int((counts == 0).nonzero()[0])
            which = f"{names[0]} text {first + i}" if i < len(high) else f"{names[1]} text {first + i - len(high)}"
            raise TokenError(
                f"{which.strip()} has {about[i]['tokens']} tokens, none of them at position={self.position!r}: "
                f"{str(texts[i])[:80]!r}.\n  leave it out, or choose a position that every text has."
            )
        return {site: _mean_by(columns[site], owner, counts) for site in self.sites}


def check_texts(texts: Any, name: str) -> list[Any]:
    """A list of texts. Raises: InputError for a single text, for none, for what is no list."""
    if isinstance(texts, str):
        raise InputError(f"{name} is one text; give a list of texts, [{texts[:40]!r}, ...].")
    if not isinstance(texts, Sequence) and not isinstance(texts, Tensor):
        raise InputError(f"{name} is a {type(texts).__name__}; give a list of texts (or of token ids).")
    if len(texts) == 0:
        raise InputError(f"{name} is empty: there are no texts to read.")
    return list(texts)


def _mean_by(x: Tensor, owner: Int[Tensor, " row"], counts: Int[Tensor, " text"]) -> Tensor:
    """Mean over the rows of each text."""
    if len(x) == len(counts):
        return x
    total = torch.zeros(len(counts), *x.shape[1:], dtype=torch.float64).index_add_(0, owner, x.double())
    return (total / counts.reshape(-1, *[1] * (x.ndim - 1))).float()


def _numbers(shape: str) -> int:
    """Numbers of one token at a site, from its template; a thousand where that does not tell."""
    n = 1
    for part in shape.split():
        axis, _, size = part.partition("=")
        if axis not in ("batch", "pos"):
            n *= int(size) if size.isdigit() else 1000
    return n
