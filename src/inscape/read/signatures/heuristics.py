"""Numbers of a whole item that are made of its signature without learning: what detectors are compared with."""

import zlib
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.read.signatures.signature import Signatures

Heuristic = Callable[[Signatures], Float[Tensor, " item"]]


def mean_log_prob(x: Signatures) -> Float[Tensor, " item"]:
    """`mean_t log p(x_t)`, in nats a token."""
    return _mean(x.log_prob, x)


def min_log_prob(x: Signatures) -> Float[Tensor, " item"]:
    """The least probable token."""
    return x.log_prob.double().masked_fill(~x.mask, torch.inf).amin(1)


def max_log_prob(x: Signatures) -> Float[Tensor, " item"]:
    """The most probable token."""
    return x.log_prob.double().masked_fill(~x.mask, -torch.inf).amax(1)


def perplexity(x: Signatures) -> Float[Tensor, " item"]:
    """`exp(-mean_t log p(x_t))`: what orders items as the mean does, the other way round."""
    return (-mean_log_prob(x)).exp()


def top_k_entropy(x: Signatures) -> Float[Tensor, " item"]:
    """`mean_t -sum_{v in top k} p_v log p_v`, in nats: the part of the entropy that the kept tokens have."""
    p = x.probabilities().double()
    return _mean(-torch.special.xlogy(p, p).sum(-1), x)


def entropy(x: Signatures) -> Float[Tensor, " item"]:
    """`mean_t H(p_t)` over the whole vocabulary, in nats."""
    return _mean(-x.log_mean, x)


def min_k(x: Signatures, share: float = 0.2) -> Float[Tensor, " item"]:
    """Min-K%: the mean of the lowest `share` of the log probabilities, one at least. Source: arXiv:2310.16789."""
    return _lowest(x.log_prob, x, share)


def min_k_plus(x: Signatures, share: float = 0.2) -> Float[Tensor, " item"]:
    """Min-K%++: the same of `(log p(x_t) - E log p) / sd log p`, over each step's own distribution.

    Where a distribution is sure (deviation below 1e-6) the quotient is 0. Source: arXiv:2404.02936.
    """
    spread = x.log_std.double()
    z = torch.where(spread > 1e-6, (x.log_prob.double() - x.log_mean.double()) / spread.clamp(min=1e-6), 0.0)
    return _lowest(z, x, share)


def mean_rank(x: Signatures) -> Float[Tensor, " item"]:
    """`mean_t log(1 + rank_t)`; unknown ranks half way between the kept tokens and the last."""
    return _mean(x.known_ranks().double().log1p(), x)


def worst_rank(x: Signatures) -> Float[Tensor, " item"]:
    """`max_t log(1 + rank_t)`."""
    return x.known_ranks().double().log1p().masked_fill(~x.mask, 0.0).amax(1)


def top_share(x: Signatures) -> Float[Tensor, " item"]:
    """The share of tokens that were the most probable one."""
    return _mean((x.rank == 0).double(), x)


def length(x: Signatures) -> Float[Tensor, " item"]:
    """Tokens alone: what a detector knows that has only learned how long items are."""
    return x.lengths.double()


def zlib_ratio(x: Signatures) -> Float[Tensor, " item"]:
    """Nats of the text over the bytes of its zlib compression. Source: arXiv:2012.07805.

    Raises: InputError where the signatures were kept without their texts.
    """
    if not x.texts:
        raise InputError(
            "the texts of these signatures are not known, so they cannot be compressed: capture(texts=True)."
        )
    size = torch.tensor([len(zlib.compress(t.encode())) for t in x.texts], dtype=torch.float64)
    return -(x.log_prob.double() * x.mask).sum(1) / size


HEURISTICS: dict[str, Heuristic] = {
    f.__name__: f
    for f in (mean_log_prob, min_log_prob, max_log_prob, perplexity, top_k_entropy, entropy, min_k, min_k_plus,
              mean_rank, worst_rank, top_share, length, zlib_ratio)
}  # fmt: skip


def _mean(value: Tensor, x: Signatures) -> Float[Tensor, " item"]:
    return (value.double() * x.mask).sum(1) / x.lengths.clamp(min=1)


def _lowest(value: Tensor, x: Signatures, share: float) -> Float[Tensor, " item"]:
    if not 0 < share <= 1:
        raise InputError(f"share={share}: it is the part of the tokens that counts, above 0 and at most 1.")
    ordered = value.double().masked_fill(~x.mask, torch.inf).sort(1).values
    n = (x.lengths * share).floor().long().clamp(min=1)
    counted = torch.arange(ordered.shape[1])[None] < n[:, None]
    return torch.where(counted, ordered, 0.0).sum(1) / n
