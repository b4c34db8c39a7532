"""A change at one site, as a value: what to do there, where in the sequence, for which heads, units and rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import EditError, ShapeError
from inscape.core.positions import At, check_at, select
from inscape.core.step import Step

ELSEWHERE = "/"  # before a name in `Edit.needs`: a site anywhere in the model, by its whole name


@dataclass(frozen=True, eq=False)
class Edit:
    """A change at one site: `fn` maps the activation there to the one that goes on.

    site: a name or a pattern ("layers.*.mlp_out"). label: shown in reports. at, heads, units, rows: where it acts;
    everything else passes unchanged. heads and units are one set for all rows, or one a row: a table of indices
    [batch, k] or a bool mask [batch, n]. contextual: `fn(x, step)` instead of `fn(x)`, see `core.step.Step`.
    needs: other sites whose values the function reads from `step.held` under the same name: relative to the same layer,
    or "/layers.3.resid_post", whole, behind a slash.
    calls: the function also looks at how the block it stands behind was called: `step.call`, see `core.step.Call`.
    among: all sites of the pattern that this edit was written with, once it stands at one of them; see `Step.among`.
    spec, tensors: how to write it to a file; an edit without `spec` is a bare function and cannot be saved.
    """

    site: str
    fn: Callable[..., Tensor]
    label: str = ""
    at: At = None
    heads: tuple[int, ...] | Tensor | None = None
    units: tuple[int, ...] | Tensor | None = None
    rows: tuple[int, ...] | None = None
    contextual: bool = False
    needs: tuple[str, ...] = ()
    among: tuple[str, ...] = ()
    calls: bool = False
    spec: Mapping[str, Any] | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        where = "".join(
            f", {name}={f'one set a row {tuple(value.shape)}' if isinstance(value, Tensor) else repr(value)}"
            for name in ("at", "heads", "units", "rows")
            if (value := getattr(self, name)) is not None
        )
        return f"Edit({self.label or self.site}{where})"


Edits = Edit | Sequence["Edit | Sequence[Edit]"]


def listed(edits: Any) -> list[Any]:
    """Edits as one list: a single one, several, and lists of them, as `[ins.add(directions), ins.skip("layers.3")]`."""
    if isinstance(edits, Edit) or not hasattr(edits, "__iter__"):
        return [edits]
    return [one for each in edits for one in (each if isinstance(each, list | tuple) else [each])]


def whole_numbers(values: int | Sequence[int] | Tensor | None, name: str) -> tuple[int, ...] | None:
    """Indices as a tuple; a bool mask becomes the indices it marks."""
    if values is None:
        return None
    if isinstance(values, Tensor):
        values = values.nonzero().flatten().tolist() if values.dtype == torch.bool else values.reshape(-1).tolist()
    if isinstance(values, int):
        values = (values,)
    values = tuple(values)
    if not all(isinstance(v, int) for v in values):
        raise EditError(f"{name}={values!r}: give an index, a list of indices or a bool mask.")
    return values


def sets_of(values: Any, name: str) -> tuple[int, ...] | Tensor | None:
    """Indices that are the same for all rows as a tuple; a table or mask with one set a row stays a tensor."""
    if isinstance(values, Tensor) and values.ndim == 2:
        if values.is_floating_point():
            raise EditError(f"{name}= of {values.dtype}: one set a row is a table of indices or a bool mask.")
        return values.cpu()
    if isinstance(values, Tensor) and values.ndim > 2:
        raise EditError(f"{name}= of shape {tuple(values.shape)}: give indices [k], or one set a row, [batch, k].")
    return whole_numbers(values, name)


def make_edit(
    site: str,
    fn: Callable[..., Tensor],
    label: str,
    *,
    at: At = None,
    heads: Any = None,
    units: Any = None,
    rows: Any = None,
    **more: Any,
) -> Edit:
    """An edit with its places checked; every constructor ends here."""
    return Edit(
        str(site), fn, label, check_at(at), sets_of(heads, "heads"), sets_of(units, "units"),
        whole_numbers(rows, "rows"), **more,
    )  # fmt: skip


def needed_site(site: str, name: str) -> str:
    """The site that an edit at `site` means by an entry of its `needs`."""
    return name.removeprefix(ELSEWHERE) if name.startswith(ELSEWHERE) else f"{site.rpartition('.')[0]}.{name}"


def models_of(edit: Edit) -> list[str]:
    """Fingerprints of the models that an edit's vectors, and those of its conditions, were found in."""
    found, spec = [], edit.spec
    while spec:
        found += [said for part in (spec, spec.get("condition") or {}) if (said := part.get("model"))]
        spec = spec.get("edit")
    return found


def meant_for(edit: Edit, model: str) -> Edit:
    """The same edit with the fingerprint of the model it is for, which `ins.run` compares; "" is any."""
    return replace(edit, spec={**edit.spec, "model": model}) if model and edit.spec is not None else edit


