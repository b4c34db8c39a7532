"""Whatever a user gives as inputs, as the keyword arguments of the module's own forward."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import InputError, TokenError
from inscape.models.model import Model


@dataclass(eq=False)
class Inputs:
    """Arguments for the module, with what the engine needs to know of them.

    mask: real tokens [batch, pos], or None when the inputs are no sequence of tokens. texts: as given.
    prompt: how many columns are the prompt, where the ones after it stand for generated tokens.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    tokens: Tensor | None = None
    mask: Tensor | None = None
    texts: list[str] | None = None
    offsets: list[list[tuple[int, int]]] | None = None
    prompt: int | None = None


def prepare(model: Model, inputs: Any, *, side: str | None = None) -> Inputs:
    """Inputs for the module: text, token ids, a tokenizer's dict, chat messages, images, or its own arguments.

    side: padding side; the tokenizer's own when left out. Tokens are what the tokenizer makes, nothing is added.
    """
    if isinstance(inputs, Inputs):  # rows of inputs that were prepared before
        return replace(inputs, kwargs=dict(inputs.kwargs))
    if isinstance(inputs, str):
        return _texts(model, [inputs], side)
    if isinstance(inputs, Mapping):
        return _mapping(model, dict(inputs))
    if type(inputs).__name__ == "ndarray" and getattr(inputs, "ndim", 0) == 4:  # a batch of images in one array
        inputs = list(inputs)
    if _is_image(inputs) or (isinstance(inputs, Sequence) and len(inputs) and all(_is_image(x) for x in inputs)):
        return _images(model, inputs)
    if isinstance(inputs, Tensor):
        return _tensor(model, inputs, side)
    if isinstance(inputs, tuple) and inputs and all(isinstance(x, Tensor) for x in inputs):
        return Inputs(args=tuple(x.to(model.device) for x in inputs))
    if isinstance(inputs, Sequence) and len(inputs):
        first = inputs[0]
        if isinstance(first, str):
            return _texts(model, list(inputs), side)
        if isinstance(first, Mapping) and "role" in first:
            return _chat(model, [list(inputs)], side)
        if isinstance(first, (list, tuple)) and first and isinstance(first[0], Mapping) and "role" in first[0]:
            return _chat(model, [list(x) for x in inputs], side)
        if isinstance(first, int):
            return _ids(model, [list(inputs)], side)
        if isinstance(first, (list, tuple, Tensor)):
            return _ids(model, [x.tolist() if isinstance(x, Tensor) else list(x) for x in inputs], side)
    empty = " that is empty" if hasattr(inputs, "__len__") and not len(inputs) else ""
    raise InputError(
        f"cannot run on {type(inputs).__name__}{empty}.\n"
        "  give a text, texts, token ids, a tokenizer's dict, chat messages, images, or the module's own arguments."
    )


def accepts(module: Any, name: str) -> bool:
    """Does the module's forward take this keyword?"""
    return name in _parameters(getattr(module.forward, "__func__", module.forward))


@functools.lru_cache(256)
def _parameters(function: Any) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return frozenset()


def tokenizer_of(model: Model) -> Any:
    """The model's tokenizer. Raises InputError when the inputs are text and there is none."""
    if model.tokenizer is None and model.processor is not None:
        raise InputError(
            "the inputs are text and this model has no tokenizer; its processor makes inputs of images or sound.\n"
            "  pass an image, such as PIL.Image.open('photo.jpg'), or the module's own arguments."
        )
    if model.tokenizer is None:
        raise InputError(
            "the inputs are text and this model has no tokenizer.\n"
            "  pass token ids, or open it with ins.open(module, tokenizer=...)."
        )
    return model.tokenizer


def _texts(model: Model, texts: list[str], side: str | None) -> Inputs:
    tokenizer_of(model)
    return _tokenized(model, texts, side, {})


def _tokenized(model: Model, texts: list[str], side: str | None, options: dict) -> Inputs:
    fast = bool(getattr(model.tokenizer, "is_fast", False))
    rows = [model.tokenizer(text, return_offsets_mapping=fast, **options) for text in texts]
    empty = [i for i, row in enumerate(rows) if not len(row["input_ids"])]
    if empty:
        raise InputError(f"text {empty[0]} is empty: it has no tokens to run on.")
    offsets = [row["offset_mapping"] for row in rows] if fast else None
    out = _ids(model, [row["input_ids"] for row in rows], side)
    out.texts = texts
    if offsets is not None:
        width, left = max(map(len, offsets)), _left(model, side)
        pads = [[(0, 0)] * (width - len(row)) for row in offsets]
        out.offsets = [p + list(o) if left else list(o) + p for p, o in zip(pads, offsets, strict=True)]
    if "token_type_ids" in rows[0] and accepts(model.module, "token_type_ids"):
        out.kwargs["token_type_ids"] = padded([r["token_type_ids"] for r in rows], 0, _left(model, side)).to(
            model.device
        )
    return out


def chat_texts(model: Model, chats: list[list[Any]]) -> list[str]:
    """Chats as the text the tokenizer's template makes of them, special tokens in it; an open user turn is answered."""
    if model.tokenizer is None or not getattr(model.tokenizer, "chat_template", None):
        raise InputError(
            "the inputs are chat messages and this model's tokenizer has no chat template.\n  give plain text instead."
        )
    return [
        model.tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=c[-1]["role"] == "user")
        for c in chats
    ]


def _chat(model: Model, chats: list[list[Any]], side: str | None) -> Inputs:
    return _tokenized(model, chat_texts(model, chats), side, {"add_special_tokens": False})


