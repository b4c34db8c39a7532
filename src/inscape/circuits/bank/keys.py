"""Keys of an ablation bank: which positions share a mean, and how they are found again in any run.

A key is one of three names, or a function of a row's tokens and a position, `key(tokens, t)`:
1. "position+token"   the token at this position (the default);
2. "token"            the token, wherever it stands;
3. "position"         the position, whatever stands there.
Positions count real tokens. Named keys are looked up as whole batches of numbers, functions once a position.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.errors import EditError, InputError

Key = str | Callable[[Sequence[int], int], Hashable]
NAMES = ("position+token", "token", "position")
SHIFT = 32


class Row(Sequence[int]):
    """The tokens of one row as a key function sees them; asking for one that is not known here is an error."""

    def __init__(self, known: dict[int, int], length: int) -> None:
        self.known, self.length = known, length

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, t: int) -> int: ...
    @overload
    def __getitem__(self, t: slice) -> tuple[int, ...]: ...
    def __getitem__(self, t: int | slice) -> int | tuple[int, ...]:
        if isinstance(t, slice):
            return tuple(self[i] for i in range(*t.indices(self.length)))
        at = t + self.length if t < 0 else t
        if not 0 <= at < self.length:
            raise IndexError(t)
        if at not in self.known:
            raise EditError(
                f"the bank's key reads token {at} of a row, and only {_span(self.known)} are known here: a cached step "
                "holds its new token alone.\n"
                "  ins.generate without beams remembers the rest; else use a key of tokens[t] alone, or at='prompt'."
            )
        return self.known[at]


@dataclass(frozen=True, eq=False)
class Keys:
    """A key and the values it took, in order; `find` gives their numbers."""

    key: Key
    values: list[Hashable] = field(default_factory=list)
    number: dict[Hashable, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.key, str) and self.key not in NAMES:
            raise InputError(
                f"key={self.key!r} is no key of a bank; there are {', '.join(map(repr, NAMES))}, "
                "or a function key(tokens, t)."
            )
        if not self.number:
            self.number.update({value: i for i, value in enumerate(self.values)})

    @property
    def name(self) -> str:
        return self.key if isinstance(self.key, str) else f"function {getattr(self.key, '__name__', 'key')}"

    def shown(self, value: Hashable) -> str:
        """A key as a reader knows it."""
        if self.key == "position+token":
            return f"token {int(value) & ((1 << SHIFT) - 1)} at position {int(value) >> SHIFT}"  # type: ignore[call-overload]
        return f"{self.key} {value}" if isinstance(self.key, str) else repr(value)

    def find(
        self, rows: Int[Tensor, " n"], pos: Int[Tensor, " n"], tokens: Int[Tensor, " n"], *,
        known: dict[int, dict[int, int]] | None = None, length: int | None = None, add: bool = False,
    ) -> Int[Tensor, " n"]:  # fmt: skip
        """Numbers of the keys of these positions; -1 where a key has not been seen, or new numbers with `add`.

        rows: which row each position belongs to. known: more of the rows' tokens, {row: {position: token}}. length: of
        every row, the last position known and one when left out.
        """
        if isinstance(self.key, str):
            codes, inverse = torch.unique(_codes(self.key, pos, tokens), return_inverse=True)
            return torch.tensor([self._numbered(code, add) for code in codes.tolist()], dtype=torch.long)[inverse]
        by_row: dict[int, dict[int, int]] = {}
        for row, t, token in zip(rows.tolist(), pos.tolist(), tokens.tolist(), strict=True):
            by_row.setdefault(row, dict(known.get(row, {}) if known else {}))[t] = token
        seen = {r: Row(k, max(k, default=-1) + 1 if length is None else length) for r, k in by_row.items()}
        values = [self.key(seen[row], t) for row, t in zip(rows.tolist(), pos.tolist(), strict=True)]
        return torch.tensor([self._numbered(value, add) for value in values], dtype=torch.long)

    def _numbered(self, value: Any, add: bool) -> int:
        try:
            number = self.number.get(value, -1)
        except TypeError:
            raise InputError(
                f"the key function returned {type(value).__name__}, which cannot be a key; return a number, a text, "
                "or a tuple of these."
            ) from None
        if number < 0 and add:
            number = self.number[value] = len(self.values)
            self.values.append(value)
        return number


def _codes(name: str, pos: Tensor, tokens: Tensor) -> Tensor:
    return {"position": pos, "token": tokens}.get(name, (pos << SHIFT) + tokens)


def _span(known: dict[int, int]) -> str:
    return f"positions {min(known)} to {max(known)}" if known else "none"
