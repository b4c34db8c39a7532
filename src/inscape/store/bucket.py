"""Samples in batches of like length, as inputs of the engine: what runs beside what follows from these alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import InputError
from inscape.engine.inputs import Inputs, check_vocabulary, pad_of, padded, prepare
from inscape.models.model import Model
from inscape.store.items import Item, Tokens


@dataclass(frozen=True, eq=False)
class Batch:
    """One forward: the samples in it, what the module is given, and the tokens that rows are counted by.

    counted: of the stack that is recorded, [batch, pos], with its mask, texts and offsets; no mask where rows are not
    counted by tokens.
    """

    members: list[int]
    inputs: Inputs
    counted: Inputs


def batches_of(model: Model, items: Sequence[Item], stack: str, batch_tokens: int, batch_rows: int) -> list[Batch]:
    """Every sample that has tokens, once; those without are left out.

    stack: whose tokens are counted: "source", "target", or "" for none. batch_tokens: padded tokens of a forward, both
    stacks together; batch_rows: samples of a forward where there is anything but tokens.
    """
    kinds: dict[Any, list[int]] = {}
    for i, item in enumerate(items):
        if not is_empty(item):
            kinds.setdefault(_kind(item), []).append(i)
    out = []
    for members in kinds.values():
        for group in _groups(items, members, batch_tokens, batch_rows):
            out.append(_batch(model, [items[i] for i in group], group, stack))
    return out


def is_empty(item: Item) -> bool:
    """Is there a stack that has nothing to read?"""
    return any(tokens is not None and not tokens.ids for tokens in (item.source, item.target))


def _kind(item: Item) -> Any:
    """Only samples of one kind can be one batch; arrays of unlike shapes are of several."""
    shapes = tuple((name, tuple(x.shape), x.dtype) for name, x in item.others.items())
    tokens = tuple(None if t is None else tuple(t.beside) for t in (item.source, item.target))
    return tokens, shapes, item.raw is None


def _groups(items: Sequence[Item], members: list[int], batch_tokens: int, batch_rows: int) -> list[list[int]]:
    """In order of length up to the budget; what has no tokens in its own order."""
    sizes = {i: (_length(items[i].source), _length(items[i].target)) for i in members}
    alone = any(items[i].others or items[i].raw is not None for i in members)
    if any(sum(size) for size in sizes.values()):
        members = sorted(members, key=lambda i: (sum(sizes[i]), i))
    out: list[list[int]] = []
    widest = (0, 0)
    for i in members:
        wider = (max(widest[0], sizes[i][0]), max(widest[1], sizes[i][1]))
        many = len(out[-1]) + 1 if out else 0
        if not out or sum(wider) * many > batch_tokens or (alone and many > batch_rows):
            out.append([])
            wider = sizes[i]
        out[-1].append(i)
        widest = wider
    return out


def _length(tokens: Tokens | None) -> int:
    return len(tokens.ids) if tokens is not None else 0


def _batch(model: Model, items: list[Item], members: list[int], stack: str) -> Batch:
    if items[0].raw is not None:
        inputs = prepare(model, _together([item.raw for item in items]), side="right")
        return Batch(members, inputs, inputs)
    inputs = Inputs()
    sources = [item.source for item in items if item.source is not None]
    if sources:
        inputs = prepare(model, [tokens.ids for tokens in sources], side="right")
        beside = {name: padded([t.beside[name] for t in sources], 0) for name in sources[0].beside}
        inputs.kwargs.update({name: x.to(model.device) for name, x in beside.items()})
        _say(inputs, sources)
    for name in items[0].others:
        inputs.kwargs[name] = torch.cat([item.others[name] for item in items]).to(model.device)
    counted = inputs if stack == "source" else Inputs()
    targets = [item.target for item in items if item.target is not None]
    if targets:
        ids = padded([t.ids for t in targets], pad_of(model))
        mask = padded([[1] * len(t.ids) for t in targets], 0)
        check_vocabulary(model, ids)
        given = {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        inputs.kwargs.update({name: x.to(model.device) for name, x in given.items()})
        if stack == "target":
            counted = Inputs(tokens=ids, mask=mask.bool())
            _say(counted, targets)
    return Batch(members, inputs, counted)


def _say(inputs: Inputs, tokens: Sequence[Tokens]) -> None:
    """What spans of text are looked for in."""
    if inputs.tokens is None or any(t.offsets is None or t.text is None for t in tokens):
        return
    width = inputs.tokens.shape[1]
    inputs.texts = [t.text or "" for t in tokens]
    inputs.offsets = [[*(t.offsets or ()), *[(0, 0)] * (width - len(t.ids))] for t in tokens]


def _together(found: list[Any]) -> Any:
    """Arrays of one shape as one batch, images as they are."""
    first = found[0]
    if isinstance(first, Tensor):
        if len({x.shape for x in found}) > 1:
            raise InputError(
                f"the samples are tensors of unlike shapes: {sorted({tuple(x.shape) for x in found})[:3]}."
            )
        return torch.stack(found)
    if isinstance(first, Mapping):
        raise InputError(f"a sample is a mapping of {', '.join(map(str, first))[:100]}: nothing the model reads.")
    return found
