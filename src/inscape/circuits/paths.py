"""Path patching: what does one head tell the receivers directly, with everything between them held still?

1. Every head's z (and, with freeze=("heads", "mlps"), what every MLP adds) is recorded on both prompts.
2. One run a sender: the base prompt, the sender's z set to the other prompt's, every other later head's z held at the
   base prompt's, so that only the direct path (and MLPs, unless frozen) carries the change; what reaches the receivers
   is recorded.
3. One run a sender: the base prompt, nothing held, the receivers set to what step 2 recorded. With the final stream
   as receiver, step 2 is the answer already.
Only senders below the highest receiver are tried. Norms are computed anew, not frozen.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inscape.circuits.pairing import Measured, Pairing, asked, measured
from inscape.circuits.places import set_to
from inscape.circuits.sweep import grid_of
from inscape.core.edit import Edit
from inscape.core.errors import InputError, SiteError
from inscape.core.grid import Grid
from inscape.core.metrics import Metric
from inscape.core.progress import Progress
from inscape.engine.cells import Cell
from inscape.engine.forward import run
from inscape.engine.planning import names_of, point_of
from inscape.models.model import Model
from inscape.models.points import Point

FREEZE = ("heads", "mlps")
RECEIVERS = ("attn.q", "attn.k", "attn.v", "attn.z")


@dataclass(frozen=True)
class Receiver:
    """Where a path ends: a head's q, k, v or z, at the positions that are patched. head: None for all of them."""

    site: str
    head: int | None = None


def path_patching(
    model: Model,
    clean: Any,
    corrupted: Any = None,
    *,
    receivers: Sequence[Any] | None = None,
    senders: Any = "layers.*.attn.z",
    positions: Any = -1,
    receive_at: Any = None,
    freeze: Sequence[str] = ("heads",),
    metric: Any = None,
    way: str | None = None,
    padding_side: str | None = None,
    progress: Progress = None,
) -> Grid:
    """The effect of every head on the metric through its direct path to the receivers: a grid [sender site, head].

    The clean prompt is run, senders bring the corrupted prompt's z; `normalised()` is then 0 where a path does nothing
    and 1 where it does what the whole corrupted prompt would.
    clean, corrupted, metric: as in `sweep`. receivers: (site, head) pairs such as ("layers.9.attn.q", 3), or sites;
        None means the final stream, which finds the heads that act on the prediction directly. Key and value heads
        that several query heads share are one receiver. senders: sites of z.
    positions: where senders are patched and others are frozen: positions as `at=` takes them, or "all"; the last token
        by default, which leaves paths through earlier tokens open. receive_at: where receivers take their values, when
        elsewhere. freeze: what is held still between sender and receiver, "heads" or "heads" and "mlps".
    Work backwards: the final stream finds the movers, the movers' q finds who moves them, and so on.
    Cost: two partial runs a sender and pair, the second one only with receivers; at one position these are cheap.
    Raises: as `sweep`; SiteError for senders that are no z and receivers of another kind.
    Source: Wang et al. 2022, arXiv:2211.00593; Goldowsky-Dill et al. 2023, arXiv:2304.05969.
    """
    begun = time.perf_counter()
    clean, corrupted, metric = asked(clean, corrupted, metric, "path_patching")
    if not set(freeze) <= set(FREEZE) or "heads" not in freeze:
        raise InputError(f"freeze={tuple(freeze)!r}: it can be ('heads',) or ('heads', 'mlps').")
    both = Pairing.of(model, clean, corrupted, "noise", padding_side)
    both.check_aligned()
    ends = [_receiver(model, r) for r in receivers] if receivers is not None else []
    job = _Paths(model, both, metric, ends, positions, receive_at, tuple(freeze), way, progress)
    points = [point_of(model, s) for s in names_of(model, senders)]
    if any(not p.name.endswith("attn.z") for p in points):
        odd = next(p.name for p in points if not p.name.endswith("attn.z"))
        raise SiteError(f"{odd} is no sender of a path; senders are heads' z, such as 'layers.*.attn.z'.")
    highest = max((model.layer_of(r.site) for r in ends), default=model.n_layers)
    points = [p for p in points if model.layer_of(p.name) < highest]
    if not points:
        raise SiteError(f"no sender lies below the receivers ({', '.join(r.site for r in ends)}).")
    heads = max(p.heads or 1 for p in points)
    spots = [(p, h) for p in points for h in range(p.heads or 1)]
    out = job.run(spots)
    values = torch.full((both.n, len(points), heads), torch.nan)
    flat = out.values.reshape(both.n, len(spots))
    index = {p.name: i for i, p in enumerate(points)}
    for j, (p, h) in enumerate(spots):
        values[:, index[p.name], h] = flat[:, j]
    labels = (tuple(p.name for p in points), tuple(range(heads)))
    name = " and ".join(f"{r.site}{'' if r.head is None else f' head {r.head}'}" for r in ends) or "the final stream"
    seconds = time.perf_counter() - begun
    return grid_of(
        both, values, ("site", "head"), labels, [out], repr(job.metric), f"path to {name}", seconds, flat.numel()
    )


