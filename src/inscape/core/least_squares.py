"""Non-linear least squares for many problems at once: Levenberg and Marquardt's method with bounds, in float64.

Each problem of the batch (a start, a resample) has its own damping:
1. residuals r and Jacobian J at p, exact, by one backward pass (the law acts on every point by itself);
2. solve (J'J + damping diag(J'J)) step = -J'r over the parameters that are not held at a bound;
3. p + step, brought inside the bounds, is taken where the squares fall (damping / 3), else damping * 4;
4. a problem ends when its steps or its gain are below rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Solved:
    """Where each problem ended: params, sum of squares (NaN where it never was finite), Jacobian of the law."""

    params: Float[Tensor, "b k"]
    cost: Float[Tensor, " b"]
    jacobian: Float[Tensor, "b n k"]


def least_squares(
    fn: Callable[..., Tensor],
    t: Float[Tensor, " n"],
    y: Float[Tensor, "b n"],
    start: Float[Tensor, "b k"],
    low: Float[Tensor, " k"],
    high: Float[Tensor, " k"],
    *,
    steps: int = 200,
) -> Solved:
    """Minimise sum (fn(t, *params) - y)^2 for every row of y, from that row of `start`, inside [low, high].

    fn: of t [n] and parameters that broadcast to [b, n]. Cost: two evaluations, a backward and a small solve a step.
    """
    p = start.clone().clamp(low, high)
    damping = torch.full((len(p),), 1e-2, dtype=p.dtype)
    value, jacobian = _linear(fn, t, p)
    cost = (value - y).square().sum(1)
    done = ~torch.isfinite(cost)
    for _ in range(steps):
        if bool(done.all()):
            break
        residual = (value - y).nan_to_num(0.0, 0.0, 0.0)
        j = jacobian.nan_to_num(0.0, 0.0, 0.0)
        gradient = (j * residual[..., None]).sum(1)
        held = ((p <= low) & (gradient > 0)) | ((p >= high) & (gradient < 0))
        j = j.masked_fill(held[:, None], 0.0)
        gram = j.transpose(1, 2) @ j
        diagonal = gram.diagonal(dim1=1, dim2=2).clamp(min=1e-30)
        scale = diagonal.sqrt()
        unit = gram / (scale[:, :, None] * scale[:, None])
        unit = unit + torch.diag_embed(damping[:, None].expand(-1, p.shape[1]) + 1e-14 + held.double())
        step = -torch.linalg.solve(unit, (gradient.masked_fill(held, 0.0) / scale)[..., None])[..., 0] / scale
        new = (p + step).clamp(low, high)
        tried, _ = _linear(fn, t, new, jacobian=False)
        new_cost = (tried - y).square().sum(1)
        better = (new_cost < cost) & ~done
        small = (step.abs() <= 1e-11 * (p.abs() + 1e-11)).all(1)
        gain = (cost - new_cost) <= 1e-14 * cost
        done = done | (better & gain & (damping < 1e-3)) | small | (damping > 1e12)
        p = torch.where(better[:, None], new, p)
        damping = torch.where(better, (damping / 3).clamp(min=1e-14), damping * 4)
        value, jacobian = _linear(fn, t, p)
        cost = torch.where(better, new_cost, cost)
    return Solved(p, cost, jacobian)


def _linear(fn: Callable[..., Tensor], t: Tensor, p: Tensor, *, jacobian: bool = True) -> tuple[Tensor, Tensor]:
    """The law and its Jacobian: every point has its own copy of the parameters, so one backward has all slopes."""
    shape = (len(p), len(t))
    if not jacobian:
        with torch.no_grad():
            return fn(t, *(p[:, i : i + 1] for i in range(p.shape[1]))).expand(shape), p
    with torch.enable_grad():
        copies = tuple(c[:, None].expand(shape).clone().requires_grad_() for c in p.unbind(1))
        value = fn(t, *copies).expand(shape)
        slopes = torch.autograd.grad(value.sum(), copies, allow_unused=True)
    parts = [torch.zeros(shape, dtype=p.dtype) if s is None else s for s in slopes]
    return value.detach(), torch.stack(parts, -1)
