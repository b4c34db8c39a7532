"""Attribution patching: the whole grid of a patching sweep, estimated from two forwards and one backward.

How it is measured: (source activation - base activation) . gradient of the metric on the base run, summed over the
units of each site, position and head. Denoising (the default, as in `ins.sweep`) takes the corrupted prompt as base
and the clean one as source; noising the other way round.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.attribution.by_place import columns_of, row_columns, summed_by_place
from inscape.circuits.attribution.first_order import Moves, away
from inscape.circuits.attribution.objective import Objective, last_scores
from inscape.circuits.pairing import BY_ROLE, Pairing, asked
from inscape.circuits.places import Spot, spots_of
from inscape.core.errors import InputError, TokenError
from inscape.core.grid import Cost, Grid
from inscape.core.metrics import Metric
from inscape.core.progress import Progress, tell
from inscape.core.step import Step
from inscape.engine.forward import run
from inscape.engine.inputs import Inputs
from inscape.engine.planning import names_of, point_of, tasks_of
from inscape.engine.whole import rows_of
from inscape.models.model import Model

TOKENS = 4096  # of base prompts that are run at once
CONTROLS = ("shuffle",)
# changes [pair, spot], the sums of their squared coordinates, the metric of the base and of the source runs
_Found = tuple[Tensor, Tensor, Tensor, Tensor | None]


@dataclass(frozen=True, eq=False)
class Estimates(Grid):
    """A `Grid` of estimates: `values` is the base run's metric plus what patching each place would change of it.

    spread: of an estimate when the sign of every coordinate's contribution is drawn at random, in the axes of values;
    |values - base| / spread says how far the coordinates agree (1 is what chance gives). control: with "shuffle", the
    same grid with each pair patched from another pair's source; NaN for pairs with no partner of their length.
    """

    spread: Float[Tensor, "..."] = field(kw_only=True)
    control: "Estimates | None" = None


def attribution_patching(
    model: Model,
    clean: Any,
    corrupted: Any = None,
    *,
    sites: Any = "layers.*.resid_post",
    positions: Any = "all",
    metric: Any = None,
    heads: Any = None,
    direction: str = "denoise",
    control: str | None = None,
    batch_tokens: int = TOKENS,
    padding_side: str | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> Estimates:
    """What `ins.sweep` would measure by patching, to first order: `metric(base) + (source - base) . gradient`.

    Same arguments, axes and meaning as `ins.sweep`, so that the two can be laid side by side (`relevance` does).
    Choose it for a first look at very many places (every head of every layer at every position, single neurons); run
    the places that matter exactly. It is good where the metric is nearly linear in the site between the two runs (z,
    mlp_out), poor at early residual sites, and at queries and keys of saturated heads.
    direction: "denoise" patches clean into corrupted; "noise" corrupted into clean. Take both: a place where they
    disagree is not linear. control: "shuffle", see `Estimates`.
    Cost: one forward without the head, one with only the needed part of it, one backward: about three forwards. The
    control takes as much again.
    Raises: what `ins.sweep` raises for pairs that do not line up; InputError for a metric or site without a gradient.
    Source: Nanda 2023, attribution patching; Syed et al. 2023, arXiv:2310.10348. Kramar et al. 2024, arXiv:2403.00745,
    name its failures; their corrections (of the softmax, of cancelling paths) are not made here.
    """
    begun = time.perf_counter()
    if control not in (None, *CONTROLS):
        raise InputError(f"control={control!r}: it can be 'shuffle' or None.")
    clean, corrupted, metric = asked(clean, corrupted, metric, "attribution_patching")
    both = Pairing.of(model, clean, corrupted, direction, padding_side)
    names = names_of(model, sites)
    axes, labels, spots = spots_of([point_of(model, n) for n in names], positions, heads, both.lengths, both.n)
    if isinstance(positions, str) and positions == "all":
        both.check_aligned(BY_ROLE)
    objective = _objective(both, metric, direction)
    work = _Work(both, objective, _of_source(both, metric), spots, names, batch_tokens, progress)
    per_pair, squares, base, other = work.estimated(list(range(both.n)))
    shape = (both.n, *(len(x) for x in labels))
    seconds = time.perf_counter() - begun
    layers = float(sum(both.lengths)) * model.n_layers
    cost = Cost(seconds, seconds, 3 * both.n, 0, 4 * layers, layers * len(spots))
    made = Estimates(
        (base[:, None] + per_pair).reshape(shape).mean(0), axes, labels, (base[:, None] + per_pair).reshape(shape),
        base, other, repr(metric), "patch", cost, "attribution patching", "two forwards and one backward",
        both.token_texts(), spread=(squares.sum(0).sqrt() / both.n).reshape(shape[1:]),
    )  # fmt: skip
    return replace(made, control=_shuffled(made, work, seed)) if control is not None else made


def _shuffled(made: Estimates, work: "_Work", seed: int) -> Estimates:
    """Every pair patched from another of its length."""
    lengths, partner = work.both.lengths, [-1] * work.both.n
    generator = torch.Generator().manual_seed(seed)
    for length in set(lengths):
        group = [i for i, n in enumerate(lengths) if n == length]
        if len(group) > 1:
            order = [group[int(i)] for i in torch.randperm(len(group), generator=generator)]
            for a, b in zip(order, order[1:] + order[:1], strict=True):
                partner[a] = b
    if all(p < 0 for p in partner):
        raise InputError("control='shuffle' needs two pairs of equal length: there is no other pair to patch from.")
    with_one = [i for i, p in enumerate(partner) if p >= 0]
    found, squares, base, _ = work.estimated(with_one, [partner[i] for i in with_one])
    per_pair = torch.full((work.both.n, found.shape[1]), torch.nan)
    per_pair[with_one] = base[:, None] + found
    shape = made.per_pair.shape
    spread = (squares.sum(0).sqrt() / len(with_one)).reshape(shape[1:])
    values = per_pair[with_one].mean(0).reshape(shape[1:])
    return replace(made, values=values, per_pair=per_pair.reshape(shape), spread=spread, edit="patch of another pair")


def _objective(both: Pairing, made: Metric, direction: str) -> Objective:
    if not made.reference:
        return Objective.of(both.model, both.base, made)
    if made.reference == "base" or direction == "noise":
        raise InputError(
            f"{made.name} is flat at the run it compares with, which is the one that gradients are taken in here.\n"
            "  take kl('clean') with direction='denoise', or a logit difference."
        )
    assert both.source is not None
    return Objective.of(both.model, both.base, made, last_scores(both.model, both.source))


def _of_source(both: Pairing, made: Metric) -> Objective | None:
    """The metric of the source runs, by which estimates are normalised, where it means the same there."""
    assert both.source is not None
    return None if made.reference or made.at == "all" else Objective.of(both.model, both.source, made)


@dataclass(eq=False)
class _Work:
    both: Pairing
    objective: Objective
    of_source: Objective | None
    spots: Sequence[Spot]
    sites: Sequence[str]
    batch_tokens: int
    progress: Progress

    def estimated(self, rows: Sequence[int], from_rows: Sequence[int] | None = None) -> _Found:
        """What was found of these pairs; from_rows: whose source they are patched from, if not their own."""
        source_rows = list(rows) if from_rows is None else list(from_rows)
        width = self.both.base.mask.shape[1] if self.both.base.mask is not None else 64
        size = max(1, self.batch_tokens // width)
        parts = []
        for start in range(0, len(rows), size):
            tell(self.progress, f"{start} of {len(rows)} pairs", start / len(rows))
            parts.append(self._chunk(list(rows[start : start + size]), source_rows[start : start + size]))
        changes, squares, base, other = zip(*parts, strict=True)
        known = [x for x in other if x is not None]
        return torch.cat(changes), torch.cat(squares), torch.cat(base), torch.cat(known) if known else None

    def _chunk(self, rows: list[int], source_rows: list[int]) -> _Found:
        model, n = self.both.model, self.both.n
        assert self.both.source is not None
        base, source = rows_of(self.both.base, rows, n), rows_of(self.both.source, source_rows, n)
        other = None
        if self.of_source is not None:
            seen = self.of_source.forward(self.sites, source_rows, grad=False)
            there, other = seen.trace, seen.metric.cpu()
        else:
            there = run(model, source, read=list(self.sites), output=False)
        apart = [s for s in self.spots if s.from_rows is not None]
        if apart or not _line_up(base, source):
            return (*self._place_by_place(rows, source_rows, base, source, there), other)
        moves = Moves(tasks_of(model, {}, away(self.sites, there), base), len(rows))
        made = self.objective.gradients(moves.sites, rows, moves.watching)
        found = moves.attribution(made.values, made.grads, made.metric, base.mask)
        step = Step.of_mask(base.mask) if base.mask is not None else None
        changes, squares = [], []
        by_site: dict[str, tuple[Tensor, Tensor]] = {}
        marked: dict[Any, Tensor] = {}  # a place is the same columns at every site
        for spot in self.spots:
            if spot.site not in by_site:
                by_site[spot.site] = summed_by_place(found.entries[spot.site], spot)
            entries, squared = by_site[spot.site]
            place = (id(spot.at), id(spot.rows), entries.shape[:2])
            if place not in marked:
                marked[place] = columns_of(spot, rows, step, entries.shape[:2]).to(entries.device)
            where = marked[place]
            picked = [x if spot.head is None else x[:, :, spot.head] for x in (entries, squared)]
            changes.append((picked[0] * where).sum(1))
            squares.append((picked[1] * where).sum(1))
        return torch.stack(changes, 1).cpu(), torch.stack(squares, 1).cpu(), made.metric.cpu(), other

    def _place_by_place(
        self, rows: list[int], source_rows: list[int], base: Inputs, source: Inputs, there: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs whose words stand at other positions in the two prompts: every place with its own two columns."""
        made = self.objective.gradients(list(self.sites), rows)
        changes = torch.zeros(len(rows), len(self.spots))
        squares = torch.zeros_like(changes)
        assert base.mask is not None
        assert source.mask is not None
        here_step, there_step = Step.of_mask(base.mask), Step.of_mask(source.mask)
        for j, spot in enumerate(self.spots):
            if spot.axes[1] != "pos":
                raise TokenError(
                    f"{spot.site}: with prompts that do not line up, only sites with a pos axis have places."
                )
            for i, (row, other) in enumerate(zip(rows, source_rows, strict=True)):
                at = spot.at_of(row)
                from_at = spot.from_rows[other] if spot.from_rows is not None else at
                a, b = (row_columns(x, s, i) for x, s in ((at, here_step), (from_at, there_step)))
                if len(a) != len(b):
                    raise TokenError(f"pair {row}: {spot.site} has {len(a)} positions here and {len(b)} in its source.")
                values, grads = made.values[spot.site][i][a], made.grads[spot.site][i][a]
                part = (there[spot.site][i][b].to(values.device) - values).float() * grads.float()
                part = part if spot.head is None else part[:, spot.head]
                changes[i, j], squares[i, j] = part.sum().cpu(), part.square().sum().cpu()
        return changes, squares, made.metric.cpu()


def _line_up(base: Inputs, source: Inputs) -> bool:
    if base.mask is None or source.mask is None:
        return True
    return torch.equal(base.mask.sum(1), source.mask.sum(1))