def at_site(edit: Edit, site: str, among: tuple[str, ...] = ()) -> Edit:
    """The same edit at one concrete site, of those that it acts at."""
    return edit if edit.site == site else replace(edit, site=site, among=among)


def apply(edit: Edit, x: Tensor, step: Step, axes: tuple[str, ...]) -> Tensor | None:
    """The edited activation, or None where the edit touches nothing of this call.

    Computes `where(place, fn(x), x)`: exact, differentiable, the same for every kind of place.
    """
    place = place_of(edit, x, step, axes)
    if place is False:
        return None
    step.site, step.place, step.among = edit.site, place, edit.among or (edit.site,)
    y = edit.fn(x, step) if edit.contextual else edit.fn(x)
    if not isinstance(y, Tensor):
        raise EditError(f"the edit {edit!r} returned {type(y).__name__}, not a tensor.")
    if y.shape != x.shape:
        named = ", ".join(f"{a}={n}" for a, n in zip(axes, x.shape, strict=False))
        raise ShapeError(
            f"the edit {edit!r} at {edit.site} returned shape {tuple(y.shape)}; expected {tuple(x.shape)} ({named})."
        )
    y = y.to(dtype=x.dtype, device=x.device)
    return torch.where(place, y, x) if isinstance(place, Tensor) else y


def place_of(edit: Edit, x: Tensor, step: Step, axes: tuple[str, ...]) -> Tensor | bool | None:
    """Bool tensor that broadcasts to x and marks where the edit acts; None everywhere, False nowhere."""
    place: Tensor | None = None
    if edit.at is not None:
        along = _axis(edit, axes, ("pos", "query"), "at")
        chosen = select(edit.at, step)
        if chosen is not None:
            n_chosen = int(chosen.count_nonzero())
            if not n_chosen:
                return False
            if chosen.shape[1] != x.shape[along]:
                raise ShapeError(
                    f"the edit {edit!r} at {edit.site}: at= covers {chosen.shape[1]} positions, "
                    f"the site has {x.shape[along]}."
                )
            if n_chosen < chosen.numel():  # else everywhere: most of what a cached step says
                shape = [1] * x.ndim
                shape[0], shape[along] = chosen.shape
                place = chosen.reshape(shape).to(x.device)
    for name, indices, names in (
        ("rows", edit.rows, ("batch",)), ("heads", edit.heads, ("head", "kv_head")),
        ("units", edit.units, ("channel" if "channel" in axes else axes[-1],)),
    ):  # fmt: skip
        if indices is None:
            continue
        along = _axis(edit, axes, names, name)
        size = x.shape[along] // (step.n_repeats if name == "rows" else 1)
        if isinstance(indices, Tensor):
            mark = _row_by_row(edit, name, indices, size, x.shape[0], step)
            mark = mark.reshape([n if i in (0, along) else 1 for i, n in enumerate(x.shape)]).to(x.device)
            place = mark if place is None else place & mark
            continue
        wrong = [i for i in indices if not -size <= i < size]
        if wrong:
            raise ShapeError(f"the edit {edit!r} at {edit.site}: {name}={wrong} but that axis has {size} entries.")
        mark = torch.zeros(size, dtype=torch.bool)
        mark[list(indices)] = True
        if name == "rows":
            mark = mark.repeat_interleave(step.n_repeats)
        shape = [1] * x.ndim
        shape[along] = len(mark)
        mark = mark.reshape(shape).to(x.device)
        place = mark if place is None else place & mark
    return place


def _row_by_row(edit: Edit, name: str, sets: Tensor, size: int, n_rows: int, step: Step) -> Tensor:
    """One set a row as a bool mask [batch, size]."""
    if sets.shape[0] * step.n_repeats != n_rows:
        raise ShapeError(
            f"the edit {edit!r} at {edit.site}: {name}= has sets for {sets.shape[0]} rows, the run {n_rows} rows."
        )
    if sets.dtype == torch.bool:
        if sets.shape[1] != size:
            raise ShapeError(
                f"the edit {edit!r} at {edit.site}: {name}= is a mask over {sets.shape[1]} entries, "
                f"the axis has {size}."
            )
        mark = sets
    else:
        if sets.numel() and not -size <= int(sets.min()) <= int(sets.max()) < size:
            raise ShapeError(
                f"the edit {edit!r} at {edit.site}: {name}= goes from {int(sets.min())} to {int(sets.max())}, "
                f"but that axis has {size} entries."
            )
        mark = torch.zeros(sets.shape[0], size, dtype=torch.bool).scatter(1, sets.long() % size, True)
    return mark.repeat_interleave(step.n_repeats, 0)


def _axis(edit: Edit, axes: tuple[str, ...], names: tuple[str, ...], asked: str) -> int:
    for name in names:
        if name in axes:
            return axes.index(name)
    hint = "  per-head sites are attn.q, .k, .v, .z, .scores, .pattern, .head_out." if asked == "heads" else ""
    raise ShapeError(f"{asked}= does not apply at {edit.site}: its axes are {' '.join(axes)}.\n{hint}".rstrip())
