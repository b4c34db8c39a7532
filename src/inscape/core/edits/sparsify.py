"""Edits that keep few units: the largest k of a token, k random ones, or those above a threshold.

Meant for the neurons (`layers.*.mlp.act`, what the down projection reads), where a unit set to 0 need not be read; they
work at any site. What is kept goes on as it is and its gradient with it; what is cut is 0 and has none.
"""

import zlib
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from inscape.core.edit import Edit, make_edit
from inscape.core.errors import EditError, ShapeError
from inscape.core.step import Step

PER = ("token", "batch")
BY = ("absolute", "largest")


def topk_activation(site: str, k: int | float, *, per: str = "token", by: str = "absolute", **places: Any) -> Edit:
    """Keep the k largest units and set the rest to 0; a zero stays zero, so fewer than k non-zeros may be left.

    Of equal units at the bar the first are kept, so that never more than k are, on any device.
    Choose `per="token"` to train or run with a fixed budget a token; "batch" keeps the largest of all real tokens of a
    call together, so that tokens may have unequal shares (in cached decoding a call is one step).

    k: an int counts units a token; a float in (0, 1] is their share. by: "absolute" |a|, or "largest" a, which never
    keeps a negative value of a smooth activation before a positive one; the same for rectified neurons.
    Cost: one selection a token. Raises: EditError for a k below 1 or a share outside (0, 1]; ShapeError when it meets
    fewer than k units.
    Source: Li et al. 2022, arXiv:2210.06313, section 4 ("largest", per token); Luo et al. 2024, arXiv:2411.02335,
    takes "absolute" per batch.
    """
    budget, said = _budget(k, "topk_activation")
    if per not in PER or by not in BY:
        raise EditError(f"topk_activation(per={per!r}, by={by!r}): per is one of {PER}, by of {BY}.")

    def fn(x: Tensor, step: Step) -> Tensor:
        score = x.detach().abs() if by == "absolute" else x.detach()
        n = units_kept(budget, x.shape[-1], site)
        if per == "token":
            kept = largest(score, n)
        else:
            real = _real(x, step)
            kept = torch.zeros_like(x, dtype=torch.bool)
            taken = score[real]
            kept[real] = largest(taken.reshape(1, -1), n * (taken.numel() // x.shape[-1])).reshape(taken.shape)
        return torch.where(kept, x, torch.zeros((), dtype=x.dtype, device=x.device))

    spec = {"kind": "topk_activation", "k": k, "per": per, "by": by}
    label = f"{site} top {said}" + ("" if per == "token" else " of the batch")
    return make_edit(site, fn, label, contextual=True, spec=spec, **places)


def random_k(site: str, k: int | float, *, seed: int | None = 0, **places: Any) -> Edit:
    """Keep k random units of each token and set the rest to 0: the control of `topk_activation`.

    The units follow from seed, site, row and real position alone: a token keeps the same ones in a forward, in cached
    decoding and on either padding side. seed=None draws anew in every call, from torch's global generator, for a
    control that is trained (a set that stays the same would be a narrower layer).
    k and errors as in `topk_activation`.
    """
    budget, said = _budget(k, "random_k")

    def fn(x: Tensor, step: Step) -> Tensor:
        n = units_kept(budget, x.shape[-1], site)
        if seed is None:
            score = torch.rand(x.shape, device=x.device)
        else:
            score = _hashed(x, step, seed)
        return torch.where(largest(score, n), x, torch.zeros((), dtype=x.dtype, device=x.device))

    spec = {"kind": "random_k", "k": k, "seed": seed}
    return make_edit(site, fn, f"{site} random {said}", contextual=True, spec=spec, **places)


def threshold_activation(site: str, below: int | float | Float[Tensor, " units"], **places: Any) -> Edit:
    """Set every unit with |a| < below to 0. below: a number, or one a unit (see `read.sparsity.cett`).

    Raises: EditError for a negative threshold; ShapeError for as many thresholds as the site has not.
    """
    bar = below.detach() if isinstance(below, Tensor) else torch.tensor(float(below), dtype=torch.float64)
    if bar.ndim > 1 or bool((bar < 0).any()) or bool(bar.isnan().any()):
        raise EditError(
            f"threshold_activation(below=...): one number of at least 0, or one a unit; got {tuple(bar.shape)}, "
            f"smallest {float(bar.min()):g}."
        )

    def fn(x: Tensor) -> Tensor:
        if bar.ndim and len(bar) != x.shape[-1]:
            raise ShapeError(f"threshold_activation at {site}: {len(bar)} thresholds for {x.shape[-1]} units.")
        kept = x.detach().abs() >= bar.to(x.device, torch.promote_types(x.dtype, torch.float32))
        return torch.where(kept, x, torch.zeros((), dtype=x.dtype, device=x.device))

    said = f"{float(bar):g}" if not bar.ndim else "thresholds a unit"
    spec = {"kind": "threshold_activation"}
    return make_edit(site, fn, f"{site} cut below {said}", spec=spec, tensors={"below": bar}, **places)


def largest(score: Num[Tensor, "*rows n"], k: int) -> Bool[Tensor, "*rows n"]:
    """Where the k largest of each row are; of those equal to the smallest kept, the first."""
    if k >= score.shape[-1]:
        return torch.ones_like(score, dtype=torch.bool)
    bar = score.topk(k, dim=-1).values[..., -1:]
    kept, tied = score > bar, score == bar
    room = k - kept.sum(-1, keepdim=True)
    if bool((tied.sum(-1, keepdim=True) > room).any()):
        tied &= tied.long().cumsum(-1) <= room
    return kept | tied


def units_kept(budget: int | float, n: int, site: str) -> int:
    """How many of n units a budget means; at least one."""
    if isinstance(budget, float):
        return max(1, round(budget * n))
    if budget > n:
        raise ShapeError(
            f"k={budget} at {site}: it has {n} units.\n  give a smaller k, or a share as a float: k=0.1 keeps a tenth."
        )
    return budget


def _budget(k: int | float, name: str) -> tuple[int | float, str]:
    is_count = isinstance(k, int) and not isinstance(k, bool)
    if (is_count and k >= 1) or (isinstance(k, float) and 0 < k <= 1):
        return k, f"{k:g} units" if is_count else f"{k:.3g} of the units"
    raise EditError(f"{name}(k={k!r}): an int of at least 1 counts units, a float in (0, 1] is their share.")


def _real(x: Tensor, step: Step) -> Bool[Tensor, "batch pos"]:
    real = step.real[:, step.start :] >= 0
    return (real if real.shape == x.shape[:2] else torch.ones(x.shape[:2], dtype=torch.bool)).to(x.device)


def _hashed(x: Tensor, step: Step, seed: int) -> Int[Tensor, "batch pos *units"]:
    """A number for every unit of every real position, the same however the position is reached."""
    if x.ndim < 3:
        return _hashed(x[:, None], step, seed)[:, 0]
    real = step.real[:, step.start :]
    if real.shape != x.shape[:2]:
        real = torch.arange(x.shape[1]).expand(x.shape[:2])
    row = torch.arange(x.shape[0])[:, None].to(x.device)
    start = (seed * 1_000_003 + zlib.crc32(step.site.encode())) & 0x7FFFFFFF
    mixed = _mixed(_mixed(row + start) ^ real.clamp(min=0).to(x.device))
    units = torch.arange(x[0, 0].numel(), device=x.device).reshape(x.shape[2:])
    return _mixed(mixed.reshape(*mixed.shape, *[1] * units.ndim) ^ units)


def _mixed(x: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """The 32-bit finalizer of MurmurHash3 in int64: equal on every device."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return x
