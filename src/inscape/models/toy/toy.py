"""What a toy net is, and where its files are.

A toy is a folder as `save_pretrained` writes it (`config.json`, `model.safetensors`, `tokenizer.json`), and `toy.json`:
how it was trained (seed, steps) and what it was seen to do. It lies in the package (`weights/NAME`) when it is small,
else in the cache, where the first opening trains it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

SHIPPED = Path(__file__).parent / "weights"
ABOUT = "toy.json"


@dataclass(frozen=True)
class Toy:
    """A small net with a name.

    about: what it can do, in a sentence. shipped: are its weights in the package? build: makes the module, for a net
    that is no transformers class; else `config.json` says what it is.
    """

    name: str
    about: str
    shipped: bool = True
    build: Callable[[], nn.Module] | None = None

    @property
    def key(self) -> str:
        """Its name as the name of a Python module: that of `dynamics/toys/KEY.py`, which trains it."""
        return self.name.removeprefix("toy-").replace("-", "_")


def story(folder: Path) -> dict[str, Any]:
    """How the toy in a folder was trained, and what it was seen to do."""
    return json.loads((folder / ABOUT).read_text(encoding="utf-8"))
