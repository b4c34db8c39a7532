"""What many runs are made of before any of them runs: rows, cells at concrete sites, what is kept and measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import EditError, InputError
from inscape.core.progress import Progress
from inscape.core.step import Step
from inscape.engine.inputs import Inputs, prepare
from inscape.engine.parts import Keep, Part, Row
from inscape.engine.planning import Read, reads_of, tasks_of
from inscape.models.model import Model

Measure = Callable[..., Tensor]  # (logits, rows), or (logits, rows, positions) where positions are measured one by one


@dataclass(frozen=True, eq=False)
class Cell:
    """One edited run: these edits, in order, on this row of the inputs. Edits see a batch of that row alone."""

    edits: tuple[Edit, ...]
    row: int = 0


@dataclass(eq=False)
class Plan:
    """The rows, the cells' edits at concrete sites, what is kept and what is measured."""

    model: Model
    prepared: Inputs
    rows: list[Row]
    cells: list[Part]
    keeps: dict[str, dict[str, Keep]]
    labels: list[str]
    measure: Measure | None
    tokens: Tensor | None
    at: str | Tensor
    progress: Progress = None
    measured: Tensor | None = None
    base_measured: Tensor | None = None
    kept: dict[tuple[str, int | None, int], Tensor] = field(default_factory=dict)
    by_position: dict[int, Tensor] = field(default_factory=dict)  # of unedited rows: row -> what each position measures
    work: float = 0.0
    predicted_s: float = float("nan")

    def note(self, values: Tensor, parts: Sequence[Part]) -> None:
        """Keep what was measured on these parts."""
        if self.measured is None or self.base_measured is None:
            shape = values.shape[1:]
            self.measured = torch.full((len(self.cells), *shape), torch.nan, dtype=values.dtype)
            self.base_measured = torch.full((len(self.rows), *shape), torch.nan, dtype=values.dtype)
        for value, part in zip(values.detach().cpu(), parts, strict=True):
            if part.cell is None:
                self.base_measured[part.row.number] = value
            else:
                self.measured[part.cell] = value

    def base_part(self, row: Row) -> Part:
        return Part(None, row, row.first)


def planned(model: Model, inputs: Any, cells: Sequence[Any], read: Read, reduce: Any, side: str | None) -> Plan:
    prepared = prepare(model, inputs, side=side)
    rows = _rows(prepared)
    keeps: dict[str, dict[str, Keep]] = {}
    reads = reads_of(model, read, reduce)
    for label, (site, keep) in reads.items():
        keeps.setdefault(site, {})[label] = keep
    known: dict[tuple[int, int], list[tuple[str, Edit]]] = {}
    parts = []
    for number, cell in enumerate(cells):
        if not isinstance(cell, Cell):
            raise EditError(f"cells are Cell(edits, row); got {type(cell).__name__}.")
        if not 0 <= cell.row < len(rows):
            raise InputError(f"cell {number} is on row {cell.row}; the inputs have {len(rows)} rows.")
        edits: dict[str, list[Edit]] = {}
        for edit in cell.edits:
            key = (id(edit), cell.row)
            if key not in known:  # the same edit in many cells is resolved once
                known[key] = _at_sites(model, edit, prepared, cell.row, len(rows))
            for site, concrete in known[key]:
                edits.setdefault(site, []).append(concrete)
        parts.append(Part(number, rows[cell.row], rows[cell.row].first, edits=edits))
    return Plan(model, prepared, rows, parts, keeps, list(reads), None, None, "last")


def _rows(prepared: Inputs) -> list[Row]:
    mask = prepared.mask
    if mask is None:  # no tokens: as many rows as the first tensor has
        given = [v for v in (*prepared.args, *prepared.kwargs.values()) if isinstance(v, Tensor) and v.ndim]
        n = given[0].shape[0] if given else 1
        return [Row(i, 0, 0, torch.zeros(1, 0, dtype=torch.long), None) for i in range(n)]
    step = Step.of_mask(mask)
    rows = []
    for i in range(mask.shape[0]):
        real = step.real[i : i + 1]
        columns = (real[0] >= 0).nonzero()
        if not len(columns):
            raise InputError(f"row {i} of the inputs has no real token.")
        tokens = prepared.tokens[i : i + 1].cpu() if prepared.tokens is not None else None
        rows.append(Row(i, int(columns[0]), int(columns[-1]) + 1, real, tokens))
    return rows


def _at_sites(model: Model, edit: Edit, prepared: Inputs, row: int, n_rows: int) -> list[tuple[str, Edit]]:
    """An edit at each of its sites, its positions those of one row."""
    found = []
    for task in tasks_of(model, {}, [edit], prepared):
        for concrete in task.edits:
            tables = {n: getattr(concrete, n) for n in ("at", "heads", "units")}
            mine = {n: t[row : row + 1] for n, t in tables.items() if _is_table(t, n_rows)}
            concrete = replace(concrete, **mine)
            if concrete.rows is not None:
                raise EditError(f"the edit {edit!r}: a cell is one row already; leave rows= out.")
            found.append((task.point.name, concrete))
    return found


def _is_table(places: Any, n_rows: int) -> bool:
    """Does it say another thing of every row?"""
    return isinstance(places, Tensor) and places.ndim == 2 and places.shape[0] == n_rows
