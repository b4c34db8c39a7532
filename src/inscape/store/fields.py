"""From one record of the data to what the model reads of it, and what is remembered beside: text, labels, names."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from inscape.core.errors import InputError

Sample = tuple[Any, dict[str, Any]]
Field = str | tuple[str, str] | None
FIELDS = ("text", "prompt", "content", "messages", "image")
ARGUMENTS = ("input_ids", "pixel_values", "input_features", "input_values", "inputs_embeds")
TARGETS = ("decoder_text", "decoder_input_ids")  # what a decoder beside an encoder reads


def picker(first: Any, field: Field) -> Callable[[Any], Sample]:
    """From a record like `first` to (what the model reads, what is remembered).

    Texts, token ids, chats, images, tensors and pairs are what the model reads already. Of a mapping of the model's own
    arguments the plain values are remembered and the rest is read; of any other mapping `field` is read (the first of
    `FIELDS` when left out; two fields: the encoder's and the decoder's) and the other plain values are remembered.
    Raises: InputError for a mapping without such a field.
    """
    if not isinstance(first, Mapping):
        return _itself
    if field is None and any(name in first for name in ARGUMENTS):
        return _arguments
    if field is None and "role" in first:
        raise InputError(
            "the data are the messages of one chat; a sample is a whole chat.\n  give a list of chats: [messages]."
        )
    source, target = field if isinstance(field, tuple) else (field, None)
    chosen = source or next((f for f in FIELDS if f in first), None)
    missing = [f for f in (chosen, target) if f is not None and f not in first]
    if chosen is None or missing:
        raise InputError(
            f"a record has no field {missing[0] if missing else ', '.join(FIELDS)!r}; it has "
            f"{', '.join(map(str, first))[:200]}: say which one holds the text with field=."
        )

    def pick(record: Any) -> Sample:
        try:
            value = record[chosen]
            read = {name: record[name] for name in TARGETS if record.get(name) is not None} if target is None else {}
            if target is not None:
                read["decoder_text" if isinstance(record[target], str) else "decoder_input_ids"] = record[target]
        except (KeyError, TypeError, AttributeError):
            said = ", ".join(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
            raise InputError(f"a later record is not like the first: it has {said[:200]}, no {chosen}.") from None
        kept = _plain({k: v for k, v in record.items() if k not in (chosen, *read)})
        texts = {"text": value, "decoder_text": read.get("decoder_text")}
        return ({"text": value} | read if read else value), kept | {
            k: v for k, v in texts.items() if isinstance(v, str)
        }

    return pick


def _itself(sample: Any) -> Sample:
    if is_pair(sample):
        texts = zip(("text", "decoder_text"), sample, strict=True)
        return sample, {name: text for name, text in texts if isinstance(text, str)}
    return sample, {"text": sample} if isinstance(sample, str) else {}


def _arguments(record: Any) -> Sample:
    """The model's own arguments: what is plain is remembered, what is an array is read."""
    if not isinstance(record, Mapping):
        raise InputError(f"a later record is not like the first: it is no mapping but {type(record).__name__}.")
    plain = _plain({k: v for k, v in record.items() if k not in TARGETS})
    text = {"decoder_text": t} if isinstance(t := record.get("decoder_text"), str) else {}
    return {k: v for k, v in record.items() if k not in plain and v is not None}, plain | text


def is_pair(sample: Any) -> bool:
    """Is this (what the encoder reads, what the decoder reads)?"""
    return isinstance(sample, tuple) and len(sample) == 2 and all(isinstance(x, (str, list, tuple)) for x in sample)


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Labels, names, numbers: whatever of a record is one plain value."""
    found = {}
    for name, value in record.items():
        if name not in ("sample", "tokens") and not isinstance(value, str) and getattr(value, "shape", None) == ():
            value = value.item()  # a number in a tensor or of numpy's own
        if name not in ("sample", "tokens") and isinstance(value, (str, int, float, bool)):
            found[str(name)] = value
    return found


def digest_into(digest: Any, sample: Any) -> None:
    """Add what the model reads of a sample to a running checksum."""
    if isinstance(sample, str):
        digest.update(sample.encode("utf-8", "surrogatepass") + b"\0")
    elif isinstance(sample, torch.Tensor):
        digest.update(sample.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif hasattr(sample, "tobytes"):
        digest.update(sample.tobytes())
    elif isinstance(sample, Mapping):
        for key in sorted(sample, key=str):
            digest.update(f"{key}=".encode())
            digest_into(digest, sample[key])
    elif isinstance(sample, (list, tuple)) and not all(isinstance(x, int) for x in sample):
        for item in sample:
            digest_into(digest, item)
    else:
        digest.update(repr(sample).encode() + b"\0")
