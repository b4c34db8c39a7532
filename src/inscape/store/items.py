"""What a model reads of samples: token ids wherever there are any, made once and cut to length; else what they are."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inscape.core.errors import InputError
from inscape.engine.inputs import accepts, chat_texts, tokenizer_of
from inscape.models.model import Model
from inscape.store.fields import is_pair

# What tokenizers return besides arguments of the model, and what only a loss reads.
_NO_ARGUMENTS = (
    "special_tokens_mask",
    "offset_mapping",
    "length",
    "labels",
    "overflowing_tokens",
    "num_truncated_tokens",
)
_NAMED = ("text", "input_ids", "attention_mask", "decoder_text", "decoder_input_ids", "decoder_attention_mask")


@dataclass(frozen=True, eq=False)
class Tokens:
    """The token ids of one sample, with what belongs to them one by one.

    beside: further arguments of the module that have a value a token (token_type_ids). text, offsets: what they were
    made of, and which characters each covers, where that is known and asked for.
    """

    ids: list[int]
    beside: Mapping[str, list[int]] = field(default_factory=dict)
    text: str | None = None
    offsets: list[tuple[int, int]] | None = None

    def cut(self, n: int | None) -> "Tokens":
        """The first n of them."""
        beside = {name: values[:n] for name, values in self.beside.items()}
        return Tokens(self.ids[:n], beside, self.text, self.offsets[:n] if self.offsets is not None else None)


@dataclass(frozen=True, eq=False)
class Item:
    """One sample as the model reads it.

    source: tokens of the model, of its encoder where there is one; target: of the decoder beside an encoder. others:
    arguments that are no tokens, without a batch axis. raw: what the engine itself makes inputs of (images, arrays).
    """

    source: Tokens | None = None
    target: Tokens | None = None
    others: Mapping[str, Tensor] = field(default_factory=dict)
    raw: Any = None


def items_of(
    model: Model, samples: Sequence[Any], *, max_length: int | None = None, offsets: bool = False,
    with_target: bool = False,
) -> list[Item]:  # fmt: skip
    """Samples as the model reads them, in order; None is one without tokens, like an empty text.

    max_length: tokens of each stack. offsets: of texts. with_target: also what the decoder beside an encoder reads.
    Raises: InputError for pairs on a model that reads no pairs, and for what the model does not take.
    """
    parts = [_parts(model, sample) for sample in samples]
    making = _Making(model, max_length, offsets)
    sources = making.tokens([source for source, _, _ in parts])
    targets = making.targets([target for _, target, _ in parts]) if with_target else [None] * len(parts)
    out = []
    for (source, _, others), tokens, target in zip(parts, sources, targets, strict=True):
        if others and max_length is not None and tokens is not None and len(tokens.ids) > max_length:
            raise InputError(
                f"a sample of {len(tokens.ids)} tokens has {', '.join(others)} beside them, which cutting it to "
                f"max_length={max_length} could split.\n  cut such samples yourself."
            )
        tokens = tokens.cut(max_length) if tokens is not None else None
        out.append(Item(tokens, target, others, source if tokens is None and source is not None else None))
    return out


def _parts(model: Model, sample: Any) -> tuple[Any, Any, dict[str, Tensor]]:
    """(what the model or its encoder reads, what the decoder beside it reads, arguments that are no tokens)"""
    if sample is None:
        return [], None, {}
    if is_pair(sample):
        if not model.is_encoder_decoder:
            raise InputError(
                "the samples are pairs, and this model has no decoder beside an encoder that would read the second.\n"
                "  give texts alone, or say which field of a record to read with field=."
            )
        return sample[0], sample[1], {}
    if not isinstance(sample, Mapping) or "role" in sample:
        return sample, None, {}
    target = sample.get("decoder_text", sample.get("decoder_input_ids"))
    if target is not None and not isinstance(target, str):
        target = _listed(target, sample.get("decoder_attention_mask"))[0]
    others = {str(k): v for k, v in sample.items() if k not in (*_NAMED, *_NO_ARGUMENTS) and v is not None}
    if "input_ids" not in sample:
        text = [] if "text" in sample and sample["text"] is None else sample.get("text")
        return text, target, {name: _number(model, name, value)[None] for name, value in others.items()}
    ids, real, is_batch = _listed(sample["input_ids"], sample.get("attention_mask"))
    beside: dict[str, list[int]] = {}
    apart: dict[str, Tensor] = {}
    for name, value in others.items():
        found = _number(model, name, value) if is_batch else _number(model, name, value)[None]
        if found.shape == (1, len(real)):
            beside[name] = [v for v, keep in zip(found[0].tolist(), real, strict=True) if keep]
        else:
            apart[name] = found
    return Tokens(ids, beside), target, apart


def _listed(ids: Any, mask: Any) -> tuple[list[int], list[bool], bool]:
    """(ids of the real tokens, which of the given ones are real, was there a batch axis of one?)"""
    given = torch.as_tensor(ids)
    given = given.long() if not given.numel() else given  # an empty list has no type
    is_batch = given.ndim == 2 and len(given) == 1
    given = given[0] if is_batch else given
    real = torch.ones_like(given) if mask is None else torch.as_tensor(mask).reshape(given.shape)
    if given.ndim != 1 or given.is_floating_point():
        raise InputError(f"input_ids of one sample are one row of whole numbers; got shape {tuple(given.shape)}.")
    return given[real.bool()].tolist(), real.bool().tolist(), is_batch


def _number(model: Model, name: str, value: Any) -> Tensor:
    if not accepts(model.module, name):
        raise InputError(
            f"a sample has {name!r}, which {type(model.module).__name__} does not take.\n"
            "  leave it out, or give a plain value, which is remembered as a label."
        )
    return torch.as_tensor(value)


@dataclass(frozen=True, eq=False)
class _Making:
    """Texts and chats become tokens, all of one kind in one call of the tokenizer."""

    model: Model
    max_length: int | None
    offsets: bool

    def tokens(self, sources: Sequence[Any]) -> list[Tokens | None]:
        """None where the engine itself makes inputs of it."""
        out: list[Tokens | None] = [_given(source) for source in sources]
        chats = [i for i, source in enumerate(sources) if _is_chat(source)]
        texts = [i for i, source in enumerate(sources) if isinstance(source, str)]
        said = chat_texts(self.model, [list(sources[i]) for i in chats]) if chats else []
        for members, found, options in ((texts, [sources[i] for i in texts], {}), (chats, said, _NO_SPECIAL)):
            for i, made in zip(members, self._made(found, options) if found else (), strict=True):
                out[i] = made
        return out

    def targets(self, targets: Sequence[Any]) -> list[Tokens]:
        """What the decoder reads: its start token and the text without its end, as in training; ids as they are."""
        if any(target is None for target in targets):
            raise InputError(
                "sites of a decoder beside an encoder need what the decoder reads.\n"
                "  give pairs (text, text), or records with 'text' (or the encoder's arguments) and 'decoder_text' or "
                "'decoder_input_ids'."
            )
        texts = [i for i, target in enumerate(targets) if isinstance(target, str)]
        out = [_given(target) for target in targets]
        for i, made in zip(
            texts, self._made([targets[i] for i in texts], {}, is_target=True) if texts else (), strict=True
        ):
            out[i] = self._shifted(made)
        return [tokens.cut(self.max_length) for tokens in out if tokens is not None]

    def _made(self, texts: list[str], options: dict[str, Any], is_target: bool = False) -> list[Tokens]:
        tokenizer = tokenizer_of(self.model)
        if self.offsets:
            options = options | {"return_offsets_mapping": True}
        if self.max_length is not None:
            options = options | {"truncation": True, "max_length": self.max_length}
        made = tokenizer(text_target=texts, **options) if is_target else tokenizer(texts, **options)
        beside = {
            n: made[n] for n in ("token_type_ids",) if n in made and accepts(self.model.module, n) and not is_target
        }
        return [
            Tokens(
                list(ids), {n: list(rows[i]) for n, rows in beside.items()}, texts[i],
                [tuple(o) for o in made["offset_mapping"][i]] if self.offsets else None,
            )
            for i, ids in enumerate(made["input_ids"])
        ]  # fmt: skip

    def _shifted(self, made: Tokens) -> Tokens:
        """The start token before, the end token off; a tokenizer that writes the start itself is left alone."""
        start, end = _token(self.model, "decoder_start_token_id"), _token(self.model, "eos_token_id")
        if start is None:
            raise InputError("this model says no decoder_start_token_id: give 'decoder_input_ids', not 'decoder_text'.")
        has_end = len(made.ids) > 1 and made.ids[-1] == end
        shifted = made.cut(len(made.ids) - has_end)
        if shifted.ids[:1] == [start]:
            return shifted
        offsets = [(0, 0), *shifted.offsets] if shifted.offsets is not None else None
        return Tokens([start, *shifted.ids], {}, made.text, offsets)


_NO_SPECIAL = {"add_special_tokens": False}


def _token(model: Model, name: str) -> int | None:
    places = (model.config, getattr(model.module, "generation_config", None))
    return next((value for place in places if isinstance(value := getattr(place, name, None), int)), None)


def _given(source: Any) -> Tokens | None:
    """What is tokens already."""
    if isinstance(source, Tokens):
        return source
    if isinstance(source, (Tensor, np.ndarray)):
        whole = not source.is_floating_point() if isinstance(source, Tensor) else source.dtype.kind in "iu"
        return Tokens(source.tolist()) if source.ndim == 1 and whole else None
    is_ids = isinstance(source, (list, tuple)) and all(isinstance(i, (int, np.integer)) for i in source)
    return Tokens([int(i) for i in source]) if is_ids else None


def template_of(model: Model, sample: Any) -> str | None:
    """A short name for the chat template that a sample is read through; None when it is no chat."""
    source = sample[0] if is_pair(sample) else sample.get("text") if isinstance(sample, Mapping) else sample
    if not _is_chat(source):
        return None
    said = json.dumps(getattr(model.tokenizer, "chat_template", None), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _is_chat(source: Any) -> bool:
    return (
        isinstance(source, (list, tuple))
        and bool(source)
        and all(isinstance(m, Mapping) and "role" in m for m in source)
    )
