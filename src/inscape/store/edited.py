"""Edits while recording: which ones can be, what the store calls them, and whether they ever happened."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.edit_file import edits_fingerprint
from inscape.core.errors import EditError, NotFiredError
from inscape.engine.editing import in_force
from inscape.models.model import Model

PER_HEAD = ("q", "k", "v", "z", "head_out")


def check_edits(model: Model, edits: Sequence[Any]) -> None:
    """Refuse edits that would change what is recorded unsaid, or that depend on which samples share a batch."""
    unsaid = in_force(model)
    if unsaid:
        raise EditError(
            f"ins.editing keeps edits in force ({', '.join(map(str, unsaid[:3]))}): they would change what is recorded "
            "and the store would not say so.\n  leave the `with`, and pass them as edits=[...] if they are meant."
        )
    for edit in edits:
        if not isinstance(edit, Edit):
            raise EditError(f"edits= takes edits such as ins.add(direction); got {type(edit).__name__}.")
        why = _by_row(edit)
        if why:
            raise EditError(
                f"{edit!r} {why}: in a record, which samples share a batch follows from their lengths.\n"
                "  give an edit that is the same for every sample."
            )


def said_of(edits: Sequence[Edit]) -> str | None:
    """What the store says of them: their labels and a fingerprint. Raises EditError for a bare function."""
    if not edits:
        return None
    return f"{'; '.join(edit.label or edit.site for edit in edits)} [{edits_fingerprint(edits)}]"


class Counted:
    """Edits that count how often they happen: one batch may hold no place for one of them, a whole record may not."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.times = [0] * len(edits)
        self.edits = [replace(edit, fn=self._counting(i, edit.fn)) for i, edit in enumerate(edits)]

    def _counting(self, i: int, fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counted(*args: Any) -> Tensor:
            self.times[i] += 1
            return fn(*args)

        return counted

    def check(self) -> None:
        """Raise NotFiredError for an edit that never happened."""
        silent = [edit for edit, times in zip(self.edits, self.times, strict=True) if not times]
        if silent:
            raise NotFiredError(
                f"the edit {silent[0]!r} never happened in this record: what was recorded is the unedited model's.\n"
                "  its places at= were not among the tokens of any sample."
            )


def _by_row(edit: Edit) -> str:
    """Why an edit means something else in every batch; empty when it does not."""
    if edit.rows is not None or any(isinstance(places, Tensor) for places in (edit.heads, edit.units)):
        return "picks rows of a batch"
    if isinstance(edit.at, Tensor):
        return "gives its positions as a table over a batch"
    spec, source = edit.spec or {}, edit.tensors.get("source")
    if spec.get("kind") == "ablate" and spec.get("how") != "zero" and source is None:
        return "draws on the batch itself, having no source="
    if spec.get("kind") == "patch" and source is not None and len(source) > 1:
        return f"has a source of {len(source)} rows"
    for name, ndim in (("groups", 1), ("allowed", 2)):
        table = edit.tensors.get(name)
        if table is not None and table.ndim > ndim and len(table) > 1:
            return f"relates tokens of {len(table)} rows"
    scale = edit.tensors.get("scale")
    if scale is not None and len(scale.shape) - ("schedule" in spec) == 1 and len(scale) > 1:
        return f"has {len(scale)} strengths, one a row"
    vector = edit.tensors.get("vector")
    of_heads = 1 + (edit.site.rpartition(".")[2] in PER_HEAD)
    if vector is not None and vector.ndim > of_heads and len(vector) > 1:
        return f"has {len(vector)} vectors, one a row"
    value = edit.tensors.get("value")
    return f"holds values of {len(value)} rows" if value is not None and value.ndim > 2 and len(value) > 1 else ""
