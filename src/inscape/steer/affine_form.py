"""What an edit does to each token, when that is one affine map for all of them: x -> A x + c.

The map is measured by applying the edit, whatever it is made of, so that every kind of edit that is one can be merged
into weights, functions of a user's own among them; and every other is refused with what was seen.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import Edit, apply
from inscape.core.errors import EditError, ShapeError
from inscape.core.step import Step
from inscape.models.points import Point

TOKENS = 4096  # at a time
CLOSE = 1e-5  # relative: edits may compute in float32
LATER = (*range(1, 33), 64, 256, 1024, 100_000)  # generated tokens to look at: strengths may follow a schedule
SCALES = (1.0, -1.0, 10.0, 100.0, 1e3, -1e3, 1e4)  # a bound that holds a value is met at one of them


@dataclass(frozen=True, eq=False)
class AffineForm:
    """An edit at one site as a map of single values, all features in one axis.

    axes: the site's. features: sizes of its axes after batch and position. constant: c, float64.
    """

    edit: Edit
    axes: tuple[str, ...]
    features: tuple[int, ...]
    constant: Float[Tensor, " d"]

    def of(self, values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """A x + c of each row, in float64."""
        parts = [_apply(self.edit, self.axes, self.features, part) for part in values.double().split(TOKENS)]
        return torch.cat(parts) if parts else values.double()

    def linear(self, values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """A x of each row."""
        return self.of(values) - self.constant

    @cached_property
    def is_shift(self) -> bool:
        """Is A the identity?"""
        x = _noise(3, len(self.constant))
        return _close(self.linear(x), x)

    @property
    def shifts(self) -> bool:
        """Is c anything?"""
        return float(self.constant.abs().max()) > 1e-12

    @cached_property
    def diagonal(self) -> Float[Tensor, " d"] | None:
        """The diagonal of A when there is nothing else in it."""
        x = _noise(3, len(self.constant))
        found = self.linear(torch.ones_like(x[:1]))[0]
        return found if _close(self.linear(x), x * found) else None


def affine_form(edit: Edit, point: Point, features: tuple[int, ...]) -> AffineForm:
    """The map of an edit that stands at this site. Raises: EditError with the reason where it is not one for all."""
    if edit.needs or edit.at is not None or edit.rows is not None:
        where = (
            "reads other sites"
            if edit.needs
            else f"acts at some {'rows' if edit.at is None else 'tokens'} only, not at every token of every row"
        )
        raise EditError(f"{edit!r} {where}.")
    if point.axes[:2] != ("batch", "pos"):
        raise EditError(f"{edit!r}: the axes of {edit.site} are {' '.join(point.axes)}; it changes no single tokens.")
    d = int(torch.tensor(features).prod())
    x = _probes(edit, d)
    half = len(x) // 2
    try:
        constant = _apply(edit, point.axes, features, torch.zeros(1, d, dtype=torch.float64))[0]
        form = AffineForm(edit, point.axes, features, constant)
        once = form.of(x[:1])
        alike = (
            _apply(edit, point.axes, features, x[:1].expand(5, d), rows=2),
            *(_apply(edit, point.axes, features, x[:1], token=k) for k in LATER),
        )
        sums = [
            (form.linear(s * (x[:half] + x[half:])), form.linear(s * x[:half]) + form.linear(s * x[half:]))
            for s in SCALES
        ]
    except (ShapeError, RuntimeError, ValueError, IndexError) as error:
        raise EditError(f"{edit!r} is not one map for every token: {str(error).splitlines()[0]}") from error
    if not all(_close(y, once.expand_as(y)) for y in alike):
        raise EditError(f"{edit!r} does not do the same at every token, row and step.")
    if not torch.isfinite(constant).all() or not all(_close(a, b) for a, b in sums):
        raise EditError(f"{edit!r} is no linear map and a shift: what it does depends on the value.")
    return form


def _apply(
    edit: Edit, axes: tuple[str, ...], features: tuple[int, ...], values: Tensor, rows: int = 1, token: int = 0
) -> Tensor:
    """The edit on values as if they were tokens, [n, d] -> [rows * n, d]; token: new ones from it on, 0 the prompt."""
    n = len(values)
    x = values.reshape(1, n, *features).repeat(rows, *[1] * (1 + len(features)))
    start = 2 + token if token else 0  # after a prompt of three
    step = Step(start, start + n, torch.arange(start + n).expand(rows, -1), None, 3 if token else n)
    with torch.no_grad():
        found = apply(edit, x, step, axes)
    return (x if found is None else found).reshape(rows * n, -1)


def _probes(edit: Edit, d: int) -> Tensor:
    """An even number of values to try: noise, and noise along the edit's own vectors, where its bounds would be."""
    own = [t.detach().double().cpu().reshape(-1, d) for t in edit.tensors.values() if t.ndim and t.shape[-1] == d]
    along = torch.cat(own)[:8] if own else torch.zeros(0, d, dtype=torch.float64)
    along = along / along.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return torch.cat([_noise(8, d), along, _noise(len(along), d)])


def _noise(n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= CLOSE * b.abs().max().clamp(min=1e-30)) or bool((a - b).abs().max() <= 1e-12)
