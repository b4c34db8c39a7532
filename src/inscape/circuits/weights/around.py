"""What stands around the projections of an attention layer: the norm before, what follows the output, the scores."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from inscape.engine.norms import Norm, norm_of
from inscape.models.points import Block, Point


def feeding(
    block: Block, at: Mapping[str, Tensor], values: Mapping[str, Tensor], norms: dict[str, nn.Module], tolerance: float
) -> tuple[str, Norm | None, nn.Module | None, float, str]:
    """The norm between the stream and attention, by its values."""
    inside, pre = at["attn.in"], at.get("resid_pre")
    own = f"{block.name}.attn.in"
    if pre is None or pre.shape != inside.shape:
        return own, None, None, 1.0, "attention does not read the stream alone: weights apply to attn.in"
    stream = f"{block.name}.resid_pre"
    if off(pre, inside) <= tolerance:
        return stream, None, None, 1.0, ""
    for path, module in norms.items():
        taken, given = values.get(f"@{path}:in"), values.get(f"@{path}")
        if taken is None or given is None or given.shape != inside.shape or off(taken, pre) > tolerance:
            continue
        factor = float((given.double() * inside.double()).sum() / given.double().square().sum().clamp(min=1e-30))
        if off(given.double() * factor, inside.double()) > tolerance:
            continue
        norm = norm_of(module, (inside.shape[-1],), inside)
        if norm is not None:
            factor = 1.0 if abs(factor - 1) < 1e-6 else factor
            return stream, norm, module, factor, ""
    return own, None, None, 1.0, "no norm of this block makes attn.in of the stream: weights apply to attn.in"


def entering(
    block: Block, at: Mapping[str, Tensor], values: Mapping[str, Tensor], tolerance: float
) -> tuple[Tensor | float, Norm | None, nn.Module | None, str]:
    """What happens between the output projection and the stream: nothing, a multiplier, a layer scale or a norm."""
    raw, added = values.get(f"@{bare(block.points['attn.z'])}"), at.get("attn_out")
    if raw is None or added is None or raw.numel() != added.numel():
        return 1.0, None, None, "attention adds nothing to the stream itself here"
    raw = raw.reshape(added.shape)
    if off(raw, added) <= tolerance:
        return 1.0, None, None, ""
    x, y = raw.flatten(0, -2).double(), added.flatten(0, -2).double()
    gain = (x * y).sum(0) / x.square().sum(0).clamp(min=1e-30)
    if off(x * gain, y) <= 10 * tolerance:
        if float((gain - gain.mean()).abs().max()) <= 10 * tolerance * float(gain.abs().max()):
            return float(gain.mean()), None, None, f"what heads write is multiplied by {float(gain.mean()):.4g}: folded"
        return gain.float(), None, None, "what heads write passes a layer scale: folded"
    module = block.points["attn_out"].module
    norm = norm_of(module, (added.shape[-1],), added)
    if norm is None:
        return 1.0, None, None, "attn_out is not made of the output projection in a way that could be identified"
    text = "the sum of the heads passes a norm: its gain is folded, its size depends on all heads and is left out"
    return 1.0, norm, module, text


def scaling(at: Mapping[str, Tensor], heads: int, k_heads: int) -> tuple[float | None, str]:
    q, k, scores = (at.get(f"attn.{n}") for n in ("q", "k", "scores"))
    if q is None or k is None or scores is None or q.shape[-1] != k.shape[-1]:
        return None, ""
    wide = k.repeat_interleave(heads // k_heads, 2).double()
    products = torch.einsum("bqhd,bkhd->bhqk", q.double(), wide)
    real = torch.isfinite(scores) & (products.abs() > 1e-3 * products.abs().max())
    ratio = scores.double()[real] / products[real]
    if not len(ratio):
        return None, ""
    middle = ratio.median()
    if float((ratio - middle).abs().max()) <= 2e-2 * float(middle.abs()):
        return float(middle), ""
    return None, "scores are no multiple of q . k: a soft cap or a bias stands between"


def between(at: Mapping[str, Tensor], heads: int, v_heads: int, tolerance: float) -> str:
    """With one token, z is v, unless something stands between."""
    z, v = at["attn.z"].double(), at["attn.v"].double().repeat_interleave(heads // v_heads, 2)
    if z.shape != v.shape:
        return "z and v differ in width"
    if off(z, v) <= 10 * tolerance:
        return ""
    share = (z * v).sum(-1, keepdim=True) / v.square().sum(-1, keepdim=True).clamp(min=1e-30)
    if off(z, share * v) <= 10 * tolerance:
        return "part of the attention goes to a sink of the head's own"
    return "z is gated after attention: the OV map leaves the gate out"


def bare(point: Point) -> str:
    return point.path.split(":")[0].split("@")[0].split("[")[0]


def off(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm().clamp(min=1e-30))
