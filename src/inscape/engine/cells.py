"""Many edited runs over a few base runs, computing only what their edits can reach.

Four ways, the first that this model and these edits allow:
1. packed: restart at the layer and column of each run's first edit, all runs as stretches of one sequence;
2. rows: restart at the layer, all runs as rows of a batch;
3. batched: the whole model, all runs as rows of a batch;
4. one by one: the whole model, once a cell.
All give the same numbers up to the rounding of other matrix shapes.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import InputError, SiteError
from inscape.core.progress import Progress
from inscape.engine.blocks import CannotReenter
from inscape.engine.planning import Read
from inscape.engine.restart import BATCH, restarted
from inscape.engine.runs import Cell, Measure, Plan, planned
from inscape.engine.whole import batched, one_by_one
from inscape.models.model import Model

__all__ = ["Cell", "Cells", "run_cells"]

WAYS = ("packed", "rows", "batched", "one by one")


@dataclass(eq=False)
class Cells(Mapping[str, Any]):
    """What many edited runs gave. Maps a read name to [cell, ...]; `base` the same of the unedited rows, [row, ...].

    measured: one value a cell; base_measured: one a row. how, why: which way it went, and why no faster one.
    work: token-layers that were run, what one run a cell would have taken, and the seconds that were predicted once the
    rows' own run was timed. seconds: wall time.
    """

    values_: dict[str, Any]
    base: dict[str, Any]
    measured: Tensor | None
    base_measured: Tensor | None
    how: str
    why: str = ""
    work: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def __getitem__(self, name: str) -> Any:
        if str(name) not in self.values_:
            raise SiteError(f"these runs have no {str(name)!r}; they kept {', '.join(self.values_) or 'nothing'}.")
        return self.values_[str(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


def run_cells(
    model: Model,
    inputs: Any,
    cells: Sequence[Any],
    *,
    read: Read = None,
    reduce: Any = None,
    measure: Measure | None = None,
    tokens: Tensor | None = None,
    at: str | Tensor = "last",
    way: str | None = None,
    batch_tokens: int | None = None,
    padding_side: str | None = None,
    progress: Progress = None,
) -> Cells:
    """Run every `Cell`: what `run` gives for its row with its edits, together and without what they share.

    read, reduce: as in `run`; values of every cell, [cell, ...]. measure: a function (logits, rows) -> [n] of the
    logits at each row's last real token, [n, vocab], or with at="all" at all its real positions, [1, pos, vocab];
    `rows` says whose they are. tokens: [rows, k], the only columns of the logits to compute. at: also a table [row,
    pos] of true and false: `measure` (logits [n, vocab], rows, positions) -> [n] is then asked of single positions, a
    run's value is its mean over those that are true, and where its stream is its row's own nothing is computed again.
    way: one of "packed", "rows", "batched", "one by one"; the fastest that is right here when left out.
    batch_tokens: tokens that are run at once.
    Cost: of a run, the layers from its first edit on, at the columns from there on, in products of many rows.
    Raises: what `run` raises; NotFiredError for an edit whose positions its row does not have.
    """
    begun = time.perf_counter()
    if way not in (None, *WAYS):
        raise InputError(f"way={way!r}: it can be {', '.join(WAYS)}.")
    if not isinstance(at, Tensor) and at not in ("last", "all"):
        raise InputError(
            f"at={at!r}: logits are measured at 'last', each row's last real token, at 'all', or at a table [row, pos]."
        )
    model.check_ready()
    plan = planned(model, inputs, cells, read, reduce, padding_side)
    plan.measure, plan.tokens, plan.at, plan.progress = measure, tokens, at, progress
    reasons: list[str] = []
    name = ""
    for name in WAYS if way is None else (way,):
        try:
            if name in ("packed", "rows"):
                restarted(plan, name, batch_tokens, trust=way is not None)
            elif name == "batched":
                batched(plan, batch_tokens or BATCH)
            else:
                one_by_one(plan)
            break
        except CannotReenter as error:
            if way is not None:
                raise InputError(f"way={way!r} is not possible on {type(model.module).__name__}: {error}.") from error
            reasons.append(f"not {name}: {error}")
            plan.measured = plan.base_measured = None
            plan.kept.clear()
            plan.by_position.clear()
    for part in plan.cells:
        part.check_fired()
    loop = float(sum(p.row.stop for p in plan.cells) * model.n_layers)
    work = {"token_layers": plan.work, "one_by_one": loop, "predicted_s": plan.predicted_s}
    values, base = _gathered(plan)
    return Cells(
        values, base, plan.measured, plan.base_measured, name, "; ".join(reasons), work, time.perf_counter() - begun
    )


def _gathered(plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads by name: every cell's, where it had not yet joined its row's."""
    values: dict[str, Any] = {}
    base: dict[str, Any] = {}
    for label in plan.labels:
        rows = [plan.kept.get((label, None, r.number)) for r in plan.rows]
        own = [plan.kept.get((label, p.cell, p.row.number)) for p in plan.cells]
        found = [x if x is not None else rows[p.row.number] for x, p in zip(own, plan.cells, strict=True)]
        values[label] = _stacked([x for x in found if x is not None])
        base[label] = _stacked([x for x in rows if x is not None])
    return values, base


def _stacked(values: list[Tensor]) -> Any:
    return torch.stack(values) if len({v.shape for v in values}) == 1 else values
