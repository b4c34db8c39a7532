"""From the samples of one work unit to its rows: length-bucketed batches through the engine, rows in sample order.

What a unit's rows are depends on the unit alone (its batches are made from its own samples), so a resumed or shared
job gives the same bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import InputError, NotFiniteError
from inscape.core.positions import Span, select
from inscape.core.step import Step
from inscape.engine.forward import run
from inscape.engine.inputs import Inputs, prepare
from inscape.engine.planning import span_mask
from inscape.models.model import Model
from inscape.store.keep import Keep, applied

FLOATS = ("float32", "bfloat16", "float16", "float64")
LARGEST = {"float16": 65504.0}
ROWS_ONE = ("mean",)  # reductions that leave one row a sample


@dataclass(frozen=True, eq=False)
class Harvest:
    """How rows are made. sites: column -> (site, what to store of a row); the rest as in `record`.

    batch_tokens: padded tokens a forward; batch_rows: samples a forward when these are no tokens.
    """

    model: Model
    sites: Mapping[str, tuple[str, Keep]]
    reduce: Any = None
    dtype: torch.dtype | None = None
    max_length: int | None = None
    batch_tokens: int = 4096
    batch_rows: int = 32
    overflow: str = "refuse"
    allow_nan: bool = False
    matrices: dict[str, Tensor] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse sites whose rows would not be those of the tokens that are recorded beside them."""
        inner = {site.split(".")[0] for site, _ in self.sites.values()} & {"encoder", "decoder"}
        if "decoder" in inner and self.model.main_prefixes & {"decoder."}:
            raise InputError(
                "a decoder beside an encoder reads tokens of its own, which a record does not keep yet.\n"
                "  record encoder.* sites, or read the decoder's with ins.run and decoder_input_ids."
            )
        if any(m.training for m in self.model.module.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0):
            raise InputError(
                "the model is in training mode: dropout would be recorded. Call model.module.eval() first."
            )
        if self.reduce == "generated":
            raise InputError("reduce='generated': a record runs prompts, nothing is generated.")

    def unit(self, first: int, found: Sequence[Any]) -> tuple[dict[str, Tensor], list[int]]:
        """Columns of all rows of these samples, in sample order, and how many tokens each sample has."""
        batches = self._batches(found)
        parts: dict[str, list[Tensor]] = {}
        owner: list[Tensor] = []
        lengths = [0] * len(found)
        for members, inputs in batches:
            values, owners, tokens = self._batch(members, inputs)
            for name, value in values.items():
                parts.setdefault(name, []).append(value)
            owner.append(owners)
            for member, n in zip(members, tokens, strict=True):
                lengths[member] = n
        belongs = torch.cat(owner)
        order = torch.argsort(belongs, stable=True)
        gathered = {n: torch.cat(p)[order] if len(batches) > 1 else p[0][order] for n, p in parts.items()}
        return {"sample": belongs[order] + first, **gathered}, lengths

    def lengths(self, found: Sequence[Any]) -> list[int]:
        """Tokens of each sample, without running anything; 1 where there are none."""
        if not all(isinstance(s, str) or _is_ids(s) for s in found):
            return [1] * len(found)
        return [len(row) for row in self._tokens(found)[0]]

    def _batches(self, found: Sequence[Any]) -> list[tuple[list[int], Inputs]]:
        """Samples of like length together, up to the token budget; anything but text in rows of one kind."""
        if not all(isinstance(s, str) or _is_ids(s) for s in found):
            return self._untokenized(found)
        rows, offsets = self._tokens(found)
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
        out: list[tuple[list[int], Inputs]] = []
        group: list[int] = []
        for i in [*order, -1]:
            if i < 0 or (group and len(rows[i]) * (len(group) + 1) > self.batch_tokens):
                inputs = prepare(self.model, [rows[j] for j in group], side="right")
                if offsets is not None:
                    width = inputs.tokens.shape[1]  # type: ignore[union-attr]
                    inputs.texts = [found[j] for j in group]
                    inputs.offsets = [list(offsets[j]) + [(0, 0)] * (width - len(offsets[j])) for j in group]
                out.append((group, inputs))
                group = []
            group.append(i)
        return out

    def _tokens(self, found: Sequence[Any]) -> tuple[list[list[int]], list[Any] | None]:
        if not isinstance(found[0], str):
            rows = [list(map(int, s)) for s in found]
            return [r[: self.max_length] for r in rows], None
        tokenizer = self.model.tokenizer
        if tokenizer is None:
            raise InputError(
                "the data are text and this model has no tokenizer.\n  open it with ins.open(module, tokenizer=...)."
            )
        spans = isinstance(self.reduce, Span)
        options = {"return_offsets_mapping": True} if spans else {}
        made = tokenizer(list(found), truncation=self.max_length is not None, max_length=self.max_length, **options)
        empty = next((i for i, ids in enumerate(made["input_ids"]) if not len(ids)), None)
        if empty is not None:
            raise InputError(f"sample {empty} of this work unit is empty: it has no tokens to run on.")
        return [list(ids) for ids in made["input_ids"]], made["offset_mapping"] if spans else None

    def _untokenized(self, found: Sequence[Any]) -> list[tuple[list[int], Inputs]]:
        out = []
        for start in range(0, len(found), self.batch_rows):
            members = list(range(start, min(start + self.batch_rows, len(found))))
            out.append((members, prepare(self.model, _together([found[i] for i in members]), side="right")))
        return out

    def _batch(self, members: Sequence[int], inputs: Inputs) -> tuple[dict[str, Tensor], Tensor, list[int]]:
        """One forward: columns of its rows, the member each row belongs to, tokens a member."""
        rows = _Rows.of(self, inputs, len(members))
        kept: dict[str, Tensor] = {}
        read = {name: (site, _keeper(self, name, how, rows, kept)) for name, (site, how) in self.sites.items()}
        kwargs = {**inputs.kwargs}
        given: Any = kwargs if kwargs else inputs.args
        run(self.model, given, read=read, output=False)
        n = rows.count
        for name, value in kept.items():
            if len(value) != n:
                raise InputError(f"{name} gave {len(value)} rows where the tokens make {n}: record it on its own.")
        owners = torch.tensor(members)[rows.owner]
        return {"pos": rows.pos, "token": rows.token} | kept, owners, rows.lengths


