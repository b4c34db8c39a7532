"""From a name, a path or a module to a module with its tokenizer and processor."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inscape.core.errors import FileError, ModelError
from inscape.core.progress import Progress, tell
from inscape.models import hub
from inscape.models.demo import DEMOS, FOLDERS, demo_folder, efficientnet_lite0
from inscape.models.folder import listing, missing_config
from inscape.models.gguf_cache import dense_folder, notes_of
from inscape.models.toy import TOYS
from inscape.models.toy.files import load_own, toy_folder
from inscape.models.transformers_load import load_module, load_processor, load_tokenizer

Device = str | torch.device | None


@dataclass(frozen=True)
class Loaded:
    """What `load` found. source: how to name it, as given; empty for a module without a name. notes: worth saying."""

    module: nn.Module
    tokenizer: Any
    processor: Any
    source: str
    notes: tuple[str, ...] = ()


def load(
    source: str | Path | nn.Module,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    dtype: torch.dtype | None = None,
    device: Device = None,
    progress: Progress = None,
) -> Loaded:
    """Load a model from anywhere. In this order, `source` is

    1. an `nn.Module`: taken as it is, in its mode; `dtype` and `device` convert it in place, as `module.to` does;
    2. a name in `demo.DEMOS`;
    3. the name of a toy net (`models.toy.TOYS`): from the package, or trained on first use and kept in the cache;
    4. a `.gguf` file: dequantised once into the cache (`gguf_cache`), opened from there;
    5. a folder written by `save_pretrained`: with the class its config names, in the dtype it was written in;
    6. the id of a model on the Hugging Face hub, or in the hub's cache on this machine.

    tokenizer, processor: objects, or the name or folder of one; given ones replace the model's own.
    device: where the module goes; "auto" spreads it (accelerate). Loaded models come in eval mode.
    progress: called with a message and a fraction (None when unknown).
    Cost: transformers' own load, and for a hub id one request more; no weight is read twice, none is copied.
    Raises: FileError for what is missing or damaged, ModelError for what is no model that can be opened,
    MissingExtraError with the extra to install.
    """
    if isinstance(source, nn.Module):
        name = str(getattr(getattr(source, "config", None), "name_or_path", "") or "")
        return Loaded(_moved(source, dtype, device), _tokenizer(tokenizer), _processor(processor), name)
    label = _label(source)
    if label == "efficientnet-lite0":
        tell(progress, f"loading {label}", None)
        module, photos = efficientnet_lite0()
        if processor is None:
            processor = photos
        module = _moved(module, dtype, None if device == "auto" else device)
        return Loaded(module, _tokenizer(tokenizer), _processor(processor), label)
    toy = next((toy for toy in TOYS if toy.name == label and toy.build is not None), None)
    if toy is not None:
        module = _moved(load_own(toy, toy_folder(toy, progress)), dtype, None if device == "auto" else device)
        return Loaded(module, _tokenizer(tokenizer), _processor(processor), label)
    found = _find(source, label, progress)
    options: dict[str, Any] = {"dtype": dtype} if dtype is not None else {}
    if device == "auto":
        options["device_map"] = "auto"
    if found.revision:
        options["revision"] = found.revision
    tell(progress, f"loading the weights of {label}", None)
    module, notes = load_module(found.place, label=label, options=options)
    if device is not None and device != "auto":
        module = _moved(module, None, device)
    given = {"label": label, "revision": found.revision}
    if processor is None:
        processor, more = load_processor(found.place, found.files, **given)
        notes += more
    if tokenizer is None:
        tell(progress, f"loading the tokenizer of {label}", None)
        tokenizer = getattr(processor, "tokenizer", None) or load_tokenizer(found.place, found.files, **given)
    return Loaded(module, _tokenizer(tokenizer), _processor(processor), label, found.notes + notes)


def _find(source: str | Path, label: str, progress: Progress) -> hub.Found:
    """The folder (or hub id) that a name or path stands for."""
    if label in FOLDERS:
        return _folder(demo_folder(label, progress))
    toy = next((toy for toy in TOYS if toy.name == label), None)
    if toy is not None:
        return _folder(toy_folder(toy, progress))
    path = Path(label).expanduser()
    if path.is_dir():
        problem = missing_config(path)
        if problem:
            raise FileError(problem)
        return _folder(path)
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            dense = dense_folder(path, progress)
            return _folder(dense, notes_of(dense))
        raise ModelError(
            f"{label!r} is a file; a model is a .gguf file or a whole folder.\n"
            f"  if it belongs to a Hugging Face model, give its folder: ins.open({str(path.parent)!r}).\n"
            "  else build the module yourself, load the weights into it and open the module."
        )
    if _is_path(source, label):
        raise FileError(_not_there(path, label))
    toys = [toy.name for toy in TOYS]
    near = difflib.get_close_matches(label, [*DEMOS, *toys], n=1, cutoff=0.75)
    if (near or label.startswith("toy-")) and "/" not in label:
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise ModelError(
            f"{label!r} is no model: there is no folder or file of that name here.\n"
            f"  {meant}models that come with inscape[demo]: {', '.join(DEMOS)};\n"
            f"  small nets that come with inscape: {', '.join(toys)}."
        )
    return hub.find(label, DEMOS)


def _folder(path: Path, notes: tuple[str, ...] = ()) -> hub.Found:
    return hub.Found(str(path), tuple(entry.name for entry in path.iterdir()), notes=notes)


def _label(source: Any) -> str:
    """What the user called the model."""
    if isinstance(source, (str, Path)):
        return str(source)
    kind = type(source).__name__
    said = f"a state dict ({kind}) is no model" if isinstance(source, dict) else f"{kind} is nothing that can be opened"
    raise ModelError(
        f"{said}.\n  give the name of a model, a folder, a .gguf file, or an nn.Module with its weights loaded."
    )


def _is_path(source: str | Path, label: str) -> bool:
    """Whether a name can only be a path: hub ids have at most one slash, and no ending that files have."""
    marked = label.startswith((".", "~", os.sep)) or os.path.isabs(label) or "\\" in label or label.count("/") > 1
    return marked or not isinstance(source, str) or label.lower().endswith((".gguf", ".safetensors", ".bin"))


def _not_there(path: Path, label: str) -> str:
    there = next(parent for parent in path.absolute().parents if parent.is_dir())
    beside = [p.name for p in there.iterdir()] if there == path.absolute().parent else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    meant = f"  did you mean {str(path.parent / near[0])!r}?" if near else f"  {str(there)!r} holds {listing(there)}."
    return f"there is no file or folder {label!r}.\n{meant}"


def _tokenizer(given: Any) -> Any:
    """The tokenizer given, or the one that lies where a name or path says."""
    if not isinstance(given, (str, Path)):
        return given
    label, found = str(given), _beside(given)
    tokenizer = load_tokenizer(found.place, found.files, label=label, revision=found.revision)
    if tokenizer is None:
        raise ModelError(_lacks("tokenizer", label, found))
    return tokenizer


def _processor(given: Any) -> Any:
    """The processor given, or the one that lies where a name or path says."""
    if not isinstance(given, (str, Path)):
        return given
    label, found = str(given), _beside(given)
    processor, notes = load_processor(found.place, found.files, label=label, revision=found.revision)
    if processor is None:
        raise ModelError("\n  ".join((_lacks("processor", label, found), *notes)))
    return processor


def _beside(given: str | Path) -> hub.Found:
    toy = next((toy for toy in TOYS if toy.name == str(given)), None)
    path = toy_folder(toy) if toy else demo_folder(str(given)) if given in FOLDERS else Path(given).expanduser()
    if path.is_dir():
        return _folder(path)
    if _is_path(given, str(given)):
        raise FileError(_not_there(path, str(given)))
    return hub.find(str(given), DEMOS)


def _lacks(what: str, label: str, found: hub.Found) -> str:
    return (
        f"there is no {what} in {label!r}; it holds {', '.join(sorted(found.files)[:8]) or 'nothing'}.\n"
        f"  give the folder or hub id of a model that has one, or the {what} object itself."
    )


def _moved(module: nn.Module, dtype: torch.dtype | None, device: Device) -> nn.Module:
    if dtype is None and device is None:
        return module
    if device is not None and len(set(getattr(module, "hf_device_map", {}).values())) > 1:
        raise ModelError(
            "this module is spread over several devices (hf_device_map); it cannot be moved to one.\n"
            "  open it without device=; it runs where it lies."
        )
    try:
        return module.to(device=device, dtype=dtype)
    except (RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
        asked = " and ".join(str(x) for x in (device, dtype) if x is not None)
        raise ModelError(
            f"the module cannot be moved to {asked}: {str(error).splitlines()[0][:200]}\n"
            "  quantised modules keep their dtype; a device has to be there. Open it without that argument."
        ) from error
