"""What a sweep will cost, before it runs: how many token-layers its cells need, times what one costs here."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from inscape.circuits.pairing import Pairing, asked, ids_of
from inscape.circuits.places import Spot, spots_of
from inscape.core.costs import resident_bytes, words_of
from inscape.core.metrics import logit_diff
from inscape.core.positions import check_at, select
from inscape.core.step import Step
from inscape.engine import growing
from inscape.engine.blocks import CannotReenter
from inscape.engine.forward import run
from inscape.engine.planning import names_of, point_of
from inscape.engine.restart import PACK, check_way
from inscape.engine.unembed import BUDGET, unembedding
from inscape.models.model import Model

ROWS = 16  # of the larger of the two calibration runs


@dataclass(frozen=True)
class SweepPlan:
    """A predicted sweep. runs: cells that are run; skipped: those whose patch can change nothing, by their tokens.

    token_layers: tokens times layers of all of it; share: of one whole run a cell. seconds: wall time as the machine is
    now. peak_bytes: largest resident memory, weights included. bytes: nothing is written.
    """

    seconds: float
    runs: int
    skipped: int
    token_layers: float
    share: float
    peak_bytes: int
    bytes: int = 0
    job: str = "sweep"

    def __str__(self) -> str:
        took = f"{self.seconds:.1f} s" if self.seconds < 10 else words_of(self.seconds)
        return (
            f"sweep: {self.runs} runs ({self.skipped} more without effect), {self.share:.1%} of the loop's work, about "
            f"{took}, {self.peak_bytes / 2**30:.1f} GiB of memory"
        )


def plan_sweep(
    model: Model, clean: Any, corrupted: Any = None, *, sites: Any = "layers.*.resid_post", positions: Any = "all",
    heads: Any = None, metric: Any = None, direction: str = "denoise", edit: Any = None,
) -> SweepPlan:  # fmt: skip
    """Predict `sweep` of the same arguments: two forwards of the blocks, of one row and of sixteen, say what it costs.

    Raises: what `sweep` raises for the same pairs and places.
    """
    wanted = metric if metric is not None else logit_diff(0, 1)  # the scores of any two tokens cost as much
    clean, corrupted, wanted = asked(clean, corrupted, wanted, "sweep", alone=edit is not None)
    both = Pairing.of(model, clean, corrupted, direction, None)
    points = [point_of(model, n) for n in names_of(model, sites)]
    _, _, spots = spots_of(points, positions, heads, both.lengths, both.n)
    where = growing.places(model)
    try:
        check_way(model, "packed")
        packed = True
    except CannotReenter:
        packed = False
    n_layers, runs, skipped, work, heads = model.n_layers, 0, 0, 0.0, 0
    for row in range(both.n):
        length = both.lengths[row] or 1
        same = _equal_tokens(both, row) if edit is None else 0
        for spot in spots:
            columns = _columns(spot, row, length)
            if columns and max(columns) < same:
                skipped += 1
                continue
            place = where.get(spot.site)
            layer = 0 if place is None else place.layer + (place.is_stream and place.point.side == "out")
            runs += 1
            rest = length - (min(columns) if packed and columns else 0)
            work += rest * (n_layers - layer)
            heads += rest if wanted.at == "all" else 1
    loop = float(sum(both.lengths) or both.n) * n_layers * len(spots)
    once, each = _seconds(model, both)
    full = not wanted.columns
    head = heads * _row_seconds(model) if full else 0.0
    width = max((p.shape[-1] for p in model.module.parameters() if p.ndim > 1), default=1)
    peak = resident_bytes() + 3 * BUDGET * full + 4 * width * PACK * 12
    return SweepPlan(3 * once + each * work + head, runs, skipped, work, work / max(1.0, loop), int(peak))


def _equal_tokens(both: Pairing, row: int) -> int:
    """Tokens that the two prompts of a pair begin with alike."""
    if both.source is None or both.base.tokens is None or both.source.tokens is None:
        return 0
    pairs = zip(ids_of(both.base, row), ids_of(both.source, row), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), 0)


def _columns(spot: Spot, row: int, length: int) -> Sequence[int]:
    chosen = select(check_at(spot.at_of(row)), Step.plain(1, length))
    return range(length) if chosen is None else chosen[0].nonzero().flatten().tolist()


def _seconds(model: Model, both: Pairing) -> tuple[float, float]:
    """(one forward of the blocks, seconds a token-layer where there are many)"""
    last = f"{model.blocks[-1].name}.resid_post"
    if both.base.tokens is None:
        start = time.perf_counter()
        run(model, both.base.kwargs or both.base.args, read=last, output=False)
        once = time.perf_counter() - start
        return once, once / max(1, model.n_layers)
    ids = ids_of(both.base, 0)
    times = []
    for rows in (1, 1, ROWS):
        start = time.perf_counter()
        run(model, [ids] * rows, read=last, output=False)
        times.append(time.perf_counter() - start)
    once = min(times[:2])
    return once, max(times[2] - once, times[2] / 4) / ((ROWS - 1) * len(ids) * model.n_layers)


def _row_seconds(model: Model) -> float:
    """Seconds a row of all logits."""
    unembed = unembedding(model)
    weight = next(unembed.head.parameters())
    state = torch.randn(32, weight.shape[-1], dtype=weight.dtype, device=weight.device)
    start = time.perf_counter()
    unembed(state, normed=True)
    return (time.perf_counter() - start) / len(state)