def _receiver(model: Model, given: Any) -> Receiver:
    site, head = given if isinstance(given, tuple) else (given, None)
    (name,) = names_of(model, site) if len(names_of(model, site)) == 1 else (str(site),)
    point = point_of(model, name)
    if not name.endswith(RECEIVERS):
        raise SiteError(f"{name} is no receiver of a path; receivers are a head's {', '.join(RECEIVERS)}.")
    count = point.heads
    if head is not None and count is not None and not 0 <= head < count:
        raise InputError(f"receiver ({name!r}, {head}): that site has {count} heads.")
    return Receiver(name, head)


@dataclass(eq=False)
class _Paths:
    model: Model
    both: Pairing
    metric: Metric
    ends: list[Receiver]
    positions: Any
    receive_at: Any
    freeze: tuple[str, ...]
    way: str | None
    progress: Progress

    def run(self, spots: Sequence[tuple[Point, int]]) -> Measured:
        """Steps 1 to 3 for every pair and sender."""
        rows = range(self.both.n)
        inputs, has_source = self.both.inputs(rows)
        if not has_source:
            raise InputError("path_patching needs prompts of tokens alone.")
        top = max((self.model.layer_of(r.site) for r in self.ends), default=self.model.n_layers - 1)
        held = [s for i in range(top + 1) for s in self._held(i)]
        trace = run(self.model, inputs, read=held, output=False, padding_side=self.both.side)
        mask = trace.mask
        assert mask is not None
        holds = [self._holds(trace, mask[i], i) for i in rows]
        cells = []
        for i in rows:
            for point, head in spots:
                layer = self.model.layer_of(point.name)
                brought = trace[point.name][self.both.n + i][mask[self.both.n + i]]
                sender = set_to(point.name, brought, at=self._at(), heads=(head,))
                later = [edit for at, edit in holds[i] if at > layer or (at == layer and "mlp_out" in edit.site)]
                cells.append(Cell((sender, *later), i))
        if not self.ends:
            return measured(self.both, self.metric, cells, rows, way=self.way, progress=self.progress)
        sites = sorted({r.site for r in self.ends})
        first = measured(self.both, self.metric, cells, rows, read=sites, way=self.way, progress=self.progress)
        second = []
        for number, cell in enumerate(cells):
            reached = {r: first.cells[r.site][number] for r in self.ends}
            at, heads = self._received(), {r: None if r.head is None else (r.head,) for r in self.ends}
            edits = tuple(set_to(r.site, reached[r], at=at, heads=heads[r]) for r in self.ends)
            second.append(Cell(edits, cell.row))
        return measured(self.both, self.metric, second, rows, way=self.way, progress=self.progress)

    def _at(self) -> Any:
        return None if isinstance(self.positions, str) and self.positions == "all" else self.positions

    def _received(self) -> Any:
        return self.receive_at if self.receive_at is not None else self._at()

    def _held(self, layer: int) -> list[str]:
        """Sites of one layer that are held still."""
        names = ["attn.z", *(["mlp_out"] if "mlps" in self.freeze else [])]
        block = self.model.blocks[layer]
        return [block.points[n].name for n in names if n in block.points]

    def _holds(self, trace: Any, mask: Tensor, row: int) -> list[tuple[int, Edit]]:
        """(layer, edit that keeps a site at its base value) of one pair; shared by all its senders."""
        sites = [(self.model.layer_of(s), s) for s in trace]
        return [(layer, set_to(s, trace[s][row][mask], at=self._at())) for layer, s in sites]
