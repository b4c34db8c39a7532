"""Masks to compare a map of voids with: as many skips for every token, at layers chosen in another way."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError


def random_voids(
    like: Bool[Tensor, "layer *places"], *, keep: int | tuple[int, ...] = (), seed: int = 0
) -> Bool[Tensor, "layer *places"]:
    """As many skipped layers for every token as `like` has, drawn at random.

    keep: layers that are never drawn (the first, say, without which nothing works). They keep what `like` has there.
    Raises: InputError for a layer to keep that is not there.
    """
    generator = torch.Generator().manual_seed(seed)
    score = torch.rand(like.shape, generator=generator)
    return _most(score, like, keep)


def fixed_voids(
    like: Bool[Tensor, "layer *places"], mask: Bool[Tensor, "*places"] | None = None
) -> Bool[Tensor, "layer *places"]:
    """The same layers for every token: those most often void, as many as a token has voids on average.

    What is left of `like` beyond this is what it knows of single tokens. mask: real tokens, when some are padding.
    """
    mask = torch.ones_like(like[0]) if mask is None else mask
    if not bool(mask.any()):
        raise InputError("no token is real: there is nothing to count voids of.")
    share = like[:, mask].float().mean(1)
    count = round(float(share.sum()))
    chosen = torch.zeros(len(like), dtype=torch.bool)
    chosen[share.argsort(descending=True, stable=True)[:count]] = True
    return chosen.reshape(-1, *[1] * mask.ndim) & mask


def magnitude_matched_voids(
    like: Bool[Tensor, "layer *places"], size: Float[Tensor, "..."], *, keep: int | tuple[int, ...] = ()
) -> Bool[Tensor, "layer *places"]:
    """As many layers of every token whose updates are of the most similar lengths: is it only that voids are short?

    Layer by layer, from the first void on, the one that is nearest in log size of those not void and not yet taken.
    size: lengths of the updates (`VoidMap.size`). Where a token has more voids than other layers, the rest stay.
    Raises: ShapeError for sizes of another shape; InputError when they are unknown.
    """
    if size.shape != like.shape:
        raise ShapeError(f"sizes of shape {tuple(size.shape)} for a map of shape {tuple(like.shape)}.")
    if not bool(torch.isfinite(size[like]).all()):
        raise InputError("the sizes of updates are unknown here: a stream saw lengths only.\n  use void_map.")
    flat, log = like.flatten(1), size.flatten(1).clamp(min=1e-30).log()
    free = ~flat
    free[list(_kept(keep, len(like)))] = False
    out = torch.zeros_like(flat)
    columns = torch.arange(flat.shape[1])
    for layer in range(len(flat)):
        here = flat[layer]
        far = torch.where(free, (log - log[layer]).abs(), float("inf"))
        best = far.argmin(0)
        found = here & torch.isfinite(far[best, columns])
        out[best[found], columns[found]] = True
        free[best[found], columns[found]] = False
        out[layer, here & ~found] = True
    return out.reshape(like.shape)


def _most(score: Tensor, like: Tensor, keep: int | tuple[int, ...]) -> Tensor:
    """The highest scores of every token, as many as it has voids beside the kept layers."""
    kept = list(_kept(keep, len(like)))
    score = score.clone()
    score[kept] = -1.0
    count = like.sum(0) - like[kept].sum(0)
    rank = score.argsort(0, descending=True).argsort(0)
    out = rank < count
    out[kept] = like[kept]
    return out


def _kept(keep: int | tuple[int, ...], n: int) -> tuple[int, ...]:
    kept = (keep,) if isinstance(keep, int) else tuple(keep)
    wrong = [layer for layer in kept if not -n <= layer < n]
    if wrong:
        raise InputError(f"keep={wrong}: there are {n} layers.")
    return tuple(layer % n for layer in kept)
