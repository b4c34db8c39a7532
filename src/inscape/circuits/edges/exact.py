"""The metric with some edges cut: what a reader hears of these writers is what they say on the corrupted prompt.

    stream of reader v = stream + sum over cut edges u -> v of (u on the corrupted prompt - u in this run)

Norms are computed anew on that. u in this run is what u says now, with everything cut before it; so a set of edges is
taken as one, not one edge at a time. With all edges cut this is the corrupted run, with none the clean one; both are
checked on the first pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.circuits.attribution.objective import last_scores
from inscape.circuits.edges.wiring import Reading, Wiring
from inscape.circuits.pairing import Pairing, asked, n_vocab
from inscape.core.errors import InputError, ModelError
from inscape.core.metrics import BoundMetric, Metric
from inscape.engine.blocks import CannotReenter
from inscape.engine.forward import eager, run
from inscape.engine.own_streams import OwnStreams
from inscape.engine.tail import tail_of
from inscape.engine.unembed import Unembedding
from inscape.engine.whole import rows_of
from inscape.models.model import Model

TOKENS = 4096  # of streams that one block is called on at once
OFF = {torch.float64: 1e-6, torch.float32: 2e-3}  # of the state's size: how exact the two ends have to be
Cells = Float[Tensor, "cell pair"]


@dataclass(eq=False)
class EdgeRuns:
    """Prompt pairs of one model, ready to be run with any edges cut.

    clean, corrupted: what every writer adds in the two runs, [writer, pair, pos, d_model], 0 at padding.
    batch_tokens: how many streams' tokens a block is called on at once. work: token-layers that were run so far.
    """

    model: Model
    wiring: Wiring
    both: Pairing
    metric: Metric
    streams: OwnStreams
    bound: BoundMetric
    unembed: Unembedding
    clean: Float[Tensor, "writer pair pos d_model"]
    corrupted: Float[Tensor, "writer pair pos d_model"]
    reference: Tensor | None = None
    batch_tokens: int = TOKENS
    work: float = 0.0
    own: dict[int, list[int]] = field(default_factory=dict)  # layer -> its readers

    @classmethod
    def of(
        cls, model: Model, clean: Any, corrupted: Any = None, metric: Any = None, *, split: str = "heads",
        padding_side: str | None = None, batch_tokens: int = TOKENS,
    ) -> "EdgeRuns":  # fmt: skip
        """clean, corrupted, metric: as in `sweep`; prompts that line up. A metric that compares (`kl()`) compares with
        the whole model on the clean prompt. split: see `Wiring.of`.

        Cost: three runs; memory of two copies of all that heads and MLPs add, at all positions of all pairs.
        Raises: InputError without pairs or metric, TokenError for pairs that do not line up, ModelError where edges
        cannot be cut.
        """
        clean, corrupted, made = asked(clean, corrupted, metric, "cutting edges")
        model.check_ready()
        wiring = Wiring.of(model, split)
        both = Pairing.of(model, clean, corrupted, "noise", padding_side)
        both.check_aligned()
        if both.base.mask is None or both.source is None:
            raise InputError("edges are cut in prompts of tokens; these inputs are none.")
        name = type(model.module).__name__
        try:
            streams, unembed = OwnStreams(model, both.base), tail_of(model, both.base, None).unembed
        except CannotReenter as error:
            raise ModelError(f"edges of {name} cannot be cut: {error}.\n  use path_patching or knock_out.") from error
        runs = cls(
            model, wiring, both, made, streams, made.bound(model.tokenizer, both.n, n_vocab(model)), unembed,
            _written(model, wiring, both.base, both.base.mask), _written(model, wiring, both.source, both.base.mask),
            last_scores(model, both.base) if made.reference else None, batch_tokens,
        )  # fmt: skip
        for i, reader in enumerate(wiring.readers):
            runs.own.setdefault(reader.layer, []).append(i)
        runs._check(name)
        return runs

    @property
    def n_pairs(self) -> int:
        return self.both.n

    @property
    def all(self) -> Bool[Tensor, "writer reader"]:
        return self.wiring.allowed

    def measure(self, keep: Bool[Tensor, "cell writer reader"]) -> Cells:
        """The metric of every pair with the edges that a cell does not keep cut, [cell, pair].

        Cost: the layers from the first that hears something else; there, a call of the block for its own, and of its
        projections for every reader that does.
        """
        out = []
        n, width = self.n_pairs, self.clean.shape[2]
        heard = keep.any(0) if len(keep) else self.all
        busy = max((len(self._cut(keep, heard, layer)) for layer in self.own), default=1)
        each = max(1, self.batch_tokens // (width * max(2, busy)))
        with torch.no_grad():
            for start in range(0, len(keep), max(1, each // n)):
                part = keep[start : start + max(1, each // n)]
                pairs = [list(range(i, min(i + each, n))) for i in range(0, n, each)]
                out.append(torch.cat([self.values(part, rows) for rows in pairs], 1))
        return torch.cat(out) if out else torch.zeros(0, n)

    def values(self, keep: Tensor, pairs: Sequence[int]) -> Cells:
        """The same for some pairs at once; keep may be shares between 0 and 1, through which gradients pass."""
        return self._measured(self._states(keep, pairs), pairs, len(keep))

    def _cut(self, keep: Tensor, heard: Tensor, layer: int) -> list[int]:
        """The readers of a layer that hear something else in some cell, and hand something on."""
        if keep.is_floating_point():
            return self.own.get(layer, [])
        useful = self.wiring.useful(heard)
        lost = ~(keep.all(0) | ~self.all).all(0)
        return [r for r in self.own.get(layer, []) if bool(lost[r] & useful[r])]

    def _states(self, keep: Tensor, pairs: Sequence[int]) -> Float[Tensor, "row pos d_model"]:
        """The stream that the output reads, [cell * pair, pos, d_model]."""
        n_layers, readers = self.model.n_layers, self.wiring.readers
        soft = keep.is_floating_point()
        heard = keep.any(0) if not soft else self.all
        gone = ((1 - keep) if soft else (~keep).float()) * self.all.to(keep.device)
        cut = {layer: self._cut(keep, heard, layer) for layer in self.own}
        first = min((layer for layer, found in cut.items() if found), default=n_layers)
        moved = _Moved(self, gone.to(self.clean.device), pairs, first, len(keep))
        x = self.streams.blocks.streams[first][list(pairs)].repeat(len(keep), 1, 1)
        index = list(pairs) * len(keep)
        with eager(self.model, True):
            for layer in range(first, n_layers):
                mine = {readers[r].place: r for r in cut.get(layer, [])}
                places = [p for p in mine if p is not None]
                self.work += x.shape[0] * x.shape[1] * (1 + len(places))
                x = self.streams.block(
                    layer, x, index, places,
                    lambda place, stream, mine=mine: moved.heard(mine[place], stream), moved.wrote,
                )  # fmt: skip
        last = cut.get(n_layers, [])
        return moved.heard(last[0], x) if last else x

    def _measured(self, states: Tensor, pairs: Sequence[int], n_cells: int) -> Cells:
        mask = self.both.base.mask
        assert mask is not None
        rows = torch.tensor(list(pairs) * n_cells)
        real = mask[list(pairs)].repeat(n_cells, 1).to(states.device)
        at = torch.arange(real.shape[1], device=states.device)
        step, parts = self.unembed.rows_at_once(), []
        if self.metric.at == "all":
            for row, state, own in zip(rows.tolist(), states, real, strict=True):
                targets = self._following(row)
                parts.append(self.bound.of_logits(self.unembed(state[own])[None], torch.tensor([row]), targets=targets))
            return torch.cat(parts).reshape(n_cells, -1).cpu()
        ends = states[torch.arange(len(states), device=states.device), (real * at).argmax(1)]
        for start in range(0, len(ends), step):
            here = slice(start, start + step)
            if self.bound.tokens is not None:
                scores = self.unembed.columns(ends[here], self.bound.tokens[rows[here]])
                parts.append(self.bound.of_columns(scores, rows[here]))
                continue
            logits = self.unembed(ends[here])
            more = {} if self.reference is None else {"reference": self.reference[rows[here]].to(logits.device)}
            parts.append(self.bound.of_logits(logits, rows[here], **more))
        return torch.cat(parts).reshape(n_cells, -1).cpu()

    def _following(self, row: int) -> Tensor:
        tokens, mask = self.both.base.tokens, self.both.base.mask
        assert tokens is not None
        assert mask is not None
        ids = tokens[row][mask[row].to(tokens.device)]
        return torch.cat([ids[1:], torch.tensor([-1], device=ids.device)])[None]

    def _check(self, name: str) -> None:
        """No edge cut is the clean run, every edge cut the corrupted one."""
        with torch.no_grad():
            mask = self.both.base.mask
            assert mask is not None
            last = self.model.n_layers
            shares = (self.all.float(), torch.zeros(self.all.shape))  # so that every reader is asked
            uncut, cut = (self._states(keep[None], [0])[0][mask[0]] for keep in shares)
            wanted = self.streams.blocks.streams[last][0][mask[0]]
            assert self.both.source is not None
            other = run(self.model, rows_of(self.both.source, [0], self.n_pairs), read=self._last, output=False)
            corrupted = other[self._last][0][mask[0]]
        limit = OFF.get(self.model.dtype, 0.1)
        for made, want, what in ((uncut, wanted, "uncut"), (cut, corrupted, "all cut")):
            off = float((made.float() - want.float()).norm() / want.float().norm().clamp(min=1e-9))
            if not off <= limit:
                raise ModelError(
                    f"edges of {name} cannot be cut: with its edges {what} the last stream is off by {off:.1e}, so "
                    "something reads the stream that is not seen, or scales it.\n  use path_patching or knock_out."
                )

    @property
    def _last(self) -> str:
        return f"{self.model.blocks[-1].name}.resid_post"


class _Moved:
    """What each writer says on the corrupted prompt less what it says in this run, and what that makes readers hear.

    Writers below `first` say what they say in the clean run, in all cells alike.
    """

    def __init__(self, runs: EdgeRuns, gone: Tensor, pairs: Sequence[int], first: int, n_cells: int) -> None:
        self.runs, self.gone, self.pairs, self.n_cells = runs, gone, list(pairs), n_cells
        self.low = sum(w.order[0] < first for w in runs.wiring.writers)
        self.shared = (runs.corrupted[: self.low, self.pairs] - runs.clean[: self.low, self.pairs]).float()
        self.own: list[Tensor] = []  # one a writer from `low` on, [cell, pair, pos, d_model]
        mask = runs.both.base.mask
        assert mask is not None
        self.real = mask[self.pairs].to(self.shared.device)[None, :, :, None]
        self.by_site: dict[str, list[int]] = {}
        for i, w in enumerate(runs.wiring.writers):
            self.by_site.setdefault(w.site, []).append(i)

    def wrote(self, site: str, value: Tensor) -> None:
        for i in self.by_site.get(site, ()):
            head = self.runs.wiring.writers[i].head
            said = value if head is None else value[:, :, head]
            said = said.float().reshape(self.n_cells, len(self.pairs), *said.shape[1:])
            self.own.append((self.runs.corrupted[i, self.pairs].float() - said) * self.real)

    def heard(self, r: int, x: Tensor) -> Tensor:
        reader: Reading = self.runs.wiring.readers[r]
        gone = self.gone[:, : reader.before, r]
        soft = gone.requires_grad
        used = list(range(reader.before)) if soft else gone.any(0).nonzero().flatten().tolist()
        low, high = [u for u in used if u < self.low], [u for u in used if u >= self.low]
        total = torch.zeros((), device=x.device)
        if low:
            total = total + torch.einsum("cw,wbpd->cbpd", gone[:, low], self.shared[low])
        if high:
            total = total + torch.einsum(
                "cw,wcbpd->cbpd", gone[:, high], torch.stack([self.own[u - self.low] for u in high])
            )
        return (x.float() + total.expand(self.n_cells, len(self.pairs), *x.shape[1:]).flatten(0, 1)).to(x.dtype)


def _written(model: Model, wiring: Wiring, inputs: Any, mask: Tensor) -> Tensor:
    """What every writer adds, [writer, pair, pos, d_model]."""
    trace = run(model, inputs, read=list(dict.fromkeys(w.site for w in wiring.writers)), output=False)
    each = [trace[w.site] if w.head is None else trace[w.site][:, :, w.head] for w in wiring.writers]
    return torch.stack(each) * mask.to(each[0].device)[None, :, :, None]
