"""KL to the final distribution through the head, with its gradient and without ever holding all scores.

The head's matrix is cut into slabs of tokens, as in `vocabulary`. With z the scores of a state, w the rows of the head
and q the final distribution, each slab adds to sum exp(z - m), to sum exp(z - m) w and to sum q w; at the end
KL = sum q log q + log Z - sum q z, and its gradient at the normed state is sum (softmax(z) - q) w. The last sum is the
same for all layers of a position, unless a softcap bends each score by itself.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.engine.unembed import BUDGET, Unembedding
from inscape.read.lenses.vocabulary import exp_of, log_z, sizes


def kl_to_final(
    unembed: Unembedding,
    states: Float[Tensor, "layer row d_model"],
    ends: Float[Tensor, "row d_model"],
    *,
    budget: int = BUDGET,
) -> Float[Tensor, " layer"]:
    """Mean over rows of KL(p_final | p_lens) of each layer, in nats; differentiable in `states`.

    ends: states after the last layer, whose distribution is the target. Cost: one product with the head and one with
    its transpose a state (one more with a softcap), two and one a position, in the type of autocast where that is on;
    some MB of scores at once, all of them, `budget` bytes at a time, where the head is no single matrix.
    """
    return kl_rows(unembed, states, ends, budget=budget).mean(1)


def kl_rows(
    unembed: Unembedding,
    states: Float[Tensor, "layer row d_model"],
    ends: Float[Tensor, "row d_model"],
    *,
    budget: int = BUDGET,
) -> Float[Tensor, "layer row"]:
    """The same for every row."""
    with torch.no_grad():
        target = unembed.ready(ends)
    value = _KL.apply(states, target, unembed, budget)
    assert isinstance(value, Tensor)
    return value


class _KL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, target: Tensor, unembed: Unembedding, budget: int) -> Tensor:
        layers, rows, _ = states.shape
        wanted = states.requires_grad
        found = torch.zeros(layers, rows, device=states.device)
        gradient = torch.zeros_like(states) if wanted else None
        slabs = unembed.matrix is not None
        step, width = sizes(unembed, layers + 1, states.device, budget if slabs else budget // 5)
        for start in range(0, rows, step):
            here = slice(start, start + step)
            some = states[:, here].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                ready = unembed.ready(some)
            of_rows = _by_slabs if slabs else _whole
            value, slope = of_rows(unembed, ready.detach(), target[here], wanted, width)
            found[:, here] = value
            if gradient is not None and slope is not None:  # asked of the states alone: the norm's weights get none
                gradient[:, here] = torch.autograd.grad(ready, some, slope.to(ready.dtype))[0]
        ctx.gradient = gradient
        return found

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, None, None, None]:
        gradient = ctx.gradient
        if gradient is None:
            return None, None, None, None
        return gradient * outer[0][..., None].to(gradient.dtype), None, None, None


def _by_slabs(
    unembed: Unembedding, ready: Tensor, target: Tensor, wanted: bool, width: int
) -> tuple[Tensor, Tensor | None]:
    """KL of [layer, row] states and its gradient at them, for a head that is one matrix."""
    head = unembed.matrix
    assert head is not None
    layers, rows, d_model = ready.shape
    n, device = layers * rows, ready.device
    cast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else head.weight.dtype
    with torch.autocast(device.type, enabled=False), torch.no_grad():
        flat = ready.reshape(n, d_model)
        log_q = log_z(unembed, target, width, dtype=cast)
        high = torch.full((n,), -torch.inf, device=device)
        total, cross, own = (torch.zeros(k, device=device) for k in (n, n, rows))
        pull, bent, factor = torch.zeros(n, d_model, device=device), None, 1.0
        push = torch.zeros(rows, d_model, device=device)
        for first, raw in unembed.slabs(torch.cat([flat, target]), width, ruled=False, dtype=cast):
            x, slope = unembed.bent(raw)
            weight = head.weight[first : first + x.shape[1]].to(cast)
            log_p = x[n:] - log_q[:, None]
            q = log_p.exp()
            own += _dot(q, log_p)
            if not isinstance(slope, Tensor):
                factor = slope
                push += (q.to(cast) @ weight).float()
                if head.bias is not None:
                    cross += slope * _dot(q, head.bias[first : first + x.shape[1]].float()).repeat(layers)
            else:
                bent = torch.zeros(n, d_model, device=device) if bent is None else bent
                each = q.repeat(layers, 1)
                cross += _dot(each, x[:n])
                if wanted:
                    bent += ((each * slope[:n]).to(cast) @ weight).float()
            x = x[:n]
            now = torch.maximum(high, x.amax(1)).clamp(min=-1e30)
            shrink, high = (high - now).exp(), now
            e = exp_of(x.sub_(now[:, None]))
            total = total * shrink + e.sum(1)
            if wanted:
                e = e * slope[:n] if isinstance(slope, Tensor) else e
                if bool((shrink < 1).any()):
                    pull.mul_(shrink[:, None])
                if cast == torch.float32:
                    pull.addmm_(e, weight)
                else:
                    pull += e.to(cast) @ weight
        if bent is None:
            bent = push.repeat(layers, 1)
            cross += factor * torch.linalg.vecdot(bent, flat.float())
        value = own.repeat(layers) + high + total.log() - cross
        gradient = factor * (pull / total[:, None] - bent) if wanted else None
    return value.view(layers, rows), None if gradient is None else gradient.view(layers, rows, d_model)


def _dot(q: Tensor, x: Tensor) -> Tensor:
    """sum q x of every row, where q = 0 with x = -inf counts nothing."""
    return torch.linalg.vecdot(q, x.clamp(min=-1e30))


def _whole(
    unembed: Unembedding, ready: Tensor, target: Tensor, wanted: bool, width: int
) -> tuple[Tensor, Tensor | None]:
    """The same for any head, with all scores of these rows; `width` says nothing here."""
    log_q = torch.log_softmax(unembed(target, normed=True), -1)
    q = log_q.exp()
    some = ready.detach().requires_grad_(wanted)
    with torch.set_grad_enabled(wanted):
        scores = unembed(some, normed=True)
        cross = scores.logsumexp(-1) - torch.einsum("rv,lrv->lr", q, scores)
        gradient = torch.autograd.grad(cross.sum(), some)[0] if wanted else None
    return (torch.special.xlogy(q, q).sum(-1) + cross).detach(), gradient
