"""Edge attribution patching: what every direct connection between two parts carries, from a few backward passes.

How it is measured:
1. The corrupted run gives what every writer adds to the stream there; d_u is its difference from the clean run.
2. The gradient of the metric at what each reader reads of the stream, through that reader alone: the gradient at the
   reader's own input, carried back through its norm (and, for q, k and v, its projection) by the run's own graph.
3. score(u -> v) = d_u . g_v, all at once as one product. With several steps, g_v is averaged over runs whose embeddings
   lie between the corrupted and the clean ones (EAP-IG).
4. Check: the edges of a writer add up to d_u . dm/d(what it adds), because the stream is a sum.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.attribution.first_order import Moves, away, real_only
from inscape.circuits.attribution.integrated import Path, quadrature
from inscape.circuits.attribution.objective import Objective, last_scores
from inscape.circuits.attribution.stream_graph import SPLITS, Reader, Writer, stream_graph
from inscape.circuits.pairing import Pairing, asked
from inscape.core.edit import Edit
from inscape.core.errors import InputError, NotConvergedError
from inscape.core.grid import contrast
from inscape.core.progress import Progress, tell
from inscape.engine.planning import tasks_of
from inscape.engine.whole import rows_of
from inscape.models.model import Model

OPEN = {torch.float64: 1e-4, torch.float32: 1e-2}  # how far edges may be from their writer's whole effect
# of the largest score: below it, what attention reads besides q, k and v is rounding
NOTHING = {torch.float64: 1e-5, torch.float32: 1e-4}
TOKENS = 2048  # of pairs that are run at once
_Reading = tuple[str, tuple[int, int], Tensor]  # a reader's name and order, and the gradient at the stream it reads


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """Scores of all edges, [writer, reader]: what replacing this connection's content by the corrupted one would change
    of the metric, to first order; NaN where the reader comes before the writer.

    per_pair: the same for every pair. null: spread of a score when every coordinate's sign is drawn at random, so that
    |score| / null says how far the coordinates agree. whole: each writer's effect by all its ways, [writer]. gap: how
    far the edges are from adding up to it. metric: of the clean and of the corrupted runs, [pair]; name: what it is.
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    values: Float[Tensor, "writer reader"]
    per_pair: Float[Tensor, "pair writer reader"]
    null: Float[Tensor, "writer reader"]
    whole: Float[Tensor, " writer"]
    gap: float
    metric: tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]
    name: str = "the metric"

    def normalised(self, *, floor: float = 1e-3) -> Float[Tensor, "writer reader"]:
        """Scores as shares of what the whole corrupted prompt changes, the mean over pairs.

        Raises: InputError for pairs whose two runs hardly differ, where this says nothing; floor is in the metric.
        """
        apart = contrast(*self.metric, self.name, floor)
        return (self.per_pair / apart.to(self.per_pair)[:, None, None]).mean(0)

    def top(self, n: int = 20) -> list[tuple[str, str, float]]:
        """The n edges of largest |score|: (writer, reader, score)."""
        size = self.values.abs().nan_to_num(-1.0).flatten()
        best = size.topk(min(n, int((size >= 0).sum()))).indices
        width = len(self.readers)
        return [
            (self.writers[int(i) // width], self.readers[int(i) % width], float(self.values.flatten()[i])) for i in best
        ]


def edge_attribution(
    model: Model,
    clean: Any,
    corrupted: Any = None,
    metric: Any = None,
    *,
    steps: int = 1,
    rule: str = "midpoint",
    split: str = "heads",
    tolerance: float | None = None,
    batch_tokens: int = TOKENS,
    progress: Progress = None,
) -> EdgeScores:
    """Edge attribution patching (EAP), or with steps > 1 the same along the path of the embeddings (EAP-IG).

    `score(u -> v) = (u on the corrupted prompt - u on the clean one) . dm/d(what v reads of the stream)`.
    EAP fails where the metric is flat at the clean run, as in saturated predictions; EAP-IG is the safer first look.
    Both are estimates: check the edges that matter by path patching.
    clean, corrupted, metric: as in `ins.sweep`, with as many real tokens in both prompts of a pair.
    split: what attention reads "whole", by "qkv", or by "heads" (queries by head, keys and values by key-value head).
    tolerance: of `gap`, by precision when left out.
    Cost: two forwards and `steps` forwards and backwards, plus a short backward a reader; memory of all that the
        writers add, at all positions.
    Raises: what `ins.sweep` raises for pairs that do not line up; ModelError where the stream is not a plain sum;
        NotConvergedError where edges do not add up to their writer's effect: some reader is not seen.
    Source: Syed et al. 2023, arXiv:2310.10348; Hanna et al. 2024, arXiv:2403.17806 (inputs). Readers' norms are
    differentiated through, as there.
    """
    if split not in SPLITS:
        raise InputError(f"split={split!r}: it can be {', '.join(SPLITS)}.")
    if steps < 1:
        raise InputError(f"steps={steps}: it takes at least one.")
    clean, corrupted, made_of = asked(clean, corrupted, metric, "edge_attribution")
    if made_of.reference and steps == 1:
        raise InputError(
            f"{made_of.name} is flat at the clean run, which it compares with, so every score would be 0.\n"
            "  take steps=5 or more (EAP-IG), or a logit difference."
        )
    graph = stream_graph(model, split)
    both = Pairing.of(model, clean, corrupted, "noise", None)
    both.check_aligned()
    a, b = both.base, both.source
    assert b is not None
    reference = last_scores(model, a) if made_of.reference else None
    here, there = (Objective.of(model, x, made_of, reference) for x in (a, b))
    n, size = here.n_rows, max(1, batch_tokens // (a.mask.shape[1] if a.mask is not None else 64))
    made = []
    for start in range(0, n, size):
        rows = list(range(start, min(start + size, n)))
        made.append(_Pairs(here, there, rows, *graph).scores(steps, rule))
        tell(progress, f"{rows[-1] + 1} of {n} pairs", (rows[-1] + 1) / n)
    writers, names = graph[0], made[0].names
    per_pair, squares, whole = (torch.cat(x) for x in zip(*((m.scores, m.squares, m.whole) for m in made), strict=True))
    off = (per_pair.nan_to_num(0.0).sum(2) - whole).abs().max() / whole.abs().max().clamp(min=1e-12)
    limit = OPEN.get(model.dtype, 0.2) if tolerance is None else tolerance
    if not float(off) <= limit:
        raise NotConvergedError(
            f"edges add up to their writers' effects only within {float(off):.1%}, above {limit:.1%}: "
            f"in {type(model.module).__name__} the stream is scaled on its way, or one of its readers is not seen.\n"
            "  try split='whole'; pass tolerance=100 to see the scores all the same."
        )
    names, keep = _without_nothing(names, per_pair, NOTHING.get(model.dtype, 0.1))
    per_pair, squares = per_pair[:, :, keep], squares[:, :, keep]
    metrics = (torch.cat([m.metric[0] for m in made]), torch.cat([m.metric[1] for m in made]))
    return EdgeScores(
        tuple(w.name for w in writers), names, per_pair.mean(0), per_pair, squares.sum(0).sqrt() / n, whole.mean(0),
        float(off), metrics, repr(made_of),
    )  # fmt: skip


def _without_nothing(names: tuple[str, ...], per_pair: Tensor, share: float) -> tuple[tuple[str, ...], list[int]]:
    """Most attention reads nothing besides its queries, keys and values: there the rest is rounding, and left out."""
    size = per_pair.nan_to_num(0.0).abs().amax((0, 1))
    keep = [i for i, n in enumerate(names) if not n.endswith(".rest") or float(size[i]) > share * float(size.max())]
    return tuple(names[i] for i in keep), keep


@dataclass(frozen=True, eq=False)
class _Made:
    """Of some pairs: scores [pair, writer, reader], sums of squared coordinates, and [pair, writer] by all ways."""

    names: tuple[str, ...]
    scores: Tensor
    squares: Tensor
    whole: Tensor
    metric: tuple[Tensor, Tensor]


class _Pairs:
    """Some pairs of prompts, as rows of one batch."""

    def __init__(
        self, here: Objective, there: Objective, rows: list[int], writers: Sequence[Writer], readers: Sequence[Reader]
    ) -> None:
        self.here, self.rows, self.writers, self.readers = here, rows, writers, readers
        model = here.model
        self.sites = list(dict.fromkeys(w.site for w in writers))
        inputs = rows_of(here.inputs, rows, here.n_rows)
        bad = there.forward(self.sites, rows, grad=False)
        self.watch = Moves(tasks_of(model, {}, away(self.sites, bad.trace), inputs), len(rows))
        clean = here.forward((), rows, self.watch.watching, grad=False)
        self.metric = (clean.metric, bad.metric)
        step = {
            s: real_only((self.watch.moved[s] - self.watch.clean[s]).float(), inputs.mask, self.watch.axes[s])
            for s in self.sites
        }
        self.step = torch.stack([step[w.site] if w.head is None else step[w.site][:, :, w.head] for w in writers], 1)

    def scores(self, steps: int, rule: str) -> _Made:
        nodes, weights = quadrature(rule, steps) if steps > 1 else ([1.0], [1.0])
        first = self.writers[0].site
        path = Path(self.watch, "recomputed", {first: self.watch.touched[first]})
        total: dict[str, Tensor] = {}
        whole: dict[str, Tensor] = {}
        before = dict[str, tuple[int, int]]()
        for node, weight in zip(nodes, weights, strict=True):
            edits = path.at(range(len(self.rows)), [node] * len(self.rows)) if steps > 1 else []
            for name, order, grad in self._gradients(edits, whole, weight):
                total[name] = total.get(name, 0.0) + weight * grad.float()
                before[name] = order
        shape = (len(self.rows), len(self.writers), len(total))
        made, squares = torch.full(shape, torch.nan), torch.full(shape, torch.nan)
        for i, (name, grad) in enumerate(total.items()):
            n = sum(w.order < before[name] for w in self.writers)
            made[:, :n, i] = torch.einsum("bspd,bpd->bs", self.step[:, :n], grad).cpu()
            squares[:, :n, i] = torch.einsum("bspd,bpd->bs", self.step[:, :n].square(), grad.square()).cpu()
        alone = [
            self.step[:, i] * (whole[w.site] if w.head is None else whole[w.site][:, :, w.head])
            for i, w in enumerate(self.writers)
        ]
        return _Made(
            tuple(total), made, squares, torch.stack([x.flatten(1).sum(1) for x in alone], 1).cpu(), self.metric
        )

    def _gradients(self, edits: Sequence[Edit], whole: dict[str, Tensor], weight: float) -> Iterator[_Reading]:
        """Of every reader at the stream it reads; adds the gradients at what writers add to `whole`."""
        through = list(dict.fromkeys(r.through for r in self.readers if r.through))
        streams = list(dict.fromkeys(r.stream for r in self.readers))
        names = list(dict.fromkeys([*through, *streams, *self.sites]))
        run = self.here.forward(names, self.rows, edits)
        end = self.readers[-1].stream
        wanted = list(dict.fromkeys([*through, *self.sites, end]))
        grads = torch.autograd.grad(run.metric.sum(), [run.values[s] for s in wanted], retain_graph=True)
        at = dict(zip(wanted, grads, strict=True))
        for site in self.sites:
            whole[site] = whole.get(site, 0.0) + weight * at[site].float()
        told: dict[str, Tensor] = {}  # what a stream's q, k and v have been found to read
        for reader in self.readers:
            if not reader.through:
                yield reader.name, reader.before, at[end]
                continue
            own = at[reader.through]
            for head in [None] if reader.head is None else range(own.shape[2]):
                part = own if head is None else _only(own, head)
                (grad,) = torch.autograd.grad(
                    run.values[reader.through], run.values[reader.stream], part, retain_graph=True
                )
                if reader.rest:
                    grad = grad - told.pop(reader.stream)
                elif ".attn." in reader.name:
                    told[reader.stream] = told.get(reader.stream, 0.0) + grad
                yield reader.name if head is None else f"{reader.name}.{head}", reader.before, grad


def _only(grad: Tensor, head: int) -> Tensor:
    out = torch.zeros_like(grad)
    out[:, :, head] = grad[:, :, head]
    return out
