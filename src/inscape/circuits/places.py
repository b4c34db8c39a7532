"""The places of a sweep: which site, which positions of which pair, which head; and the patch that goes there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import InputError, ShapeError, TokenError
from inscape.core.positions import WORDS, Span, check_at, select
from inscape.core.step import Step
from inscape.models.points import Point

SAME = 1e-5  # of the largest value: the rounding that two runs of equal tokens may differ by


@dataclass(frozen=True, eq=False)
class Spot:
    """One cell of the grid: a site, where in the sequence (`at`, for all pairs or one a pair), and a head.

    from_at: the positions in the source's prompt where they are others, one entry a pair.
    """

    site: str
    axes: tuple[str, ...]
    at: Any = None
    rows: tuple[tuple[int, ...], ...] | None = None
    from_rows: tuple[tuple[int, ...], ...] | None = None
    head: int | None = None

    def at_of(self, row: int) -> Any:
        return self.rows[row] if self.rows is not None else self.at

    def places(self, row: int) -> dict[str, Any]:
        """What an edit's constructor is told."""
        out: dict[str, Any] = {}
        at = self.at_of(row)
        if at is not None:
            out["at"] = at
        if self.head is not None:
            out["heads"] = self.head
        return out


def spots_of(
    points: Sequence[Point], positions: Any, heads: Any, lengths: Sequence[int], n_pairs: int
) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...], list[Spot]]:
    """(axes, labels along them, every spot in their order).

    Raises: ShapeError for sites without positions or heads; TokenError for positions that pairs do not share.
    """
    named = _positions(positions, lengths, n_pairs)
    if named is not None and any("pos" not in p.axes and "query" not in p.axes for p in points):
        odd = next(p for p in points if "pos" not in p.axes and "query" not in p.axes)
        raise ShapeError(f"{odd.name} has no positions (its axes are {odd.shape}); give positions=None.")
    chosen = _heads(points, heads)
    axes, labels = ("site",), (tuple(p.name for p in points),)
    if named is not None:
        axes, labels = (*axes, "position"), (*labels, tuple(label for label, _ in named))
    if chosen is not None:
        axes, labels = (*axes, "head"), (*labels, tuple(chosen))
    spots = [
        Spot(p.name, p.axes, head=h, **where)
        for p in points
        for _, where in (named or [("", {})])
        for h in (chosen if chosen is not None else (None,))
    ]
    return axes, labels, spots


def _positions(positions: Any, lengths: Sequence[int], n_pairs: int) -> list[tuple[Any, dict[str, Any]]] | None:
    if positions is None:
        return None
    if isinstance(positions, str) and positions == "all":
        if len(set(lengths)) != 1 or not lengths[0]:
            raise TokenError(
                f"positions='all' needs prompts of equal length; these have {sorted(set(lengths))} tokens.\n"
                "  give positions={role: positions} with one row a pair, or positions such as [-1]."
            )
        return [(p, {"at": p}) for p in range(lengths[0])]
    if isinstance(positions, Mapping):
        return [(role, _role(role, at, n_pairs)) for role, at in positions.items()]
    if isinstance(positions, (int, str, slice, Span)):
        positions = [positions]
    if isinstance(positions, Tensor):
        positions = positions.tolist()
    out = [(p if isinstance(p, (int, str)) else str(p), {"at": check_at(p)}) for p in positions]
    for label, where in out:
        if isinstance(label, int) and not all(-n <= label < n for n in lengths):
            raise TokenError(f"position {label} is not in every prompt: they have {sorted(set(lengths))} tokens.")
        if where["at"] is None and label in WORDS:
            continue
    return out


def _role(role: str, at: Any, n_pairs: int) -> dict[str, Any]:
    """Positions of one role: the same for all pairs, or a table [pair, k], or two of them (edited run, source)."""
    if isinstance(at, tuple) and len(at) == 2 and all(isinstance(t, Tensor) for t in at):
        here, there = (_table(role, t, n_pairs) for t in at)
        return {"rows": here, "from_rows": there}
    if isinstance(at, Tensor) and at.ndim == 2:
        return {"rows": _table(role, at, n_pairs)}
    return {"at": check_at(at)}


def _table(role: str, at: Tensor, n_pairs: int) -> tuple[tuple[int, ...], ...]:
    if at.ndim != 2 or at.shape[0] != n_pairs or at.is_floating_point():
        raise TokenError(
            f"the positions of {role!r} are a table {tuple(at.shape)}; give integers [{n_pairs} pairs, k]."
        )
    return tuple(tuple(dict.fromkeys(row)) for row in at.tolist())


