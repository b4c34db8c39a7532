"""Output signatures: what a model's distributions over the next token looked like, step by step, and what came.

A step is one token that was predicted. Step j of an item is about its j-th token of the span, whose distribution the
model gave one position earlier; nothing here has the vocabulary as an axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.errors import InputError, ShapeError

UNKNOWN = -1  # a rank that is only known to be beyond the kept tokens
CONSTANT = 1e-6  # sigma over mu below which a distribution is constant: rounding of float32 gives 1e-7


@dataclass(frozen=True, eq=False)
class Signatures:
    """Signatures of n items, padded on the right to the longest; what is under the mask counts.

    top: the k largest probabilities of every step, falling (float16; logs where `values` is "log").
    log_prob: of the token that came, in nats. rank: how many tokens of the whole vocabulary were more probable than it
        (0: it was the top), equal ones in the order of their ids; -1 where that is not known.
    mu, sigma: mean and standard deviation of all probabilities of the step (over the vocabulary, before anything was
        cut off). log_mean, log_std: mean and deviation of the log probability of a token drawn from the step's own
        distribution; -log_mean is the entropy, in nats.
    tokens: what came, -1 where only its probability is known. approximate: mu, sigma, log_mean and log_std are made
        from the kept tokens and what is left for all others. texts: of the items, where they are known.
    """

    top: Float[Tensor, "item step k"]
    log_prob: Float[Tensor, "item step"]
    rank: Int[Tensor, "item step"]
    mu: Float[Tensor, "item step"]
    sigma: Float[Tensor, "item step"]
    log_mean: Float[Tensor, "item step"]
    log_std: Float[Tensor, "item step"]
    mask: Bool[Tensor, "item step"]
    tokens: Int[Tensor, "item step"]
    n_vocab: int
    values: str = "probability"
    span: str = "given"
    approximate: bool = False
    model: str = ""
    texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def k(self) -> int:
        """Probabilities kept a step."""
        return self.top.shape[-1]

    @property
    def lengths(self) -> Int[Tensor, " item"]:
        """Steps of each item."""
        return self.mask.sum(1)

    @property
    def unknown_ranks(self) -> float:
        """The share of steps whose rank is not known; 0 for signatures that were captured from a model."""
        return float((self.rank[self.mask] == UNKNOWN).float().mean()) if bool(self.mask.any()) else 0.0

    def probabilities(self, k: int | None = None) -> Float[Tensor, "item step k2"]:
        """The k largest of every step, in float32, also where logs are stored. Padding is 0."""
        top = self.top[..., : k or self.k].float()
        return (top.exp() if self.values == "log" else top) * self.mask[..., None]

    def known_ranks(self) -> Float[Tensor, "item step"]:
        """Ranks as numbers; one that is unknown stands half way between the kept tokens and the last."""
        beyond = torch.tensor((self.k + self.n_vocab - 1) / 2)
        return torch.where(self.rank == UNKNOWN, beyond, self.rank.float())

    def select(self, index: Any) -> "Signatures":
        """Some of the items, by number or by a mask, as wide as the longest of them."""
        chosen = torch.as_tensor(index)
        chosen = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen.long()
        width = max(int(self.mask[chosen].sum(1).max()), 1) if len(chosen) else 1
        cut = {name: getattr(self, name)[chosen, :width] for name in PER_STEP}
        texts = tuple(self.texts[i] for i in chosen.tolist()) if self.texts else ()
        return replace(self, **cut, texts=texts)

    def padded(self, steps: int, *, truncate: bool = False) -> "Signatures":
        """The same with so many steps; longer items are refused, or with `truncate` lose their last steps."""
        longest = int(self.lengths.max()) if len(self) else 0
        if longest > steps and not truncate:
            at = int(self.lengths.argmax())
            raise InputError(
                f"item {at} has {longest} steps, and {steps} is the most.\n"
                "  pass truncate=True to keep the first ones, or fit with a larger n_max."
            )
        now = self.mask.shape[1]
        if now >= steps:
            return replace(self, **{name: getattr(self, name)[:, :steps] for name in PER_STEP})
        wide = {}
        for name in PER_STEP:
            held = getattr(self, name)
            more = held.new_zeros(held.shape[0], steps - now, *held.shape[2:])
            wide[name] = torch.cat([held, more], 1)
        return replace(self, **wide)

    def in_another_order(self, seed: int = 0) -> "Signatures":
        """Every item with its steps in a random order: the control for what their order tells."""
        draw = torch.rand(self.mask.shape, generator=torch.Generator().manual_seed(seed))
        order = torch.where(self.mask, draw, 2.0).argsort(dim=1, stable=True)
        moved = {n: getattr(self, n).gather(1, order) for n in PER_STEP if n != "top"}
        top = self.top.gather(1, order[..., None].expand_as(self.top))
        return replace(self, top=top, **moved, texts=())

    def check_not_constant(self) -> None:
        """Raise InputError where all tokens of a step are equally probable: nothing can be divided by its sigma."""
        flat = self.mask & (self.sigma <= CONSTANT * self.mu)
        if bool(flat.any()):
            item, step = flat.nonzero()[0].tolist()
            raise InputError(
                f"step {step} of item {item} has a constant distribution (sigma = 0): every one of {self.n_vocab:,} "
                f"tokens is as probable as any other, as in {int(flat.sum())} steps in all.\n"
                "  such a model has said nothing; leave these items out with select()."
            )


PER_STEP = ("top", "log_prob", "rank", "mu", "sigma", "log_mean", "log_std", "mask", "tokens")


def together(parts: Sequence[Signatures]) -> Signatures:
    """Signatures of several runs as one, in their order.

    Raises: InputError for none; ShapeError where they keep another k, values or span, or are of another vocabulary.
    """
    if not parts:
        raise InputError("there are no signatures to put together.")
    first = parts[0]
    for part in parts[1:]:
        for name in ("k", "n_vocab", "values", "span"):
            if getattr(part, name) != getattr(first, name):
                raise ShapeError(
                    f"signatures with {name}={getattr(first, name)!r} and {name}={getattr(part, name)!r} are no one "
                    "set.\n  capture them alike, or keep them apart."
                )
    width = max(part.mask.shape[1] for part in parts)
    wide = [part.padded(width) for part in parts]
    texts = tuple(t for p in parts for t in p.texts) if all(p.texts or not len(p) for p in parts) else ()
    return replace(
        first,
        **{name: torch.cat([getattr(p, name) for p in wide]) for name in PER_STEP},
        approximate=any(p.approximate for p in parts),
        model=first.model if all(p.model == first.model for p in parts) else "",
        texts=texts,
    )
