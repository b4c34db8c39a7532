"""A model with its weights rounded to a few bits, beside the untouched one."""

import copy
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inscape.core.errors import InputError, ModelError
from inscape.models.model import Model


def rounded_weights(weight: Float[Tensor, "out in"], bits: int) -> Float[Tensor, "out in"]:
    """Round to nearest on a symmetric grid of 2^bits - 1 levels for each output channel: `s round(w / s)`.

    s = max |w| of the channel / (2^(bits - 1) - 1), so the largest weight is kept and zero stays zero. The values come
    back in the weight's own dtype: what is lost is precision, no memory is saved. Raises: InputError for other bits.
    """
    if not isinstance(bits, int) or not 2 <= bits <= 16:
        raise InputError(f"bits={bits}: weights are rounded to 2 to 16 bits.")
    top = 2 ** (bits - 1) - 1
    wide = weight.detach().float()
    step = wide.abs().amax(-1, keepdim=True) / top
    step = torch.where(step > 0, step, torch.ones_like(step))
    return ((wide / step).round().clamp(-top, top) * step).to(weight.dtype)


def rounded(model: Model, bits: int = 8, *, head: bool = False) -> Model:
    """The same model with the weights of its linear layers rounded to `bits`; the one given is left as it is.

    Choose it to ask what coarse weights do to what is inside; it is no quantised model, runs no faster and needs
    memory for the rounded weights. Everything else (embeddings, norms, biases) is shared with the original.
    head: round the output head too; it is left alone by default, as most quantisers leave it, also where it is tied to
    the embeddings. Transformers' `Conv1D` (GPT-2) counts as linear.
    Raises: ModelError for a model without linear layers in floating point; InputError for bits outside 2 to 16.
    Source: round to nearest per channel, the plainest weight quantisation.
    """
    module = model.module
    spared = {id(p) for p in _head(module) if not head}
    memo: dict[int, Any] = {id(t): t for t in (*module.parameters(), *module.buffers())}
    changed = 0
    for part in module.modules():
        weight = getattr(part, "weight", None)
        is_linear = isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"
        if not is_linear or not isinstance(weight, nn.Parameter) or not weight.is_floating_point():
            continue
        if id(weight) in spared:
            continue
        turned = type(part).__name__ == "Conv1D"  # [in, out]
        made = rounded_weights(weight.T if turned else weight, bits)
        memo[id(weight)] = nn.Parameter((made.T if turned else made).contiguous(), requires_grad=weight.requires_grad)
        changed += 1
    if not changed:
        raise ModelError(f"{type(module).__name__} has no linear layer with floating-point weights to round.")
    notes = (*model.notes, f"weights rounded to {bits} bits")
    return replace(model, module=copy.deepcopy(module, memo), notes=notes, status={}, plans={}, ready=False)


def _head(module: nn.Module) -> list[nn.Parameter]:
    """The weights of the output head, and of the embeddings, which may be the same."""
    found: list[nn.Parameter] = []
    for ask in ("get_output_embeddings", "get_input_embeddings"):
        part = getattr(module, ask, lambda: None)()
        found += list(part.parameters()) if isinstance(part, nn.Module) else []
    return found
