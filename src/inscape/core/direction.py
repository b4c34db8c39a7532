"""A direction: a vector at a site, with where it came from."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import ShapeError
from inscape.core.tensor_file import read_tensors, write_tensors

VERSION = 1


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector at a site, with where it came from.

    Probes find directions, steering adds them, projection removes them. The length is kept as given:
    `add(d, scale=2)` adds `2 * d.vector`. `unit` has length one.

    site: the site, or a pattern of sites, it lives at. vector: (d_model,), or (heads, d_head) at per-head sites.
    source: one line for reports ("mean of calm minus mean of angry"). model: fingerprint of the model it is for.
    """

    site: str
    vector: Float[Tensor, "*axes"]
    source: str = ""
    model: str = ""

    def __post_init__(self) -> None:
        if self.vector.ndim == 0:
            raise ShapeError("a direction needs a vector; got a single number.\n  give a tensor of shape (d_model,).")

    @property
    def unit(self) -> Tensor:
        """The same direction with length one."""
        norm = self.vector.norm()
        if not bool(torch.isfinite(norm)) or float(norm) == 0.0:
            raise ShapeError(f"the direction {self.source or self.site!r} has length {float(norm)}: it points nowhere.")
        return self.vector / norm

    def __neg__(self) -> "Direction":
        return Direction(self.site, -self.vector, f"minus ({self.source})", self.model)

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file: the vector, and the rest as metadata."""
        about = {"kind": "direction", "version": VERSION, "site": self.site, "source": self.source, "model": self.model}
        write_tensors(path, {"vector": self.vector}, {"inscape": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> "Direction":
        """Read what `save` wrote; FileError says what is wrong with anything else."""
        tensors, about = read_tensors(path, "direction", VERSION)
        return cls(about["site"], tensors["vector"], about.get("source", ""), about.get("model", ""))
