"""Files that other programs wrote with `torch.save`: tensors, numbers and text are read, code in them is not run."""

from pathlib import Path
from typing import Any

import torch

from inscape.core.errors import FileError


def read_pt(path: str | Path) -> Any:
    """What a .pt file holds, on the CPU. Raises: FileError where it is not there, is damaged or holds other objects."""
    if not Path(path).is_file():
        raise FileError(f"there is no file {str(path)!r}.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or foreign file, some without a word
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise FileError(
            f"{str(path)!r} is damaged, or holds more than tensors, numbers and text: {said}\n"
            "  it is read without running code in it; whoever made it can write plain tensors."
        ) from error