@dataclass(frozen=True, eq=False)
class _Rows:
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
    def of(cls, harvest: Harvest, inputs: Inputs, batch: int) -> "_Rows":
        mask = inputs.mask
        if mask is None or harvest.reduce == "mean":
            lengths = mask.sum(1).tolist() if mask is not None else [1] * batch
            none = torch.full((batch,), -1, dtype=torch.int32)
            real = mask.cpu() if mask is not None else None
            return cls(None, real, torch.arange(batch), none, none.clone(), lengths)
        step = Step.of_mask(mask, 0, inputs.tokens)
        at = span_mask(harvest.reduce, harvest.model, inputs) if isinstance(harvest.reduce, Span) else harvest.reduce
        picked = select(at, step) if at is not None else None
        chosen = (picked if picked is not None else torch.ones_like(step.real, dtype=torch.bool)) & (step.real >= 0)
        owner, column = chosen.nonzero(as_tuple=True)
        token = inputs.tokens.cpu()[owner, column] if inputs.tokens is not None else torch.full_like(owner, -1)
        return cls(chosen, mask.cpu(), owner, step.real[owner, column].int(), token.int(), mask.sum(1).tolist())


def _keeper(harvest: Harvest, name: str, how: Keep, rows: _Rows, kept: dict[str, Tensor]) -> Any:
    """Called by the engine with the site's value: keeps its rows as they are stored, so that nothing else is held."""

    def keep(x: Tensor) -> Tensor:
        for column, value in applied(how, name, _picked(x, rows, name, harvest), harvest.matrices).items():
            if value.is_floating_point():
                value, scale = _stored(value, harvest, column, rows)
                if scale is not None:
                    kept[f"{column}.scale"] = scale.cpu()
            value = value.cpu()
            is_view = value.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
            kept[column] = value.clone() if is_view else value.contiguous()
        return x.new_zeros(())

    return keep


