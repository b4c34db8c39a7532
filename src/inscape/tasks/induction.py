"""Induction: random words that come twice, and what followed the last one the first time.

    clean      moon river chair stone glass moon river chair        -> " stone", not " paper"
    corrupted  moon river chair paper glass moon river chair        -> " paper"

Nothing but the repetition tells the answer. `repeated_probe` gives the same as token ids, for models with or without a
tokenizer: what heads look at on it is their induction score.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.errors import ModelError, TokenError
from inscape.models.model import Model
from inscape.tasks.drafts import Draft, Text, check_range, collect
from inscape.tasks.pairs import Pairs
from inscape.tasks.tokens import Tokens


def induction(
    model: Any, n: int = 32, *, length: int = 16, seen: int | None = None, words: int = 256, seed: int = 0
) -> Pairs:
    """`length` random words, the first `seen` of them again, and the word that comes next.

    Roles: previous (where the last word stood the first time), target (the word after it, which is the answer),
    repeated (the words that come again, the first time), end. Facts: seen. Candidates are the words of the prompt, so
    chance is 1 / length. In the corrupted prompt the target is another word, which then is the answer.
    model: an opened model or a tokenizer. seen: 1 to length - 1; drawn for each pair when left out.
    words: how many of the vocabulary to draw from; they are letters alone, and one token after a space.
    Raises: TokenError when the vocabulary holds fewer such words than are needed.
    Source: Olsson et al. 2022, arXiv:2209.11895; words in place of any tokens, so that texts can be read.
    """
    check_range("induction", "length", length, 3, 4096)
    if seen is not None:
        check_range("induction", "seen", seen, 1, length - 1)
    tokens, rng = Tokens(model), random.Random(seed)
    pool = _vocabulary(tokens, rng, max(words, length + 1))
    if len(pool) < length + 1:
        raise TokenError(
            f"{len(pool)} tokens of this vocabulary are words by themselves, and {length + 1} are needed.\n"
            "  ask for a smaller length, or take repeated_probe(model, ...), which is made of token ids."
        )
    return collect("induction", tokens, _drafts(rng, pool, length, seen), n)


def _vocabulary(tokens: Tokens, rng: random.Random, n: int) -> list[str]:
    """n words of the vocabulary, drawn: letters alone, one token after a space."""
    pool: list[str] = []
    ids = sorted(set(tokens.tokenizer.get_vocab().values()))
    rng.shuffle(ids)
    special = set(getattr(tokens.tokenizer, "all_special_ids", ()))
    for i in ids:
        word = "" if i in special else tokens.tokenizer.decode([i]).strip()
        if word.isascii() and word.isalpha() and word not in pool and tokens.ones("the", [f" {word}"]):
            pool.append(word)
            if len(pool) == n:
                break
    return pool


def _drafts(rng: random.Random, pool: Sequence[str], length: int, seen: int | None) -> Iterator[Draft]:
    while True:
        *words, other = rng.sample(list(pool), length + 1)
        last = seen if seen is not None else rng.randrange(1, length)
        changed = [*words[:last], other, *words[last + 1 :]]
        yield Draft(
            _twice(words, last), _twice(changed, last), f" {words[last]}", f" {other}",
            tuple(f" {w}" for w in words), facts={"seen": last},
        )  # fmt: skip


def _twice(words: Sequence[str], last: int) -> Text:
    """The words with a space before each, so that all of them are tokens of one kind, and the first `last` again."""
    text, spans = "", []
    for word in [*words, *words[:last]]:
        spans.append((len(text) + 1, len(text) + 1 + len(word)))
        text += f" {word}"
    return Text(text, {"previous": [spans[last - 1]], "target": [spans[last]], "repeated": spans[:last]})


def repeated_probe(
    model: Model, length: int, rows: int, seed: int = 0, *, shuffle: bool = False
) -> Int[Tensor, "row pos"]:
    """Token ids `first, r, r`, or with `shuffle` `first, r, r in another order` in which no token keeps its place.

    `first` is the model's own beginning-of-text token (a classifier token, a random token where there is neither);
    r are different tokens of the vocabulary, drawn by `seed`, none of them special.
    Raises: ModelError when the model does not read tokens or its vocabulary is too small.
    """
    text = getattr(model.config, "get_text_config", lambda: model.config)()
    n_vocab = getattr(text, "vocab_size", None)
    if not isinstance(n_vocab, int) or getattr(model.module, "main_input_name", "input_ids") != "input_ids":
        raise ModelError(f"{type(model.module).__name__} does not read tokens, and the probe is made of tokens.")
    special = _special(model, text)
    allowed = torch.tensor([i for i in range(n_vocab) if i not in special]) if n_vocab < 4096 else None
    if allowed is not None and len(allowed) < length + 1:
        raise ModelError(
            f"a vocabulary of {n_vocab} is too small for {length} different tokens.\n  ask for a smaller length."
        )
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(rows):
        r = _different(n_vocab, allowed, special, length + 1, generator)
        first = next(
            (t for n in ("bos_token_id", "cls_token_id") if isinstance(t := _id(model, text, n), int)), int(r[-1])
        )
        half = r[:length]
        if shuffle:
            order = torch.randperm(length, generator=generator)
            moved = torch.empty(length, dtype=torch.long)
            moved[order] = order.roll(1)  # one cycle: no token keeps its place
        else:
            moved = torch.arange(length)
        out.append(torch.cat([torch.tensor([first]), half, half[moved]]))
    return torch.stack(out)


def _special(model: Model, text: Any) -> set[int]:
    ids: set[int] = set(getattr(model.tokenizer, "all_special_ids", None) or ())
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id"):
        value = getattr(text, name, None)
        ids |= {value} if isinstance(value, int) else set(value or ())
    return ids


def _id(model: Model, text: Any, name: str) -> int | None:
    value = getattr(model.tokenizer, name, None)
    value = value if value is not None else getattr(text, name, None)
    n_vocab = text.vocab_size
    return value if isinstance(value, int) and 0 <= value < n_vocab else None


def _different(n_vocab: int, allowed: Tensor | None, special: set[int], n: int, generator: torch.Generator) -> Tensor:
    """n different tokens; from a large vocabulary by drawing more than needed."""
    if allowed is not None:
        return allowed[torch.randperm(len(allowed), generator=generator)[:n]]
    drawn = torch.randint(n_vocab, (4 * n + 64,), generator=generator).tolist()
    return torch.tensor(list(dict.fromkeys(t for t in drawn if t not in special))[:n])