def _left(model: Model, side: str | None) -> bool:
    if side is None and not model.family.left_padding:
        return False
    return (side or getattr(model.tokenizer, "padding_side", "right")) == "left"


def padded(rows: list[list[int]], pad: int, left: bool = False) -> Tensor:
    """Rows of unlike length as one table."""
    width = max(len(r) for r in rows)
    fill = [[pad] * (width - len(r)) for r in rows]
    return torch.tensor([f + r if left else r + f for f, r in zip(fill, rows, strict=True)])


def pad_of(model: Model) -> int:
    """The id that fills rows up."""
    text = getattr(model.config, "get_text_config", lambda: model.config)()
    known = (getattr(of, "pad_token_id", None) for of in (model.tokenizer, model.config, text))
    return next((p for p in known if isinstance(p, int) and p >= 0), 0)


def _ids(model: Model, rows: list[list[int]], side: str | None) -> Inputs:
    if not all(rows) or not all(isinstance(i, int) for row in rows for i in row):
        raise InputError("token ids must be lists of integers, none of them empty.")
    left = _left(model, side)
    ids = padded(rows, pad_of(model), left)
    mask = padded([[1] * len(r) for r in rows], 0, left).bool()
    return _token_inputs(
        model, {"input_ids": ids, "attention_mask": mask.long()} if not bool(mask.all()) else {"input_ids": ids}, mask
    )


def _tensor(model: Model, x: Tensor, side: str | None) -> Inputs:
    main = getattr(model.module, "main_input_name", None)
    if not x.is_floating_point() and main in (None, "input_ids") and (main or accepts(model.module, "input_ids")):
        x = x[None] if x.ndim == 1 else x
        if x.ndim != 2:
            raise InputError(f"token ids have the shape [batch, pos]; got {tuple(x.shape)}.")
        return _token_inputs(model, {"input_ids": x}, torch.ones_like(x, dtype=torch.bool))
    if main and main != "input_ids":
        return Inputs(kwargs={main: x.to(model.device)})
    if main == "input_ids":
        raise InputError(
            f"this model reads token ids, got a {x.dtype} tensor of shape {tuple(x.shape)}.\n"
            "  for embeddings pass a dict: {'inputs_embeds': x}."
        )
    return Inputs(args=(x.to(model.device),))


def _mapping(model: Model, inputs: dict[str, Any]) -> Inputs:
    if "input_ids" in inputs and not isinstance(inputs["input_ids"], Tensor):
        inputs = {k: torch.as_tensor(v) for k, v in inputs.items() if v is not None}
    if "pixel_values" in inputs and not accepts(model.module, "pixel_values"):
        raise InputError("the inputs hold an image (pixel_values) and this model reads text alone.")
    tokens = inputs.get("input_ids")
    if isinstance(tokens, Tensor) and tokens.ndim == 2:
        mask = inputs.get("attention_mask")
        mask = mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else torch.ones_like(tokens, dtype=torch.bool)
        return _token_inputs(model, inputs, mask)
    embeds = inputs.get("inputs_embeds")
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or "input_values" in inputs or "input_features" in inputs:
        mask = torch.ones(embeds.shape[:2], dtype=torch.bool) if isinstance(embeds, Tensor) else None
    return Inputs(kwargs=_moved(model, inputs), mask=mask.bool() if mask is not None else None)


def check_vocabulary(model: Model, ids: Tensor) -> None:
    """Raise TokenError for ids that the model has no vector for."""
    vocab = getattr(getattr(model.config, "get_text_config", lambda: model.config)(), "vocab_size", None)
    if isinstance(vocab, int) and ids.numel() and (int(ids.max()) >= vocab or int(ids.min()) < 0):
        raise TokenError(
            f"a token id lies outside this model's vocabulary of {vocab} "
            f"(ids from {int(ids.min())} to {int(ids.max())})."
        )


def _token_inputs(model: Model, kwargs: dict[str, Any], mask: Tensor) -> Inputs:
    ids = kwargs["input_ids"]
    check_vocabulary(model, ids)
    padded_before = not bool(mask[:, 0].all())  # padding after the text leaves the model's own positions right
    if padded_before and not model.family.left_padding:
        raise InputError(
            f"padding before the text enters {model.family.name}'s recurrent state and would change every number.\n"
            "  give rows of equal length or one at a time; ins.run can also pad after the text (padding_side='right')."
        )
    if (
        padded_before
        and "position_ids" not in kwargs
        and model.family.positions == "given"
        and accepts(model.module, "position_ids")
    ):
        kwargs = kwargs | {"position_ids": (mask.long().cumsum(1) - 1).clamp(min=0)}
    return Inputs(kwargs=_moved(model, kwargs), tokens=ids, mask=mask)


def _moved(model: Model, kwargs: dict[str, Any]) -> dict[str, Any]:
    device = model.device
    return {k: v.to(device) if isinstance(v, Tensor) and v.device != device else v for k, v in kwargs.items()}


def _is_image(x: Any) -> bool:
    return type(x).__module__.startswith("PIL.") or (type(x).__name__ == "ndarray" and getattr(x, "ndim", 0) == 3)


def _images(model: Model, images: Any) -> Inputs:
    if model.processor is None and not accepts(model.module, "pixel_values"):
        raise InputError("the input is an image and this model reads text alone; open a vision model for it.")
    if model.processor is None:
        raise InputError(
            "the input is an image and this model has no image processor.\n"
            "  open it with ins.open(module, processor=...), or pass {'pixel_values': tensor}."
        )
    images = [images] if _is_image(images) else list(images)
    return Inputs(kwargs=_moved(model, dict(model.processor(images=images, return_tensors="pt"))))
