"""Small models that tests share: built once, and left as they were found; who changes one is named."""

import functools
from collections.abc import Callable
from typing import ParamSpec

import torch
from torch import Tensor, nn

State = dict[str, tuple[Tensor, bool, bool]]  # values, whether they take gradients, whether one is left
P = ParamSpec("P")
LENT: dict[str, tuple[nn.Module, State]] = {}


def shared(build: Callable[P, nn.Module]) -> Callable[P, nn.Module]:
    """Build once for equal arguments, and remember the state that every test must leave."""

    @functools.cache
    def built(*args: P.args, **kwargs: P.kwargs) -> nn.Module:
        module = build(*args, **kwargs)
        named = ", ".join(map(repr, (*args, *kwargs.values())))
        LENT[f"{build.__name__}({named})"] = module, state(module)
        return module

    return built  # pyright: ignore[reportReturnType] - a cache keeps no signature


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def state(module: nn.Module) -> State:
    return {k: (t.detach().clone(), t.requires_grad, t.grad is not None) for k, t in tensors(module).items()}


def changed() -> list[str]:
    """What is no longer as it was built, in words; it is put back, so that only its culprit fails."""
    found = []
    for name, (module, before) in LENT.items():
        now = tensors(module)
        found += [f"{name}: {k} is new" for k in now.keys() - before.keys()]
        found += [f"{name}: {k} is gone" for k in before.keys() - now.keys()]
        for key in before.keys() & now.keys():
            found += [f"{name}: {key} {what}" for what in restored(now[key], *before[key])]
        if module.training:
            module.eval()
            found.append(f"{name} was left in training mode")
    return sorted(found)


def restored(tensor: Tensor, values: Tensor, takes: bool, left: bool) -> list[str]:
    found = []
    if not torch.equal(tensor.detach().nan_to_num(7.25), values.nan_to_num(7.25)):
        tensor.data.copy_(values)
        found.append("has other values")
    if tensor.requires_grad != takes:
        tensor.requires_grad_(takes)
        found.append("takes gradients" if not takes else "takes no gradients any more")
    if tensor.grad is not None and not left:
        tensor.grad = None
        found.append("holds a gradient")
    return found
