"""The derivative of logits by the strength of an edit, exactly: forward-mode, or reverse-mode twice."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from inscape.core.edit import Edits
from inscape.core.errors import ModelError
from inscape.engine.predictions import Predictions, Sequences
from inscape.steer.targets import frozen


def derivatives(
    predictions: Predictions, seq: Sequences, make: Callable[[Any], Edits]
) -> Iterator[tuple[Float[Tensor, "n vocab"], Float[Tensor, "n vocab"]]]:
    """Logits without steering and their derivative by the strength at 0, some predictions at a time.

    Forward-mode through the whole model; where an operation has none, reverse-mode twice. Exact either way.
    Raises: ModelError where neither passes.
    """
    try:
        with _forward_mode(), sdpa_kernel(SDPBackend.MATH):
            strength = forward_ad.make_dual(torch.tensor(0.0), torch.tensor(1.0))
            state, slope = forward_ad.unpack_dual(predictions.states(seq, make(strength)))
    except (RuntimeError, NotImplementedError) as error:
        if "forward AD" not in str(error) and "forward-mode" not in str(error):
            raise
        state, slope = _twice(predictions, seq, make, error)
    if slope is None or not bool(slope.any()):  # some edits step aside at a strength of 0 that nobody learns
        state, slope = _twice(predictions, seq, make, None)
    for here in predictions.chunks(len(state), 6):
        with _forward_mode():
            dual = forward_ad.make_dual(state[here].detach(), slope[here].detach())
            z, g = forward_ad.unpack_dual(predictions.scores(dual))
        yield z, torch.zeros_like(z) if g is None else g


@contextmanager
def _forward_mode() -> Iterator[None]:
    """torch's forward mode, which loads scripted formulas on first use and warns of how they are written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with forward_ad.dual_level():
            yield


def _twice(
    predictions: Predictions, seq: Sequences, make: Callable[[Any], Edits], error: Exception | None
) -> tuple[Tensor, Tensor]:
    """The derivative of u . dh/ds by u, u of no value: reverse-mode of reverse-mode."""
    try:
        with frozen(predictions.model), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            strength = torch.tensor(0.0, requires_grad=True)
            state = predictions.states(seq, make(strength), grad=True)
            u = torch.zeros_like(state, requires_grad=True)
            (along,) = torch.autograd.grad(state, strength, u, create_graph=True, allow_unused=True)
            slope = torch.zeros_like(u) if along is None else torch.autograd.grad(along, u, allow_unused=True)[0]
    except RuntimeError as again:
        raise ModelError(
            f"{type(predictions.model.module).__name__} has operations without a second derivative "
            f"({str(again).splitlines()[0]}).\n  take rule='bisect', which needs none."
        ) from error
    return state.detach(), torch.zeros_like(u) if slope is None else slope.detach()
