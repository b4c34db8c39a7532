"""Scores that are partly those of earlier layers, where what an image or a document brought in is not yet overruled."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.edit import ELSEWHERE, Edit, make_edit
from inscape.core.errors import InputError, ModelError
from inscape.core.step import Step
from inscape.engine.unembed import predicts_next, reads_as_the_model_does, unembedding
from inscape.models.model import Model

Window = slice | range | int | Iterable[int]


def early_logits(model: Model, window: Window, weight: float = 0.3, *, norm: bool = False, **places: Any) -> Edit:
    """Mix the scores of a window of layers into the model's own: `(1 - g) s_final + g head(mean_l h_l)`, l in window.

    An edit at `logits` like any other: in `run`, in `generate` with its cache, beside other edits. Choose it where
    content words are higher in the middle than at the end (`token_rank_trace` shows it); wide windows want a small g.

    window: layers by number, counted from 0, their outputs; negative ones from the end; a slice, a range or several.
    weight: g in [0, 1]; 0 changes nothing. norm: pass the states through the final norm first. Without it, as in the
    source's code, the scale of the earlier scores is that of the stream, which may be far from the final one.
    The mean is taken before the head (a linear map: the same as the mean of scores); rules behind the head, such as a
    soft cap, act on the mean's scores. Not savable: it holds the model's own head.
    Cost: one more product with the head for the columns whose scores are made. Made once: a forward of three tokens.
    Raises: InputError for a window outside the model or an impossible weight; ModelError where the head does not score
    the stream of every position.
    Source: Li et al. 2025 (VISTA), arXiv:2502.03628: self-logits augmentation, layers 25 to 30 of 32, g = 0.3.
    """
    if not predicts_next(model):
        raise ModelError(f"{type(model.module).__name__} does not score the next token at every position.")
    if not 0 <= weight <= 1:
        raise InputError(f"weight={weight}: a share between 0 (the model's own scores) and 1.")
    names = [f"{model.blocks[i].name}.resid_post" for i in _layers(window, len(model.blocks))]
    head = unembedding(model)
    error = reads_as_the_model_does(model, head, {"input_ids": torch.tensor([[1, 2, 3]])})
    if error > 5e-2:
        raise ModelError(
            f"scores made from the last layer differ from the model's own by {error:.2g} of the largest: more happens "
            f"between the stream and the scores than {head.how}."
        )
    quiet = dataclasses.replace(head, head=_Quietly(head.head), norm=_Quietly(head.norm) if head.norm else None)
    needs = tuple(ELSEWHERE + name for name in names)

    def fn(x: Tensor, step: Step) -> Tensor:
        if weight == 0:
            return x
        states = [step.held[name][:, -x.shape[1] :] for name in needs]  # generation makes the last column's scores only
        wide = [s.to(torch.promote_types(s.dtype, torch.float32)) for s in states]
        if norm and quiet.norm is not None:
            wide = [quiet.norm(s).to(w) for s, w in zip(states, wide, strict=True)]
        mean = torch.stack(wide).mean(0).to(states[0].dtype) if len(wide) > 1 else wide[0].to(states[0].dtype)
        early = quiet(mean, normed=True)
        return ((1 - weight) * x.to(early.dtype) + weight * early.to(x.device)).to(x.dtype)

    first, last = (name.rsplit("layers.", 1)[-1].split(".")[0] for name in (names[0], names[-1]))
    which = f"layer {first}" if len(names) == 1 else f"layers {first} to {last}"
    return make_edit("logits", fn, f"{weight:g} of the scores of {which}", contextual=True, needs=needs, **places)


class _Quietly(nn.Module):
    """A module without its hooks: an edit at the head must not set itself off."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.forward(x)


def _layers(window: Any, n: int) -> list[int]:
    asked = (
        list(range(n))[window] if isinstance(window, slice) else [window] if isinstance(window, int) else list(window)
    )
    outside = [i for i in asked if not isinstance(i, int) or not -n <= i < n]
    too_far = isinstance(window, slice) and any(v is not None and not -n <= v <= n for v in (window.start, window.stop))
    if not asked or outside or too_far:
        raise InputError(
            f"window={window!r}{f': {outside}' if outside else ''} does not lie in this model: it has layers 0 to "
            f"{n - 1}.\n  give some of them, such as window=range({max(0, n - 3)}, {n - 1})."
        )
    return sorted({i % n for i in asked})
