"""How few neurons of each MLP are at work for a token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ModelError
from inscape.engine.forward import run
from inscape.models.model import Model


@dataclass(frozen=True, eq=False)
class Sparsity:
    """Per layer, means over real tokens of the neurons (what the down projection reads).

    zero: share that is exactly 0. near: share with |a| below `threshold` times the layer's root mean square. hoyer: 0
    for equal sizes, 1 for a single neuron. silent: share of neurons that are near zero at every token of all inputs.
    control_near, control_hoyer: the same numbers of Gaussian values of equal variance; None without a control.
    """

    layers: tuple[str, ...]
    zero: Float[Tensor, " layer"]
    near: Float[Tensor, " layer"]
    hoyer: Float[Tensor, " layer"]
    silent: Float[Tensor, " layer"]
    control_near: Float[Tensor, " layer"] | None
    control_hoyer: Float[Tensor, " layer"] | None
    threshold: float
    n_tokens: int
    n_neurons: tuple[int, ...]


def hoyer(x: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows"]:
    """Hoyer's sparsity: (sqrt(n) - |x|_1 / |x|_2) / (sqrt(n) - 1); 0 for equal sizes, 1 for one non-zero entry.

    An all-zero row has no direction and counts as 0. Source: Hoyer 2004.
    """
    n = x.shape[-1]
    if n < 2:
        raise InputError("sparsity of a single neuron means nothing; hoyer needs at least two.")
    lengths = x.norm(dim=-1)
    ratio = x.abs().sum(-1) / lengths.clamp(min=torch.finfo(x.dtype).tiny)
    return torch.where(lengths > 0, (math.sqrt(n) - ratio) / (math.sqrt(n) - 1), torch.zeros_like(ratio))


def neuron_sparsity(
    model: Model, inputs: Sequence[Any], *, threshold: float = 0.1, control: str | None = "gaussian", seed: int = 0
) -> Sparsity:
    """Share of zero and near-zero neurons and Hoyer sparsity of every MLP, over the tokens of several inputs.

    near = P(|a| < threshold * rms), rms over all tokens and neurons of the layer and one input.
    inputs: one entry a run; memory stays that of the largest. control: "gaussian" draws values of the same variance,
    for which near is erf(threshold / sqrt 2) and Hoyer about 0.2 whatever the width; a dense code looks like them.
    Cost: one forward an input, without the head.
    Raises: ModelError for a model without mlp.act (a mixture of experts keeps its neurons inside the experts).
    """
    if control not in (None, "gaussian"):
        raise InputError(f"control={control!r} is none of neuron_sparsity; it can be 'gaussian' or None.")
    names = [f"{b.name}.mlp.act" for b in model.blocks if f"{b.name}.mlp.act" in model.sites]
    if not names:
        raise ModelError(f"{type(model.module).__name__} offers no mlp.act: no layer has neurons that its table names.")
    totals = {name: torch.zeros(5, dtype=torch.float64) for name in names}
    loudest: dict[str, Tensor] = {}
    n_tokens = 0
    for index, one in enumerate(inputs):
        trace = run(model, one, read=names)
        for layer, name in enumerate(names):
            a = trace[name]
            real = trace.mask if trace.mask is not None and trace.mask.shape == a.shape[:2] else None
            rows = a[real.to(a.device)].float() if real is not None else a.reshape(-1, a.shape[-1]).float()
            totals[name] += _sums(rows, threshold, (seed * 1009 + index) * 1009 + layer if control else None)
            level = rows.abs().amax(0) / rows.square().mean().sqrt().clamp(min=1e-30)
            loudest[name] = torch.maximum(loudest[name], level) if name in loudest else level
            n_tokens += len(rows) if layer == 0 else 0
    means = torch.stack([totals[name] / n_tokens for name in names]).float()
    silent = torch.tensor([float((loudest[name] < threshold).float().mean()) for name in names])
    return Sparsity(
        tuple(names),
        means[:, 0],
        means[:, 1],
        means[:, 2],
        silent,
        means[:, 3] if control else None,
        means[:, 4] if control else None,
        threshold,
        n_tokens,
        tuple(len(loudest[n]) for n in names),
    )


def _sums(rows: Tensor, threshold: float, seed: int | None) -> Tensor:
    """Sums over rows of: share of zeros, of near zeros, Hoyer, and the last two of Gaussian rows."""
    rms = rows.square().mean().sqrt().clamp(min=1e-30)
    out = [(rows == 0).float().mean(-1).sum(), (rows.abs() < threshold * rms).float().mean(-1).sum(), hoyer(rows).sum()]
    if seed is None:
        out += [torch.zeros(())] * 2
    else:
        drawn = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed)).to(rows.device) * rms
        out += [(drawn.abs() < threshold * rms).float().mean(-1).sum(), hoyer(drawn).sum()]
    return torch.stack([x.double().cpu() for x in out])
