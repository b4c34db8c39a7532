"""Edits at one site that cannot both be had: one projection in ranges that do not meet, an expert masked and forced."""

from collections.abc import Sequence
from itertools import combinations

from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import EditError

PARALLEL = 1 - 1e-6


def refuse_contradictions(edits: Sequence[Edit], site: str) -> None:
    """Raise EditError where a later edit must undo an earlier one of the same tokens.

    `clamp(d, 5, 5)` and `project_out(d)` both set the projection on d; in whichever order they stand, one is lost.
    Edits that may act on other tokens, heads or rows are let pass, and so are conditional ones.
    """
    _refuse_masked_and_forced(edits, site)
    held = [(edit, vector, low, high) for edit in edits for vector, low, high in _ranges(edit)]
    for (a, u, low_a, high_a), (b, v, low_b, high_b) in combinations(held, 2):
        if a is b or u.shape != v.shape or not _meet(a, b):
            continue
        u64, v64 = u.detach().double().cpu().flatten(), v.detach().double().cpu().flatten()
        cosine = float(u64 @ v64 / (u64.norm() * v64.norm()))
        if abs(cosine) < PARALLEL:
            continue
        if cosine < 0:
            low_b, high_b = -high_b, -low_b
        if low_a > high_b or low_b > high_a:
            raise EditError(
                f"{a!r} and {b!r} contradict one another at {site}: they hold the same projection in "
                f"[{low_a:g}, {high_a:g}] and in [{low_b:g}, {high_b:g}].\n"
                "  the later one would undo the earlier; keep one, or give them other tokens (at=) or rows (rows=)."
            )


def _refuse_masked_and_forced(edits: Sequence[Edit], site: str) -> None:
    kinds = {"mask_experts", "force_experts"}
    for a, b in combinations([e for e in edits if (e.spec or {}).get("kind") in kinds], 2):
        one, other = a.spec or {}, b.spec or {}
        both = sorted(set(one["experts"]) & set(other["experts"]))
        if one["kind"] != other["kind"] and both and _meet(a, b):
            raise EditError(
                f"{a!r} and {b!r} contradict one another at {site}: expert {both[0]} is masked and forced.\n"
                "  keep one, or give them other tokens (at=) or rows (rows=)."
            )


def _ranges(edit: Edit) -> list[tuple[Tensor, float, float]]:
    """Directions whose projection an edit bounds, with the bounds."""
    spec = edit.spec or {}
    if spec.get("kind") == "project_out":
        return [(v, 0.0, 0.0) for v in edit.tensors.values() if v.ndim == 1]
    vector = edit.tensors.get("vector")
    if spec.get("kind") != "clamp" or vector is None or vector.ndim != 1:
        return []
    low, high = spec["low"], spec["high"]
    return [(vector, float("-inf") if low is None else float(low), float("inf") if high is None else float(high))]


def _meet(a: Edit, b: Edit) -> bool:
    """Do both certainly act on some token?"""
    for name in ("at", "heads", "units", "rows"):
        here, there = getattr(a, name), getattr(b, name)
        if here is None or there is None:
            continue
        if isinstance(here, Tensor) or isinstance(there, Tensor):
            return False
        if isinstance(here, tuple) and isinstance(there, tuple):
            if not set(here) & set(there):
                return False
        elif here != there:
            return False
    return True
