"""Fitted readouts as files: what was learned, the settings it was learned with, the site and the model it is for.

One safetensors file of kind "readout". Nothing in it is executed: the class is looked up by name among those the
reader names, settings must be fields of it, and what was learned must be tensors, numbers and words.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from inscape.core.errors import FileError, InputError, ModelError, NotFittedError, SiteError
from inscape.core.tensor_file import read_tensors, write_tensors

VERSION = 1
KIND = "readout"


def learned_of(readout: Any) -> dict[str, Any]:
    """What `fit` has learned: attributes that end in `_`."""
    return {k: v for k, v in vars(readout).items() if k.endswith("_") and not k.startswith("_")}


def save_readout(path: str | Path, readout: Any, *, site: str | None = None, model: Any = None) -> None:
    """Write a fitted readout as one safetensors file.

    site, model: where it reads and of which model (or its fingerprint); left out, what the rows of the fit knew of
    themselves (`site_`, `model_`: rows of a store do). Learned values may be tensors, dicts and lists of tensors,
    numbers, words, and lists of these.
    Raises: NotFittedError; InputError for settings or learned values of other kinds; FileError from the disk.
    """
    learned = learned_of(readout)
    if not learned:
        raise NotFittedError(f"this {type(readout).__name__} has not been fitted: there is nothing to save.")
    fields = {f.name: getattr(readout, f.name) for f in dataclasses.fields(readout) if f.init}
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for name, value in learned.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, Mapping) and value and all(isinstance(v, Tensor) for v in value.values()):
            tensors |= {f"{name}/{key}": v for key, v in value.items()}
        elif isinstance(value, Sequence) and value and all(isinstance(v, Tensor) for v in value):
            tensors |= {f"{name}#{i}": v for i, v in enumerate(value)}
        else:
            values[name] = _plain(value, name, readout)
    about = {
        "kind": KIND,
        "version": VERSION,
        "class": type(readout).__name__,
        "settings": {name: _plain(value, name, readout) for name, value in fields.items()},
        "learned": values,
        "site": site if site is not None else str(learned.get("site_", "")),
        "model": _fingerprint(model) if model is not None else str(learned.get("model_", "")),
    }
    write_tensors(path, tensors, {"inscape": json.dumps(about)})


def load_readout(path: str | Path, classes: Sequence[type], *, model: Any = None, site: str | None = None) -> Any:
    """Read what `save_readout` wrote, as an object of one of `classes`.

    model: the model (or fingerprint) it will be used on; a readout of another one is refused, and so is one that does
    not say which it is of. site: the site it will be used at, likewise. Left out, neither is checked.
    Raises: FileError for a file that is damaged, of another kind, or of a class or settings that are not known;
    ModelError, SiteError for one that is of another model or site.
    """
    tensors, about = read_tensors(path, KIND, VERSION)
    known = {c.__name__: c for c in classes}
    name = about.get("class")
    if name not in known:
        raise FileError(
            f"{str(path)!r} holds a readout of class {name!r}, which is not among {', '.join(sorted(known))}."
        )
    cls, settings, values = known[name], about.get("settings"), about.get("learned")
    if not isinstance(settings, dict) or not isinstance(values, dict):
        raise FileError(f"{str(path)!r} is damaged: it has no settings or no learned values.")
    fields = {f.name for f in dataclasses.fields(cls) if f.init}
    if not settings.keys() <= fields:
        unknown = ", ".join(sorted(settings.keys() - fields))
        raise FileError(f"{str(path)!r} has settings that {name} does not know: {unknown}; a newer one wrote it.")
    _check_origin(path, about, model, site)
    made = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
    for key, value in {**values, **_gathered(path, tensors)}.items():
        if not key.endswith("_") or key.startswith("_") or not key.isidentifier() or hasattr(cls, key):
            raise FileError(f"{str(path)!r} is damaged: {key!r} is no name of a learned value.")
        setattr(made, key, tuple(value) if isinstance(value, list) and key in values else value)
    if about.get("site"):
        made.site_ = str(about["site"])
    if about.get("model"):
        made.model_ = str(about["model"])
    return made


def _gathered(path: str | Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tensors by the attribute that they are of; dicts and lists are put together again."""
    out: dict[str, Any] = {}
    lists: dict[str, dict[int, Tensor]] = {}
    for key, value in tensors.items():
        if "/" in key:
            name, inner = key.split("/", 1)
            out.setdefault(name, {})[inner] = value
        elif "#" in key:
            name, _, place = key.partition("#")
            if not place.isdecimal():
                raise FileError(f"{str(path)!r} is damaged: {key!r} is no place in a list.")
            lists.setdefault(name, {})[int(place)] = value
        else:
            out[key] = value
    for name, items in lists.items():
        if sorted(items) != list(range(len(items))):
            raise FileError(f"{str(path)!r} is damaged: {name} has places missing.")
        out[name] = [items[i] for i in range(len(items))]
    return out


def _check_origin(path: str | Path, about: Mapping[str, Any], model: Any, site: str | None) -> None:
    if model is not None:
        mine, theirs = _fingerprint(model), about.get("model", "")
        if mine != theirs:
            said = f"another model ({theirs})" if theirs else "a model that it does not name"
            raise ModelError(
                f"{str(path)!r} was fitted on {said}; this one is {mine}.\n"
                "  fit it again on this model's activations, or load it without model= to look at the numbers."
            )
    if site is not None and site != about.get("site", ""):
        raise SiteError(
            f"{str(path)!r} was fitted at {about.get('site') or 'a site that it does not name'}, not at {site!r}.\n"
            "  read the site it was fitted at, or fit another."
        )


def _fingerprint(model: Any) -> str:
    found = model if isinstance(model, str) else getattr(model, "fingerprint", None)
    if not isinstance(found, str):
        raise InputError(f"model= takes an opened model or its fingerprint; got a {type(model).__name__}.")
    return found


def _plain(value: Any, name: str, readout: Any) -> Any:
    """Numbers and words as JSON holds them."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(v, name, readout) for v in value]
    raise InputError(
        f"{type(readout).__name__}.{name} is a {type(value).__name__}, which a file of readouts does not hold.\n"
        "  tensors, dicts and lists of tensors, numbers, words and lists of these can be saved."
    )