def _picked(x: Tensor, rows: _Rows, name: str, harvest: Harvest) -> Tensor:
    if rows.real is None:
        if x.shape[0] != rows.count:
            raise InputError(f"{name} has {x.shape[0]} rows for {rows.count} samples: record it on its own.")
        site = harvest.sites[name][0]
        axes = harvest.model.points[site].axes if site in harvest.model.points else ()
        return _of_image(x, harvest.reduce, name, axes)
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


def _stored(value: Tensor, harvest: Harvest, name: str, rows: _Rows) -> tuple[Tensor, Tensor | None]:
    """In the asked type; what does not fit is refused, or scaled by a power of two a row. Never an infinity."""
    dtype = harvest.dtype or value.dtype
    cast = value.to(dtype)
    scaled = harvest.overflow == "scale" and str(dtype).removeprefix("torch.") in LARGEST
    fits = bool(torch.isfinite(cast.sum(dtype=torch.float32 if dtype != torch.float64 else None)))
    if not fits:  # or the sum itself overflowed
        fits = bool(torch.isfinite(cast).all())
    if not fits and not bool(torch.isfinite(value).all()):
        if not harvest.allow_nan:
            _refuse(value, ~torch.isfinite(value), name, rows, "the model itself computed")
        fits = bool((torch.isfinite(cast) | ~torch.isfinite(value)).all())
    if not fits and not scaled:
        wrong = ~torch.isfinite(cast) & torch.isfinite(value)
        _refuse(value, wrong, name, rows, f"{str(dtype).removeprefix('torch.')} cannot hold")
    if not scaled:
        return cast, None
    size = value.float().abs().nan_to_num(0.0, 0.0, 0.0)  # a NaN that was allowed must not take its row with it
    top = size.flatten(1).amax(1) if value.ndim > 1 else size
    limit = LARGEST[str(dtype).removeprefix("torch.")]
    scale = torch.exp2(torch.ceil(torch.log2((top / limit).clamp(min=1.0))))
    return (value.float() / scale.reshape(-1, *[1] * (value.ndim - 1))).to(dtype), scale


def _refuse(value: Tensor, wrong: Tensor, name: str, rows: _Rows, why: str) -> None:
    spot = wrong.nonzero()[0].tolist()
    token = int(rows.token[spot[0]])
    where = f"position {int(rows.pos[spot[0]])}, token {token}" if token >= 0 else f"row {spot[0]}"
    raise NotFiniteError(
        f"{name}: {why} {value[tuple(spot)].item():.6g} "
        f"({where}; {int(wrong.flatten(1).any(1).sum())} rows of this batch).\n"
        "  store bfloat16 or float32, or say overflow='scale'; allow_nan=True keeps what the model computed."
    )


def _is_ids(sample: Any) -> bool:
    if isinstance(sample, Tensor):
        return sample.ndim == 1 and not sample.is_floating_point()
    return isinstance(sample, (list, tuple)) and bool(sample) and all(isinstance(i, int) for i in sample)


def _together(found: list[Any]) -> Any:
    """Samples of one kind as one batch of inputs."""
    first = found[0]
    if isinstance(first, Tensor):
        if len({x.shape for x in found}) > 1:
            raise InputError(
                f"the samples are tensors of unlike shapes: {sorted({tuple(x.shape) for x in found})[:3]}."
            )
        return torch.stack(found)
    if isinstance(first, Mapping) and "role" not in first:
        return {k: torch.stack([torch.as_tensor(s[k]) for s in found]) for k in first}
    return found
