"""What lies in a model folder, and what is wrong with one that would not load.

Nothing here runs on the way to a model that loads: faults are looked for after a load failed, from file sizes and
headers alone, so the search takes milliseconds for any size of model.
"""

import json
import struct
from collections.abc import Iterable
from pathlib import Path

_VOCABULARIES = frozenset(("tokenizer.json", "vocab.txt", "vocab.json", "tekken.json"))
PROCESSOR_FILES = frozenset(("preprocessor_config.json", "processor_config.json"))
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_MAX_HEADER = 100_000_000  # the limit the safetensors format itself sets


def has_tokenizer(files: Iterable[str]) -> bool:
    """Whether a tokenizer is among a model's files; some are only settings, as the byte-level ones."""
    return "tokenizer_config.json" in (names := set(files)) or has_vocabulary(names)


def has_vocabulary(files: Iterable[str]) -> bool:
    """Whether the words of a tokenizer are among a model's files."""
    return any(name in _VOCABULARIES or name.endswith((".model", ".spm", ".bpe", ".tiktoken")) for name in files)


def listing(folder: Path, limit: int = 8) -> str:
    """The names in a folder, for a message."""
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    return (", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")) or "nothing"


def missing_config(folder: Path) -> str | None:
    """What to say of a folder without `config.json`, None when it has one."""
    if (folder / "config.json").is_file():
        return None
    said = f"{str(folder)!r} has no config.json, so it is no Hugging Face model folder.\n  it holds {listing(folder)}."
    inner = sorted(p.parent.name for p in folder.glob("*/config.json"))
    gguf = sorted(p.name for p in folder.glob("*.gguf"))
    if (folder / "adapter_config.json").is_file():
        return said + "\n  these are adapter weights: load the base model with them (peft), then open that module."
    if gguf:
        return said + f"\n  open the file itself: ins.open({str(folder / gguf[0])!r})."
    if inner:
        return said + f"\n  a model lies one level down: ins.open({str(folder / inner[0])!r})."
    return said + "\n  give the folder that save_pretrained wrote, or build the module yourself and open that."


def fault(folder: Path) -> str | None:
    """The first thing visibly wrong with a model folder's files, None when nothing is."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            return "config.json holds no JSON object"
    except (ValueError, OSError) as error:
        return f"config.json cannot be read: {error}"
    for index in sorted(folder.glob("*.index.json")):
        problem = _index_fault(folder, index)
        if problem:
            return problem
    weights = [p for p in sorted(folder.iterdir()) if p.suffix in _WEIGHTS]
    if not weights:
        return f"there are no weights (no .safetensors file); the folder holds {listing(folder)}"
    tensors = [p for p in weights if p.suffix == ".safetensors"]
    return next((f"{p.name} {bad}" for p in tensors if (bad := safetensors_fault(p))), None)


def _index_fault(folder: Path, index: Path) -> str | None:
    try:
        shards: Iterable[str] = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        return f"{index.name} cannot be read: {error!r}"
    if not shards:
        return f"{index.name} names no file of weights"
    outside = sorted(s for s in shards if not isinstance(s, str) or Path(s).name != s)
    if outside:
        return f"{index.name} names files outside the folder: {outside[0]!r}"
    absent = sorted(s for s in shards if not (folder / s).is_file())
    return f"{len(absent)} of {len(set(shards))} weight files are missing, first {absent[0]}" if absent else None


def safetensors_fault(path: Path) -> str | None:
    """What is wrong with a safetensors file by its header and its size, None when they agree."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                return f"is cut off: {size} bytes"
            (length,) = struct.unpack("<Q", start)
            if start == b"version ":  # "version https://git-lfs...": a pointer in place of the file
                return "is a Git LFS pointer; fetch the file itself"
            if length > _MAX_HEADER:
                return "is no safetensors file"
            if 8 + length > size:
                return f"is cut off: {size:,} bytes, its header alone needs {8 + length:,}"
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        needed = 8 + length + max(ends, default=0)
    except (ValueError, OSError, KeyError, TypeError, AttributeError, IndexError) as error:
        return f"is no readable safetensors file: {error!r}"
    if size < needed:
        return f"is cut off: {size:,} bytes of {needed:,}"
    return f"is longer than it says: {size:,} bytes for {needed:,}" if size > needed else None
