"""Tensors with a description in one safetensors file: what directions, edits and statistics are kept in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from inscape.core.durable import disk_errors, written
from inscape.core.errors import FileError


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors from any device, whole under the name or not at all; an older file of that name is replaced.

    Raises: FileError when the folder is not there, is read-only or full; the older file is then as it was.
    """
    from safetensors.torch import save

    own = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}  # it refuses shared memory
    data = save(own, metadata=dict(metadata))
    with (
        disk_errors(str(path), lambda: "choose a folder that is there and has room."),
        written(Path(path), replace=True) as file,
    ):
        file.write(data)


def read_tensors(path: str | Path, kind: str, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a safetensors file written by inscape, or FileError."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileError(f"there is no file {str(path)!r}.")
    try:
        with safe_open(str(path), "pt") as file:
            about = json.loads((file.metadata() or {}).get("inscape", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, json.JSONDecodeError) as error:
        raise FileError(f"{str(path)!r} is damaged or is no safetensors file: {error}.") from error
    if not isinstance(about, dict) or about.get("kind") != kind:
        found = about.get("kind") if isinstance(about, dict) else None
        raise FileError(f"{str(path)!r} holds {found or 'tensors of another program'}, not {kind}.")
    theirs = about.get("version", 0)
    if not isinstance(theirs, int):
        raise FileError(f"{str(path)!r} is damaged: {theirs!r} is no version.")
    if theirs > version:
        raise FileError(f"{str(path)!r} was written by a newer inscape (format {theirs}, known: {version}).")
    return tensors, about
