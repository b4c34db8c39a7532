"""An optimizer for penalties with corners: what a sparse group lasso sets to zero is exactly zero."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import InputError


class ProximalAdam(torch.optim.Optimizer):
    """Adam with one step size a tensor, then the proximal step of `l1 |u|_1 + group sqrt(numel) |u|_2` of each tensor.

    u := soft(u - s m, s l1), then u := u max(0, 1 - s group sqrt(numel) / |u|), with m the running mean of gradients
    and s = lr / sqrt(running mean of |g|^2 / numel). One s for all entries of a tensor is what makes the second formula
    the proximal step, and what lets a zero mean that the gradient there is below the penalty, as in plain proximal
    gradient descent; with Adam's step for each entry neither is so. A tensor is a group.

    l1, group: in units of the loss per unit of u; 0 leaves the penalty out. betas, eps: as in Adam.
    Source: Simon et al. 2013 (sparse group lasso); Rodriguez et al. 2025, arXiv:2503.10679.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.05,
        *,
        l1: float = 0.0,
        group: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-12,
    ) -> None:
        if not (lr > 0 and l1 >= 0 and group >= 0):
            raise InputError(f"ProximalAdam({lr=}, {l1=}, {group=}): a rate above 0, penalties of 0 or more.")
        super().__init__(params, {"lr": lr, "l1": l1, "group": group, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of every tensor that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for settings in self.param_groups:
            for u in settings["params"]:
                if u.grad is not None:
                    self._one(u, u.grad, settings)
        return loss

    def _one(self, u: Tensor, grad: Tensor, settings: dict[str, Any]) -> None:
        state = self.state[u]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"] = torch.zeros_like(u)
            state["square"] = torch.zeros((), dtype=u.dtype, device=u.device)
        first, second = settings["betas"]
        state["step"] += 1
        done = float(state["step"])
        state["mean"].lerp_(grad, 1 - first)
        state["square"].lerp_(grad.square().mean(), 1 - second)
        size = settings["lr"] / ((state["square"] / (1 - second**done)).sqrt() + settings["eps"])
        u.sub_(size * state["mean"] / (1 - first**done))
        if settings["l1"]:
            u.copy_(u.sign() * (u.abs() - size * settings["l1"]).clamp(min=0))
        if settings["group"]:
            length = u.norm().clamp(min=torch.finfo(u.dtype).tiny)
            u.mul_((1 - size * settings["group"] * u.numel() ** 0.5 / length).clamp(min=0))
