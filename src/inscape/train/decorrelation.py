"""Keep representations away from one direction: a penalty on the cosine to an anchor, for any training loop."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError, TokenError

Anchor = int | Tensor | Callable[[Tensor], Tensor]


def decorrelation(
    states: Tensor | Sequence[Tensor],
    anchor: Anchor = 0,
    *,
    mask: Tensor | None = None,
    power: int = 2,
    detach_anchor: bool = False,
) -> Float[Tensor, ""]:
    """Mean over layers and tokens of |cos(h_anchor, h_j)|^power, the anchor and padding left out.

    Add `weight * decorrelation(trace.values(), mask=trace.mask)` of an `ins.run(..., grad=True)` to a loss: tokens stop
    pointing where the first one points, which is what makes them attention sinks.
    states: [batch, pos, d_model] of one or several layers, in the graph. anchor: a position among each row's real
    tokens (so that left padding does not matter; -1 is the last); a vector [d_model], or one a row [batch, d_model];
    or a function of the states that gives one. mask: real tokens [batch, pos]; all when left out. power: 1 or 2.
    detach_anchor: the anchor gets no gradient; otherwise penalising moves it too: watch its norm and the main loss.
    Cosines are taken in float32: squares of massive activations overflow float16.
    Raises: TokenError for a row without that position; InputError for another power, or no token but the anchor;
    ShapeError for states of unlike shape.
    Source: arXiv:2510.22603; squares or sizes, layers, weight and whether the anchor learns are not told there, so all
    are arguments here.
    """
    layers = [states] if isinstance(states, Tensor) else list(states)
    if power not in (1, 2) or not layers:
        raise InputError(f"decorrelation(power={power}) of {len(layers)} layers: 1 or 2, and one layer or more.")
    shape = layers[0].shape
    if len(shape) != 3 or any(x.shape[:2] != shape[:2] for x in layers):
        raise ShapeError(f"decorrelation takes states [batch, pos, d_model]; got {[tuple(x.shape) for x in layers]}.")
    real = torch.ones(shape[:2], dtype=torch.bool) if mask is None else mask.bool().cpu()
    if real.shape != shape[:2]:
        raise ShapeError(f"the mask is {tuple(real.shape)}, the states {tuple(shape[:2])}.")
    at = anchor_columns(real, anchor) if isinstance(anchor, int) else None
    counted = real.clone()
    if at is not None:
        counted[torch.arange(len(at)), at] = False
    if not bool(counted.any()):
        raise InputError("decorrelation has no token but the anchor to look at.")
    total = torch.zeros((), device=layers[0].device)
    for x in layers:
        toward = _anchor(x, anchor, at)
        toward = toward.detach() if detach_anchor else toward
        here = counted.to(x.device)
        cosine = torch.nn.functional.cosine_similarity(x.float(), toward.float()[:, None], dim=-1)[here]
        total = total + (cosine.square() if power == 2 else cosine.abs()).mean().to(total.device)
    return total / len(layers)


def anchor_columns(real: Bool[Tensor, "batch pos"], position: int) -> Tensor:
    """The column of each row's real token number `position`. Raises TokenError for a row that has none."""
    lengths = real.sum(1)
    wanted = torch.full_like(lengths, position) if position >= 0 else lengths + position
    wrong = ((wanted < 0) | (wanted >= lengths)).nonzero()[:, 0].tolist()
    if wrong:
        raise TokenError(
            f"there is no anchor at position {position} in row {wrong[0]}: it has {int(lengths[wrong[0]])} real tokens."
        )
    return ((real.long().cumsum(1) - 1 == wanted[:, None]) & real).long().argmax(1)


def _anchor(x: Tensor, anchor: Anchor, at: Tensor | None) -> Tensor:
    if at is not None:
        return x[torch.arange(len(at), device=x.device), at.to(x.device)]
    found = anchor if isinstance(anchor, Tensor) else anchor(x)  # type: ignore[operator]
    if found.shape not in ((x.shape[-1],), (x.shape[0], x.shape[-1])):
        raise ShapeError(f"the anchor is {tuple(found.shape)}; give [{x.shape[-1]}] or one a row.")
    return found.to(x.device).expand(x.shape[0], -1)
