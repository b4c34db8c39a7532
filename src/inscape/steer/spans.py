"""The same input without a part of it: without its image, or without any tokens, padded and counted anew."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.engine.inputs import pad_of, prepare
from inscape.models.model import Model

MARKS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
PICTURES = ("pixel_", "image_", "video_", "spatial_shapes", "second_per_grid")  # what arguments of pictures begin with
COUNTED = ("position_ids", "cache_position", "rope_deltas")  # made anew from the mask


def without_image(model: Model, inputs: Any) -> dict[str, Tensor]:
    """The same prompts without their image tokens and pictures: what `contrast_direction` compares with.

    The template stays, also the marks around an image; a blank image in its place would be another question.
    inputs: what a processor makes (`input_ids`, `attention_mask`, `pixel_values`, ...), padded on either side.
    Raises: InputError for a model that reads no images, a row without image tokens, or rows that are nothing else.
    """
    config = model.config
    marks = {v for name in MARKS if isinstance(v := getattr(config, name, None), int)}
    if not marks:
        raise InputError(
            f"{type(model.module).__name__} has no token that stands for an image, so there is none to leave out.\n"
            "  leave out other tokens with without_tokens."
        )
    ids = _ids(inputs)
    drop = torch.isin(ids, torch.tensor(sorted(marks), device=ids.device))
    bare = (~drop.any(1)).nonzero()[:, 0].tolist()
    if bare:
        raise InputError(
            f"row {bare[0]} has no image tokens (id {' or '.join(map(str, sorted(marks)))}): nothing to leave out.\n"
            "  give prompts as the model's processor makes them, with the image expanded to its tokens."
        )
    return without_tokens(model, {k: v for k, v in inputs.items() if not k.startswith(PICTURES)}, drop)


def without_tokens(
    model: Model, inputs: Any, drop: Bool[Tensor, "batch pos"] | tuple[int, int] | slice
) -> dict[str, Tensor]:
    """The same rows without some tokens; what comes after moves up, and positions are counted anew.

    inputs: a dict with `input_ids`, or texts and lists of ids. drop: a mask over the columns, or a stretch of real
    tokens (start, stop), the same in every row. Every argument of the shape of the tokens (token types, labels) loses
    the same columns. Padding stays on its side; where there is none yet, it goes before the text if the model allows.
    Raises: ShapeError for a mask of another shape; InputError where nothing is left of a row, or nothing is left out.
    """
    if not isinstance(inputs, Mapping):
        prepared = prepare(model, inputs)
        if prepared.tokens is None or prepared.mask is None:
            raise InputError("these inputs have no tokens, so none can be left out.")
        inputs = {"input_ids": prepared.tokens, "attention_mask": prepared.mask.long()}
    ids = _ids(inputs)
    mask = inputs.get("attention_mask")
    real = (torch.ones_like(ids) if mask is None else torch.as_tensor(mask)).bool()
    if not isinstance(drop, Tensor):
        stretch = drop if isinstance(drop, slice) else slice(*drop)
        place, count = real.long().cumsum(1) - 1, real.sum(1).tolist()
        drop = torch.stack([torch.isin(p, torch.arange(n)[stretch]) for p, n in zip(place, count, strict=True)])
    if drop.shape != ids.shape:
        raise ShapeError(f"the mask of what goes is {tuple(drop.shape)}, the tokens are {tuple(ids.shape)}.")
    drop = drop.to(real.device) & real
    if not bool(drop.any()):
        raise InputError("nothing is left out: none of the tokens it names is there.")
    keep = real & ~drop
    empty = (~keep.any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise InputError(f"row {empty[0]} would be empty: every token of it is left out.")
    left = model.family.left_padding and (bool(real.all()) or not bool(real[:, 0].all()))
    fills = {"input_ids": pad_of(model), "labels": -100}
    out: dict[str, Tensor] = {}
    for name, value in inputs.items():
        if name in COUNTED or name == "attention_mask" or value is None:
            continue
        value = value if isinstance(value, Tensor) else torch.as_tensor(value)
        out[name] = _cut(value, keep, left, fills.get(name, 0)) if value.shape[:2] == ids.shape else value
    return out | {"attention_mask": _cut(keep.long(), keep, left, 0)}


def _cut(x: Tensor, keep: Bool[Tensor, "batch pos"], left: bool, fill: int) -> Tensor:
    """The kept columns of each row, next to one another, filled up on one side."""
    width = int(keep.sum(1).max())
    out = x.new_full((len(x), width, *x.shape[2:]), fill)
    for row, part, of in zip(out, x, keep, strict=True):
        n = int(of.sum())
        row[slice(width - n, width) if left else slice(n)] = part[of]
    return out


def _ids(inputs: Any) -> Tensor:
    if not isinstance(inputs, Mapping) or inputs.get("input_ids") is None:
        there = f" with {', '.join(inputs)}" if isinstance(inputs, Mapping) else ""
        raise InputError(
            "tokens are left out of a dict with input_ids, as a processor makes it; got "
            f"{type(inputs).__name__}{there}."
        )
    ids = torch.as_tensor(inputs["input_ids"])
    if ids.ndim != 2:
        raise ShapeError(f"input_ids have the shape [batch, pos]; got {tuple(ids.shape)}.")
    return ids
