"""A direction: a vector at a site, with where it came from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ModelError, ShapeError, SiteError
from inscape.core.tensor_file import read_tensors, write_tensors

VERSION = 1


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector at a site, with where it came from.

    Probes find directions, steering adds them, projection removes them. The length is kept as given:
    `add(d, scale=2)` adds `2 * d.vector`. `unit` has length one. Directions of one site and model can be added and
    subtracted, and multiplied by a number: `calm - 0.5 * formal`.

    site: the site, or a pattern of sites, it lives at. vector: (d_model,), or (heads, d_head) at per-head sites.
    source: one line for reports ("mean of calm minus mean of angry"). model: fingerprint of the model it is for.
    Raises, in arithmetic: SiteError, ModelError, ShapeError for two that do not belong together.
    """

    __array_ufunc__: ClassVar[None] = None  # so that a number of numpy's times a direction comes to `__rmul__`

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

    def __mul__(self, factor: Any) -> "Direction":
        number = _number(factor)
        return Direction(self.site, number * self.vector, f"{number:g} x ({self.source})", self.model)

    __rmul__ = __mul__

    def __add__(self, other: Any) -> "Direction":
        return _together(self, other, 1)

    def __sub__(self, other: Any) -> "Direction":
        return _together(self, other, -1)

    def meant_for(self, model: Any) -> "Direction":
        """The same vector, said to be for this model too: its tuned or merged weights, another dtype.

        Nothing is mapped: `steer.transfer` carries a direction over where the two differ. model: opened, or its
        fingerprint; "" is any model.
        """
        return Direction(self.site, self.vector, self.source, str(getattr(model, "fingerprint", model)))

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file: the vector, and the rest as metadata."""
        about = {"kind": "direction", "version": VERSION, "site": self.site, "source": self.source, "model": self.model}
        write_tensors(path, {"vector": self.vector}, {"inscape": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> "Direction":
        """Read what `save` wrote; FileError says what is wrong with anything else."""
        tensors, about = read_tensors(path, "direction", VERSION)
        return cls(about["site"], tensors["vector"], about.get("source", ""), about.get("model", ""))


def same_model(a: str, b: str) -> str:
    """The model of two that belong together; an unknown one ("") belongs to any. Raises: ModelError."""
    if a and b and a != b:
        raise ModelError(
            f"these directions are for two models, {a} and {b}.\n"
            "  a direction means nothing in another model: fit it there, or carry it over with a fitted map first."
        )
    return a or b


def _together(a: Direction, b: Any, sign: int) -> Direction:
    if not isinstance(b, Direction):
        raise InputError(
            f"a direction and a {type(b).__name__} cannot be added.\n"
            "  make a Direction of it at the same site first; multiply by a number to change the length."
        )
    if a.site != b.site:
        raise SiteError(
            f"these directions live at two sites, {a.site} and {b.site}.\n"
            "  a sum is of one site: to act at both, give two edits, or put both in Directions."
        )
    if a.vector.shape != b.vector.shape:
        raise ShapeError(
            f"these directions have shapes {tuple(a.vector.shape)} and {tuple(b.vector.shape)} at {a.site}.\n"
            "  a sum needs equal shapes."
        )
    source = f"({a.source}) {'+' if sign > 0 else '-'} ({b.source})"
    return Direction(a.site, a.vector + sign * b.vector.to(a.vector), source, same_model(a.model, b.model))


def _number(factor: Any) -> float:
    if (isinstance(factor, Tensor) and factor.numel() != 1) or isinstance(factor, Direction):
        raise InputError(
            f"a direction is multiplied by one number, not by a {type(factor).__name__}.\n"
            "  numbers that differ by row are the scale of ins.add(direction, scale=[batch])."
        )
    try:
        return float(factor)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(f"a direction is multiplied by one number, not by a {type(factor).__name__}.") from error
