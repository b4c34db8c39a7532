"""From a site's value in one batch to the rows that are stored: which ones, in which type, and that they are finite."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import InputError, NotFiniteError
from inscape.core.positions import Span, select
from inscape.core.step import Step
from inscape.engine.inputs import Inputs
from inscape.engine.planning import span_mask
from inscape.models.model import Model
from inscape.store.keep import Keep, applied

LARGEST = {"float16": 65504.0}


@dataclass(frozen=True, eq=False)
class Rows:
    """Which of a batch's columns become rows. chosen: bool [batch, pos], None when each sample is one row."""

    chosen: Tensor | None
    real: Tensor | None
    owner: Tensor
    pos: Tensor
    token: Tensor
    lengths: list[int]

    @property
    def count(self) -> int:
        return len(self.owner)

    @classmethod
    def of(cls, model: Model, reduce: Any, counted: Inputs, batch: int) -> "Rows":
        """counted: the tokens of the recorded stack, without a mask where there are none; reduce: as in `record`."""
        mask = counted.mask
        if mask is None or reduce == "mean":
            lengths = mask.sum(1).tolist() if mask is not None else [1] * batch
            none = torch.full((batch,), -1, dtype=torch.int32)
            real = mask.cpu() if mask is not None else None
            return cls(None, real, torch.arange(batch), none, none.clone(), lengths)
        step = Step.of_mask(mask, 0, counted.tokens)
        at = span_mask(reduce, model, counted) if isinstance(reduce, Span) else reduce
        picked = select(at, step) if at is not None else None
        chosen = (picked if picked is not None else torch.ones_like(step.real, dtype=torch.bool)) & (step.real >= 0)
        owner, column = chosen.nonzero(as_tuple=True)
        token = counted.tokens.cpu()[owner, column] if counted.tokens is not None else torch.full_like(owner, -1)
        return cls(chosen, mask.cpu(), owner, step.real[owner, column].int(), token.int(), mask.sum(1).tolist())


@dataclass(frozen=True, eq=False)
class Storing:
    """What is stored of rows. sites: column -> (site, what of a row); the rest as in `record`."""

    model: Model
    sites: Mapping[str, tuple[str, Keep]]
    reduce: Any = None
    dtype: torch.dtype | None = None
    overflow: str = "refuse"
    allow_nan: bool = False
    matrices: dict[str, Tensor] = field(default_factory=dict)

    def keeper(self, name: str, rows: Rows, kept: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """Called by the engine with a site's value: puts its rows into `kept` as they are stored, and lets it go."""
        how = self.sites[name][1]

        def keep(x: Tensor) -> Tensor:
            for column, value in applied(how, name, self._picked(x, rows, name), self.matrices).items():
                if value.is_floating_point():
                    value, scale = self._stored(value, column, rows)
                    if scale is not None:
                        kept[f"{column}.scale"] = scale.cpu()
                value = value.cpu()
                is_view = value.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
                kept[column] = value.clone() if is_view else value.contiguous()
            return x.new_zeros(())

        return keep

    def _picked(self, x: Tensor, rows: Rows, name: str) -> Tensor:
        if rows.real is None:
            if x.shape[0] != rows.count:
                raise InputError(f"{name} has {x.shape[0]} rows for {rows.count} samples: record it on its own.")
            site = self.sites[name][0]
            axes = self.model.points[site].axes if site in self.model.points else ()
            return _of_image(x, self.reduce, name, axes)
        if x.ndim < 2 or x.shape[:2] != rows.real.shape:
            raise InputError(
                f"{name} has the shape {tuple(x.shape)}, not one value for each of {tuple(rows.real.shape)} tokens.\n"
                "  attention maps and scores have two positions each; record what heads bring (attn.z) instead."
            )
        if rows.chosen is None:
            real = rows.real.to(x.device).reshape(*rows.real.shape, *[1] * (x.ndim - 2))
            return (torch.where(real, x.float(), 0.0).sum(1) / real.sum(1)).to(x.dtype)
        if bool(rows.chosen.all()):
            return x.flatten(0, 1)
        return x[rows.chosen.to(x.device)]

    def _stored(self, value: Tensor, name: str, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """In the asked type; what does not fit is refused, or scaled by a power of two a row. Never an infinity."""
        dtype = self.dtype or value.dtype
        short = str(dtype).removeprefix("torch.")
        cast = value.to(dtype)
        scaled = self.overflow == "scale" and short in LARGEST
        fits = bool(torch.isfinite(cast.sum(dtype=torch.float32 if dtype != torch.float64 else None)))
        if not fits:  # or the sum itself overflowed
            fits = bool(torch.isfinite(cast).all())
        if not fits and not bool(torch.isfinite(value).all()):
            if not self.allow_nan:
                _refuse(value, ~torch.isfinite(value), name, rows, "the model itself computed")
            fits = bool((torch.isfinite(cast) | ~torch.isfinite(value)).all())
        if not fits and not scaled:
            _refuse(value, ~torch.isfinite(cast) & torch.isfinite(value), name, rows, f"{short} cannot hold")
        if not scaled:
            return cast, None
        size = value.float().abs().nan_to_num(0.0, 0.0, 0.0)  # a NaN that was allowed must not take its row with it
        top = size.flatten(1).amax(1) if value.ndim > 1 else size
        scale = torch.exp2(torch.ceil(torch.log2((top / LARGEST[short]).clamp(min=1.0))))
        return (value.float() / scale.reshape(-1, *[1] * (value.ndim - 1))).to(dtype), scale


def _of_image(x: Tensor, reduce: Any, name: str, axes: tuple[str, ...]) -> Tensor:
    """One row a sample where there are no tokens: all of it, one place of it, or the mean over its places."""
    if reduce is None or x.ndim < 3:
        return x
    places = tuple(i for i, axis in enumerate(axes) if axis in ("pos", "height", "width"))
    if len(axes) == x.ndim and places:
        if reduce == "mean":
            return x.float().mean(places).to(x.dtype)
        at = {"first": 0, "last": -1}.get(reduce, reduce) if isinstance(reduce, str) else reduce
        if isinstance(at, int) and places == (1,):
            return x[:, at]
    raise InputError(
        f"reduce={reduce!r} does not say what to keep of {name}, whose axes are {' '.join(axes) or 'unknown'} here.\n"
        "  without tokens it can be 'mean' over places, or a place where there is an axis pos."
    )


def _refuse(value: Tensor, wrong: Tensor, name: str, rows: Rows, why: str) -> None:
    spot = wrong.nonzero()[0].tolist()
    token = int(rows.token[spot[0]])
    where = f"position {int(rows.pos[spot[0]])}, token {token}" if token >= 0 else f"row {spot[0]}"
    raise NotFiniteError(
        f"{name}: {why} {value[tuple(spot)].item():.6g} "
        f"({where}; {int(wrong.flatten(1).any(1).sum())} rows of this batch).\n"
        "  store bfloat16 or float32, or say overflow='scale'; allow_nan=True keeps what the model computed."
    )
