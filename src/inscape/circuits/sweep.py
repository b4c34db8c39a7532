"""`ins.sweep`: an edit at every site, position and head, and what each does to the prediction.

1. Both prompts of every pair run once; the sites are recorded in each.
2. Every place becomes a cell, but those whose patch equals what is there already: their effect is exactly none.
3. All cells run together from where their edits are (`engine.cells`), and only what the metric needs of the
   unembedding is computed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inscape.circuits.pairing import BY_ROLE, Measured, Pairing, asked, measured
from inscape.circuits.places import Spot, labelled, patched, spots_of
from inscape.circuits.two_models import check_source, site_in
from inscape.core.edit import Edit
from inscape.core.errors import EditError
from inscape.core.grid import Cost, Grid
from inscape.core.metrics import Metric
from inscape.core.progress import Progress, tell
from inscape.engine.cells import Cell
from inscape.engine.forward import run
from inscape.engine.planning import names_of, point_of
from inscape.models.model import Model

RECORD = 256 * 2**20  # bytes of recorded sites at once; more pairs are swept in groups


def sweep(
    model: Model,
    clean: Any,
    corrupted: Any = None,
    *,
    sites: Any = "layers.*.resid_post",
    positions: Any = "all",
    metric: Any = None,
    heads: Any = None,
    edit: Callable[..., Edit] | None = None,
    edits: Sequence[Any] | None = None,
    direction: str = "denoise",
    source: Model | None = None,
    depth: str = "same",
    way: str | None = None,
    batch_tokens: int | None = None,
    padding_side: str | None = None,
    progress: Progress = None,
) -> Grid:
    """Which places carry what the model tells two prompts apart by? One number for every site and position.

    Default: patches the clean run into the corrupted one (`direction="noise"`: the other way round), at each site and
    position, and measures `metric` on the result. Without `corrupted`, give an `edit` and the clean prompts are edited.

    clean, corrupted: prompts, pair by pair, or a `tasks.Pairs` (whose answers are then the default metric).
    sites: a pattern or patterns. positions: "all"; positions as `at=` takes them, each a cell; {role: positions [pair,
        k]} for spans that differ from pair to pair, each role a cell; None to edit every position at once.
    metric: `ins.logit_diff(" Paris", " Rome")` and its siblings, or a function of the last real token's logits,
        [n, vocab] -> [n]. heads: "all", or which, to edit each head on its own at sites that have heads.
    edit: another edit than the patch: `ins.ablate`, or a function (site, **places) -> Edit. edits: a list of edits, or
        of lists of them, in place of all that: the cells, along one axis "edit".
    source: another model with the same tokens and width, from which the patches come: what its states say to this one.
    depth: "relative" takes them from the layer at the same share of the depth; "same" refuses another number of layers.
    way, batch_tokens: see `engine.cells.run_cells`; the fastest right way when left out.

    Cost: what `engine.cells` says; on a 15-token pair of an 18-layer model about 1/100 of one run a cell.
    Gives: a `Grid`: values [site, position] (and head) as the raw metric, pair by pair too, with intervals, and the
    cost that was predicted beside what it took.
    Raises: TokenError for pairs whose tokens do not line up and answers of several tokens; InputError for pairs of
    equal prompts; what `run` raises.
    """
    begun = time.perf_counter()
    alone, hint = edit is not None or edits is not None, ", or an edit= or edits= for the one prompt"
    clean, corrupted, metric = asked(clean, corrupted, metric, "sweep", alone=alone, hint=hint)
    both = Pairing.of(model, clean, corrupted, direction, padding_side)
    if source is not None:
        check_source(model, source, depth, both, edit is not None or edits is not None)
    job = _Job(model, both, metric, edit, way, batch_tokens, source)
    if edits is not None:
        axes, labels, spots = ("edit",), (tuple(_label(e) for e in edits),), []
        several: Any = [(e,) if isinstance(e, Edit) else tuple(e) for e in edits]
    else:
        names, several = names_of(model, sites), None
        axes, labels, spots = spots_of([point_of(model, n) for n in names], positions, heads, both.lengths, both.n)
        if both.source is not None and edit is None and positions == "all":
            both.check_aligned(BY_ROLE)
    groups = _groups(job, spots)
    made = []
    for i, rows in enumerate(groups):
        part = job.listed(several, rows) if several is not None else job.grid(spots, rows)
        made.append(part)
        tell(progress, f"{rows[-1] + 1} of {both.n} pairs", (i + 1) / len(groups))
    parts, runs = [m for m, _, _ in made], sum(n for _, _, n in made)
    per_pair = torch.cat([values for _, values, _ in made]).reshape(both.n, *(len(x) for x in labels))
    seconds = time.perf_counter() - begun
    return grid_of(both, per_pair, axes, labels, parts, repr(job.metric), _edit_name(edit, edits), seconds, runs)


def grid_of(
    both: Pairing, per_pair: Tensor, axes: tuple[str, ...], labels: tuple[tuple[Any, ...], ...],
    parts: Sequence[Measured], metric: str, edit: str, seconds: float, runs: int,
) -> Grid:  # fmt: skip
    """The labelled array of what was measured on groups of pairs."""
    work = [m.cells.work for m in parts]
    loop = float(sum(both.lengths)) * both.model.n_layers * per_pair[0].numel()
    cost = Cost(
        sum(w["predicted_s"] for w in work), seconds, runs, per_pair.numel() - runs,
        sum(w["token_layers"] for w in work), loop,
    )  # fmt: skip
    others = [m.other for m in parts if m.other is not None]
    other = torch.cat(others) if len(others) == len(parts) else None
    base, cells = torch.cat([m.base for m in parts]), parts[0].cells
    return Grid(
        per_pair.mean(0), axes, labels, per_pair, base, other, metric, edit, cost, cells.how, cells.why,
        both.token_texts(),
    )  # fmt: skip


@dataclass(eq=False)
class _Job:
    model: Model
    both: Pairing
    metric: Metric
    edit: Callable[..., Edit] | None
    way: str | None
    batch_tokens: int | None
    other: Model | None = None

    def grid(self, spots: Sequence[Spot], rows: Sequence[int]) -> tuple[Measured, Tensor, int]:
        """Every spot of these pairs."""
        inputs, has_source = self.both.inputs(rows)
        n, trace, source = len(rows), None, None
        if self.edit is None:
            sites = sorted({s.site for s in spots})
            trace = run(self.model, inputs, read=sites, output=False, padding_side=self.both.side)
            if self.other is not None:
                theirs = {s: site_in(self.other, self.model, s) for s in sites}
                read = list(dict.fromkeys(theirs.values()))
                found = run(self.other, inputs, read=read, output=False, padding_side=self.both.side)
                source = {s: found[other][n:] for s, other in theirs.items()}
            elif has_source:
                source = {s: trace[s][n:] for s in sites}
            else:
                asked = self.both.source
                assert asked is not None
                source = run(self.model, asked.kwargs or asked.args, read=sites, output=False)
        cells, at = [], []
        for i, row in enumerate(rows):
            for j, spot in enumerate(spots):
                if self.edit is not None:
                    edit = self.edit(spot.site, **spot.places(row))
                    if not isinstance(edit, Edit):
                        raise EditError(
                            f"edit= returned {type(edit).__name__} for {spot.site}; it must return an edit."
                        )
                else:
                    assert trace is not None
                    assert source is not None
                    mask = trace.mask if has_source else None
                    edit = patched(spot, row, i, trace[spot.site], source[spot.site], mask, n if has_source else None)
                if edit is not None:
                    cells.append(Cell((edit,), i))
                    at.append((i, j))
        return self._run(cells, at, len(spots), rows)

    def listed(self, edits: Sequence[tuple[Edit, ...]], rows: Sequence[int]) -> tuple[Measured, Tensor, int]:
        """Every list of edits on these pairs."""
        at = [(i, j) for i in range(len(rows)) for j in range(len(edits))]
        cells = [Cell(edits[j], i) for i, j in at]
        return self._run(cells, at, len(edits), rows)

    def _run(
        self, cells: list[Cell], at: list[tuple[int, int]], width: int, rows: Sequence[int]
    ) -> tuple[Measured, Tensor, int]:
        """(what was measured, every cell's value [pair, cell], how many were run)"""
        out = measured(self.both, self.metric, cells, rows, way=self.way, batch_tokens=self.batch_tokens)
        values = out.base[:, None].expand(len(rows), width).clone()
        if at:
            index = torch.tensor(at)
            values[index[:, 0], index[:, 1]] = out.values
        return out, values, len(cells)


def _groups(job: _Job, spots: Sequence[Spot]) -> list[list[int]]:
    """Pairs that are swept together: as many as their recorded sites fit the budget."""
    both = job.both
    if not spots or job.edit is not None:
        return [list(range(both.n))]
    config = job.model.config
    width = int(getattr(config, "hidden_size", 0) or getattr(config, "n_embd", 0) or 1024)
    each = 2 * max([1, *both.lengths]) * width * 4 * len({s.site for s in spots})
    step = max(1, RECORD // each) if both.inputs([0])[1] else both.n
    return [list(range(i, min(i + step, both.n))) for i in range(0, both.n, step)]


def _label(edits: Any) -> str:
    return labelled(edits if isinstance(edits, Edit) else edits[0]) if edits else "none"


def _edit_name(edit: Any, edits: Any) -> str:
    if edits is not None:
        return "edits"
    return getattr(edit, "__name__", "edit") if edit is not None else "patch"
