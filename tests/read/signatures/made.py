"""Signatures made by hand: sequences whose distributions are drawn, so that what can be told from them is known."""

import torch

from inscape.read.signatures import Signatures
from inscape.read.signatures.capturing import step_statistics


def signatures(scores: torch.Tensor, came: torch.Tensor, k: int = 8, lengths: torch.Tensor | None = None) -> Signatures:
    """From scores [item, step, vocab] and the tokens that came [item, step]."""
    n, steps, vocab = scores.shape
    flat = step_statistics(scores.reshape(-1, vocab), came.reshape(-1), k)
    wide = {name: value.reshape(n, steps, *value.shape[1:]) for name, value in flat.items()}
    wide["top"], wide["rank"] = wide["top"].half(), wide["rank"].int()
    lengths = torch.full((n,), steps) if lengths is None else lengths
    mask = torch.arange(steps)[None] < lengths[:, None]
    wide = {name: value * (mask[..., None] if value.ndim == 3 else mask) for name, value in wide.items()}
    return Signatures(**wide, mask=mask, tokens=came.int(), n_vocab=vocab)


def drawn(
    n: int = 120, steps: int = 12, vocab: int = 40, k: int = 8, seed: int = 0, ragged: bool = False
) -> Signatures:
    """Random scores of several sharpnesses, and tokens drawn from them."""
    g = torch.Generator().manual_seed(seed)
    sharp = torch.rand(n, 1, 1, generator=g) * 3 + 0.5
    scores = torch.randn(n, steps, vocab, generator=g) * sharp
    came = torch.multinomial(scores.softmax(-1).reshape(-1, vocab), 1, generator=g).reshape(n, steps)
    lengths = torch.randint(3, steps + 1, (n,), generator=g) if ragged else None
    return signatures(scores, came, k, lengths)
