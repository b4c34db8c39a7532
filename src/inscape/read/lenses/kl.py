"""KL to the final distribution through the head, with its gradient and without all scores at once.

The gradient of a few positions is computed together with their loss, so that scores are made once and thrown away;
only the gradient at the states is kept, which is as small as the states.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.engine.unembed import BUDGET, Unembedding


def kl_to_final(
    unembed: Unembedding,
    states: Float[Tensor, "layer row d_model"],
    ends: Float[Tensor, "row d_model"],
    *,
    budget: int = BUDGET,
) -> Float[Tensor, " layer"]:
    """Mean over rows of KL(p_final | p_lens) of each layer, in nats; differentiable in `states`.

    ends: states after the last layer, whose distribution is the target. Cost: one product with the head and one with
    its transpose a state; about five tensors of scores of `budget` bytes in all are alive at once.
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
    value = _KL.apply(states, ends, unembed, max(1, budget // (4 * unembed.n_vocab * 5)))
    assert isinstance(value, Tensor)
    return value


class _KL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, ends: Tensor, unembed: Unembedding, step: int) -> Tensor:
        layers, rows, _ = states.shape
        wanted = states.requires_grad
        found = torch.zeros(layers, rows, device=states.device)
        gradient = torch.zeros_like(states) if wanted else None
        per = max(1, step // layers)  # rows, with all their layers, while these fit; else layers one after the other
        group = layers if step >= layers else step
        for start in range(0, rows, per):
            here = slice(start, start + per)
            with torch.no_grad():
                log_p = torch.log_softmax(unembed(ends[here]), -1)
                p = log_p.exp()
                own = torch.special.xlogy(p, p).sum(-1)
            for first in range(0, layers, group):
                some = states[first : first + group, here].detach().requires_grad_(wanted)
                with torch.set_grad_enabled(wanted):
                    scores = unembed(some)
                    cross = scores.logsumexp(-1) - torch.einsum("rv,lrv->lr", p, scores)
                    if gradient is not None:
                        gradient[first : first + group, here] = torch.autograd.grad(cross.sum(), some)[0]
                found[first : first + group, here] = (own + cross).detach()
        ctx.gradient = gradient
        return found

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, None, None, None]:
        gradient = ctx.gradient
        if gradient is None:
            return None, None, None, None
        return gradient * outer[0][..., None].to(gradient.dtype), None, None, None
