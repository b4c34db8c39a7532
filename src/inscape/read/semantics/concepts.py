"""Concepts as tokens of the vocabulary, and the directions of the stream that their scores are read from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from inscape.core.errors import ModelError, TokenError
from inscape.engine.norms import norm_of
from inscape.engine.unembed import Unembedding, unembedding
from inscape.models.model import Model


@dataclass(frozen=True, eq=False)
class Concepts:
    """Words and the token each stands for: its first, which is said with `is_first` where there are more."""

    words: tuple[str, ...]
    ids: Int[Tensor, " concept"]
    is_first: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.words)


def concepts_of(model: Model, words: Sequence[str | int]) -> Concepts:
    """The first token of every word, behind a space where the tokenizer makes one of it; ids stand for themselves.

    Raises: TokenError where two words begin with the same token, so that nothing could tell them apart, or a word is
    not known to the tokenizer.
    """
    found: dict[int, str] = {}
    first = []
    for word in words:
        rows = [int(word)] if isinstance(word, int) else _tokens(model.tokenizer, word)
        if rows[0] in found:
            raise TokenError(
                f"the concepts {found[rows[0]]!r} and {word!r} begin with the same token, so they cannot be told apart."
                "\n  leave one out, or name it by another word."
            )
        found[rows[0]] = str(word) if not isinstance(word, int) else said(model, word)
        first.append(len(rows) > 1)
    return Concepts(tuple(found.values()), torch.tensor(list(found), dtype=torch.long), tuple(first))


def said(model: Model, token: int) -> str:
    """A token as text, without the space before it."""
    return model.tokenizer.decode([token]).strip() if model.tokenizer is not None else str(token)


def reading_directions(
    model: Model, tokens: Int[Tensor, " k"], unembed: Unembedding | None = None
) -> Float[Tensor, "k d_model"]:
    """The directions that tokens' scores are read from: `gain * W_U[token]`, centred where the final norm centres.

    `logit(token) = h . direction / size(h) + constant`: removing it from the last state leaves the score its constant.
    Raises: ModelError when the head is no matrix or the final norm neither LayerNorm nor RMSNorm.
    """
    unembed = unembed or unembedding(model)
    weight = getattr(unembed.head, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not isinstance(unembed.head, nn.Module):
        raise ModelError(f"the head of {type(model.module).__name__} is no matrix with a row a token.")
    rows = weight.detach()[tokens.to(weight.device)].float()
    if unembed.norm is None:
        return rows
    norm = norm_of(unembed.norm, (rows.shape[-1],), weight.detach())
    if norm is None:
        raise ModelError(f"the final norm ({type(unembed.norm).__name__}) is no LayerNorm and no RMSNorm.")
    rows = rows * norm.gain.to(rows)
    return rows - rows.mean(-1, keepdim=True) if norm.centred else rows


def _tokens(tokenizer: Any, word: str) -> list[int]:
    if tokenizer is None:
        raise TokenError(f"{word!r} is a word and this model has no tokenizer: give the token's id.")
    plain = tokenizer(word.strip(), add_special_tokens=False)["input_ids"]
    spaced = tokenizer(f" {word.strip()}", add_special_tokens=False)["input_ids"]
    best = spaced if len(spaced) <= len(plain) else plain  # " Rome" is what follows other words
    unknown = getattr(tokenizer, "unk_token_id", None)
    if not best or (unknown is not None and best[0] == unknown):
        raise TokenError(f"{word!r} is not known to this tokenizer.")
    return list(best)