def _heads(points: Sequence[Point], heads: Any) -> list[int] | None:
    if heads is None:
        return None
    without = [p for p in points if "head" not in p.axes and "kv_head" not in p.axes]
    if without:
        raise ShapeError(
            f"{without[0].name} has no heads (its axes are {without[0].shape}).\n"
            "  sites with heads are attn.q, .k, .v, .z, .scores, .pattern and .head_out."
        )
    if isinstance(heads, str):
        if heads != "all":
            raise InputError(f"heads={heads!r}: it can be 'all', or which.")
        counts = {p.heads or _count(p) for p in points}
        if len(counts) != 1 or None in counts:
            raise ShapeError("these sites have different numbers of heads; sweep them apart, or say which heads.")
        return list(range(next(iter(counts))))  # type: ignore[arg-type]
    return [heads] if isinstance(heads, int) else list(heads)


def _count(point: Point) -> int | None:
    """Heads of an attention site, from its module."""
    config = getattr(point.module, "config", None)
    names = ("num_key_value_heads",) if "kv_head" in point.axes else ()
    for owner in (point.module, config):
        for name in (*names, "num_heads", "num_attention_heads", "n_head"):
            if isinstance(value := getattr(owner, name, None), int) and value > 0:
                return value
    return None


def patched(
    spot: Spot, row: int, i: int, base: Tensor, source: Tensor, mask: Tensor | None, n: int | None
) -> Edit | None:
    """The patch of one spot for pair `row`, the i-th of its group; None where it would change nothing.

    base, source: the site in both runs, [row, pos, ...]. mask: the real tokens of both, base rows first, if the two ran
    as one batch; n: how many of them are base rows.
    """
    at = spot.at_of(row)
    along = next(i for i, axis in enumerate(spot.axes) if axis in ("pos", "query"))
    width = base.shape[along]
    here = _columns(at, mask[i : i + 1] if mask is not None else None, width)
    if mask is not None and n is not None:
        there = _columns(spot.from_rows[row] if spot.from_rows else at, mask[n + i : n + i + 1], width)
    else:
        there = _columns(spot.from_rows[row] if spot.from_rows else at, None, source.shape[along])
    if len(here) != len(there):
        raise TokenError(
            f"pair {row}: {spot.site} is patched at {len(here)} positions from {len(there)} of the other prompt."
        )
    new, old = source[i].index_select(along - 1, there), base[i].index_select(along - 1, here)
    one = [x.select(_head_axis(spot) - 1, spot.head) if spot.head is not None else x for x in (new, old)]
    if float((one[0] - one[1]).abs().nan_to_num(0.0).max()) <= SAME * float(one[1].abs().nan_to_num(0.0, 0.0).max()):
        return None

    def fn(x: Tensor, step: Step) -> Tensor:
        y, columns = x.clone(), here.to(x.device) - step.start
        value = new.to(x)
        if spot.axes[-1] == "key":  # the keys that are there are the columns up to the last
            value = value[..., step.stop - x.shape[-1] : step.stop]
        y[0].index_copy_(along - 1, columns, value)
        return y

    positions = _positions_at(here, mask[i] if mask is not None else None)
    heads = None if spot.head is None else (spot.head,)
    return Edit(spot.site, fn, f"{spot.site} patched", positions, heads, contextual=True)


def _head_axis(spot: Spot) -> int:
    return next(i for i, axis in enumerate(spot.axes) if axis in ("head", "kv_head"))


def _columns(at: Any, mask: Tensor | None, width: int) -> Tensor:
    step = Step.of_mask(mask) if mask is not None else Step.plain(1, width)
    chosen = select(check_at(at), step)
    chosen = chosen if chosen is not None else step.real >= 0
    columns = chosen[0].nonzero().flatten()
    if not len(columns):
        raise TokenError(f"positions {at!r} are not among the {int(step.lengths[0])} tokens of a prompt.")
    return columns


def _positions_at(columns: Tensor, mask: Tensor | None) -> tuple[int, ...]:
    """Columns as positions among real tokens."""
    if mask is None:
        return tuple(columns.tolist())
    real = torch.where(mask.cpu().bool(), mask.cpu().long().cumsum(0) - 1, -1)
    return tuple(real[columns].tolist())


def labelled(edit: Edit) -> str:
    return edit.label or edit.site


def set_to(site: str, value: Tensor, *, at: Any = None, heads: tuple[int, ...] | None = None) -> Edit:
    """Put a value of every real token, [pos, ...], in place of what is there."""

    def fn(x: Tensor, step: Step) -> Tensor:
        real = step.real[0, step.start :].to(x.device)
        there = (real >= 0).reshape(1, -1, *[1] * (x.ndim - 2))
        return torch.where(there, value.to(x)[real.clamp(min=0)][None], x)

    return Edit(site, fn, f"{site} set", check_at(at), heads, contextual=True)
