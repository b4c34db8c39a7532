"""A Hugging Face folder or hub id into a module, a tokenizer and a processor, through transformers' own load.

Nothing is added to that load: one call of `from_pretrained` with the class the configuration names. No code from a
model folder is ever run, and no attention implementation is forced.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from inscape.core.errors import FileError, ModelError
from inscape.core.extra import package
from inscape.models.folder import PROCESSOR_FILES, fault, has_tokenizer, has_vocabulary

# Tried in this order when a configuration names no class. AutoModel fits every model and drops the head, so it is last.
_FALLBACKS = (
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForImageTextToText",
    "AutoModelForMaskedLM",
    "AutoModelForImageClassification",
    "AutoModelForSequenceClassification",
    "AutoModel",
)


def load_module(place: str, *, label: str, options: dict[str, Any]) -> tuple[nn.Module, tuple[str, ...]]:
    """The module in a folder (or hub id) `place`, in eval mode, and notes on it.

    label: how the user named it. options: passed on to `from_pretrained` (dtype, device_map, revision).
    Raises: FileError for damaged or missing files, ModelError for missing weights and unknown architectures.
    """
    transformers = package("transformers", "hf", f"opening {label!r}")
    revision = {"revision": options["revision"]} if "revision" in options else {}
    try:
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False, **revision)
    except Exception as error:
        raise _explained(error, place, label) from error
    tried: list[tuple[str, list[str]]] = []
    for found in classes_for(config, label):
        try:
            with quiet_bars(place):
                module, info = found.from_pretrained(
                    place, config=config, output_loading_info=True, trust_remote_code=False, **options
                )
        except Exception as error:
            raise _explained(error, place, label) from error
        missing = sorted(info["missing_keys"])
        if not missing:
            return module, _unused(type(module).__name__, info["unexpected_keys"])
        tried.append((type(module).__name__, missing))
    name, missing = tried[-1]
    raise ModelError(
        f"{label!r} lacks {len(missing)} of the weights that {name} needs: {_some(missing)}.\n"
        "  they would be random numbers, so the model is not opened.\n"
        f"  if that is what you want, load it yourself (transformers.{name}.from_pretrained) and open the module."
    )


@contextmanager
def quiet_bars(place: str) -> Iterator[None]:
    """No progress bars of transformers while a folder is read: `progress` of `open` tells what goes on.

    The bars of a download on a terminal stay, since only they know how far it is, and so do bars that were asked for
    (HF_HUB_DISABLE_PROGRESS_BARS=0). The switch is one of the process; it is put back, also after an error.
    """
    bars = package("transformers", "hf", "opening a model").utils.logging
    hub = package("huggingface_hub", "hf", "opening a model")
    downloads = sys.stderr.isatty() and not Path(place).is_dir()
    if downloads or not bars.is_progress_bar_enabled() or hub.constants.HF_HUB_DISABLE_PROGRESS_BARS is False:
        yield
        return
    hub_is_quiet = hub.utils.are_progress_bars_disabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        bars.enable_progress_bar()  # switches the hub's own on as well
        if hub_is_quiet:
            hub.utils.disable_progress_bars()


def classes_for(config: Any, label: str) -> tuple[Any, ...]:
    """The transformers classes a configuration asks for: the one it names, else those that could fit, best first."""
    transformers = package("transformers", "hf", f"opening {label!r}")
    named = [str(name) for name in config.architectures or ()]
    found = [getattr(transformers, name) for name in named if isinstance(getattr(transformers, name, None), type)]
    models = [c for c in found if hasattr(c, "from_pretrained") and issubclass(c, nn.Module)]
    if models:
        return (models[0],)
    if named:
        brings = getattr(config, "auto_map", None)
        own = ", and the folder brings code of its own, which inscape does not run" if brings else ""
        raise ModelError(
            f"{label!r} is a {named[0]}; transformers {transformers.__version__} has no such class{own}.\n"
            "  a newer transformers may have it; else load it yourself (trust_remote_code=True) and open the module."
        )
    autos = [getattr(transformers, name) for name in _FALLBACKS if hasattr(transformers, name)]
    return tuple(auto for auto in autos if type(config) in auto._model_mapping) or (transformers.AutoModel,)


def load_tokenizer(place: str, files: Iterable[str], *, label: str, revision: str | None = None) -> Any:
    """The tokenizer that lies in a folder or hub id; None when none of its files is among `files`.

    Raises: ModelError when the files are there and cannot be read. A tokenizer that transformers makes up, because
    there are settings and no vocabulary, is refused: it would give every word the same token.
    """
    files = tuple(files)
    if not has_tokenizer(files):
        return None
    transformers = package("transformers", "hf", f"opening {label!r}")
    at = {"revision": revision} if revision else {}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False, **at)
    except Exception as error:
        raise ModelError(
            f"the tokenizer of {label!r} cannot be read: {_first_line(error)}\n"
            "  give one yourself: ins.open(..., tokenizer=my_tokenizer)."
        ) from error
    if not has_vocabulary(files) and hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError(
            f"the tokenizer of {label!r} has settings (tokenizer_config.json) and no vocabulary (tokenizer.json).\n"
            "  copy the missing file, or give one yourself: ins.open(..., tokenizer=my_tokenizer)."
        )
    return tokenizer


def load_processor(
    place: str, files: Iterable[str], *, label: str, revision: str | None = None
) -> tuple[Any, tuple[str, ...]]:
    """The image, audio or joint processor that lies in a folder or hub id (None without one), and notes.

    One that cannot be made (its packages may be missing) is a note and no error: the model works without it.
    """
    if not PROCESSOR_FILES.intersection(files):
        return None, ()
    transformers = package("transformers", "hf", f"opening {label!r}")
    at = {"revision": revision} if revision else {}
    try:
        processor = transformers.AutoProcessor.from_pretrained(place, trust_remote_code=False, **at)
        if isinstance(processor, transformers.PreTrainedTokenizerBase):  # its last resort, even with no words to read
            processor = transformers.AutoImageProcessor.from_pretrained(place, trust_remote_code=False, **at)
    except Exception as error:
        return None, (f"no processor: {_first_line(error)}",)
    return processor, ()


def _explained(error: Exception, place: str, label: str) -> Exception:
    """The error of a failed load in our words: damaged files first, then what transformers said."""
    if isinstance(error, MemoryError):
        return error
    folder = Path(place)
    problem = fault(folder) if folder.is_dir() else None
    if problem:
        return FileError(f"{label!r} cannot be loaded: {problem}.\n  copy or download the folder again.")
    if folder.is_dir() and not any(folder.glob("*.safetensors")) and any(folder.glob("*.bin")):
        return FileError(
            f"{label!r} has its weights in pickle files that are not plain tensors: {_first_line(error)}\n"
            "  inscape does not run code from a file. If you trust them, load the model yourself, write it again with\n"
            "  save_pretrained (safetensors), and open that folder."
        )
    if isinstance(error, ImportError):
        said = _first_line(error)
        return ModelError(f"{label!r} needs a package that is not installed: {said}\n  install it and open again.")
    if "mismatch" in str(error).lower() or "ignore_mismatched_sizes" in str(error):
        return ModelError(
            f"{label!r} has weights of other shapes than its config.json says: {_first_line(error)}\n"
            "  config.json and the weights belong to different models, or one of the two was edited."
        )
    if "trust_remote_code" in str(error):
        return ModelError(
            f"{label!r} brings code of its own, and inscape does not run code from a model folder.\n"
            "  if you trust it, load it yourself (trust_remote_code=True) and open the module."
        )
    version = package("transformers", "hf", "opening a model").__version__
    return ModelError(
        f"{label!r} cannot be loaded by transformers {version}: {_first_line(error)}\n"
        "  a model type it does not know may need a newer transformers; or build the module yourself and open that."
    )


def _unused(name: str, keys: Iterable[str]) -> tuple[str, ...]:
    unused = sorted(keys)
    return (f"{len(unused)} tensors in the files are no part of {name}: {_some(unused)}",) if unused else ()


def _some(names: list[str], n: int = 4) -> str:
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"
