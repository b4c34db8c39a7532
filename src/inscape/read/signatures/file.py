"""Signatures on disk: a safetensors file, or a folder of them that a long capture fills part by part."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inscape.core.errors import FileError
from inscape.core.tensor_file import read_tensors, write_tensors
from inscape.read.signatures.signature import PER_STEP, Signatures, together

KIND, VERSION = "output signatures", 1
SAID = ("n_vocab", "values", "span", "approximate", "model")


def save_signatures(path: str | Path, signatures: Signatures, *, asked: Mapping[str, Any] | None = None) -> None:
    """Write signatures as one safetensors file: a tensor a field, and what they are of as JSON.

    asked: what the capture was asked, kept beside them. Raises: FileError from the disk.
    """
    about = {"kind": KIND, "version": VERSION, **{name: getattr(signatures, name) for name in SAID}}
    about |= {"texts": list(signatures.texts), "asked": dict(asked or {})}
    write_tensors(path, {name: getattr(signatures, name) for name in PER_STEP}, {"inscape": json.dumps(about)})


def load_signatures(path: str | Path) -> Signatures:
    """Read a file of `save_signatures`, or all parts of a folder that `capture(store=)` wrote, in order.

    Raises: FileError for what is missing, damaged or something else.
    """
    place = Path(path)
    if place.is_dir():
        parts = sorted(place.glob("part-*.safetensors"))
        if not parts:
            raise FileError(f"the folder {str(path)!r} holds no signatures (part-*.safetensors).")
        return together([load_signatures(part) for part in parts])
    return read_part(place)[0]


def read_part(path: Path) -> tuple[Signatures, dict[str, Any]]:
    """One file, and what its capture was asked."""
    tensors, about = read_tensors(path, KIND, VERSION)
    missing = [name for name in PER_STEP if name not in tensors] + [name for name in SAID if name not in about]
    if missing:
        raise FileError(f"{str(path)!r} is damaged: it lacks {', '.join(missing)}.")
    shapes = {tuple(tensors[name].shape[:2]) for name in PER_STEP}
    if len(shapes) != 1:
        raise FileError(f"{str(path)!r} is damaged: its tensors are of {len(shapes)} different numbers of steps.")
    texts = tuple(str(t) for t in about.get("texts", ()))
    held = Signatures(**{n: tensors[n] for n in PER_STEP}, **{n: about[n] for n in SAID}, texts=texts)
    return held, dict(about.get("asked", {}))
