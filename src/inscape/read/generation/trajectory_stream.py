"""The signals of `trajectory` while a model generates, in memory that does not grow with the tokens.

What is kept, per row and layer: the first segment's mean, the last one that is settled, the last whole block (which may
still take up a short rest), the running sum of the block under way, the sum of unit steps (its product with the way
from start to end is the sum of cosines, whatever the end will be), and the lengths of the steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.step import Step
from inscape.read.generation.trajectory import Signals


@dataclass(eq=False)
class TrajectoryStream:
    """Watches a generation: `ins.generate(model, prompts, watch=path := TrajectoryStream(16))`, then `path.signals`.

    The same numbers as `trajectory_signals(..., block=)` on the states of the span. The span begins behind the first
    token of `start` (left out: with the first new token) and ends before the first token of `stop` behind it, so that
    neither prompt nor answer is part of it. The last new token is chosen and not fed, so it is not seen.
    Cost: an addition of all layers a step, and a few products of that size a block.
    Parameters: block, tokens a segment. keep_means: also keep the segments' means, for nulls and centring, which grow
    with the tokens. keep_history: also the signals after every block, for stopping early.
    """

    block: int = 16
    start: tuple[int, ...] | None = None
    stop: tuple[int, ...] = ()
    layers: str = "layers.*"
    keep_means: bool = False
    keep_history: bool = False

    @property
    def sites(self) -> Sequence[str]:
        return (f"{self.layers}.resid_post",)

    def begin(self, sites: tuple[str, ...]) -> None:
        if self.block < 1:
            raise InputError(f"block={self.block}: a segment has one token at least.")
        self.names = tuple(site.removesuffix(".resid_post") for site in sites)
        self._at: _Paths | None = None
        self._seen: Step | None = None
        self._inside: Tensor | None = None
        self._over: Tensor | None = None
        self._now = torch.zeros(0, 0, dtype=torch.bool)

    def keep(self, x: Tensor, step: Step) -> Tensor:
        if self._seen is not step:
            self._seen, self._now = step, self._counted(step, x.shape[0])
        return x if x.shape[1] == 1 or bool(self._now.any()) else x[:, :0]

    def see(self, values: Sequence[Tensor], step: Step, live: Bool[Tensor, "batch pos"]) -> None:
        if values[0].shape[1] == 0:
            return
        now = self._now & live if live.shape == self._now.shape else self._now
        states = torch.stack(tuple(values)).float()
        if self._at is None:
            layers, batch, _, d = states.shape
            self._at = _Paths(layers, batch, d, states.device, self.block, self.keep_means, self.keep_history)
        for column in range(states.shape[2]):
            self._at.add(states[:, :, column], now[:, column])

    def _counted(self, step: Step, batch: int) -> Bool[Tensor, "batch pos"]:
        """Which of the new columns lie in the span."""
        width = step.stop - step.start
        real = (step.real[:, step.start :] >= 0).expand(batch, width)
        columns = torch.arange(step.start, step.stop)
        if step.tokens is None and (self.start is not None or self.stop):
            raise InputError("start= and stop= are tokens, and these inputs are none.\n  leave both out.")
        if self._inside is None:
            self._inside = torch.zeros(batch, dtype=torch.bool)
            self._over = torch.zeros(batch, dtype=torch.bool)
        if self.start is None and not self.stop:
            return real & (columns >= step.prompt)
        assert step.tokens is not None
        assert self._over is not None
        tokens = step.tokens.cpu()
        opens = torch.isin(tokens, torch.tensor(self.start)) if self.start is not None else columns >= step.prompt
        stops = torch.isin(tokens, torch.tensor(self.stop)) if self.stop else torch.zeros_like(tokens).bool()
        opens = opens.expand(batch, width)
        out = torch.zeros(batch, width, dtype=torch.bool)
        for column in range(width):  # one, but for the prompt
            if self.start is None:
                self._inside = self._inside | (opens[:, column] & real[:, column])
            self._over = self._over | (self._inside & stops[:, column] & real[:, column])
            out[:, column] = self._inside & ~self._over & real[:, column]
            if self.start is not None:
                self._inside = self._inside | (opens[:, column] & real[:, column])
        return out

    @property
    def signals(self) -> Signals:
        """The signals so far, one row a sequence. Raises: InputError before a token of a span was seen."""
        if getattr(self, "_at", None) is None:
            raise InputError(
                "no token of a span was seen yet.\n  pass this to ins.generate(..., watch=...), and see that start= and"
                " stop= occur where you expect them."
            )
        assert self._at is not None
        return self._at.signals()

    @property
    def is_open(self) -> Bool[Tensor, " trace"]:
        """Rows whose span has begun and never met `stop`: cut off by the limit of tokens, or with no `stop` to meet."""
        if self._at is None or self._over is None:
            raise InputError("no token of a span was seen yet.")
        return (self._at.tokens.cpu() > 0) & ~self._over

    @property
    def history(self) -> list[Signals]:
        """The signals after every block that some row completed. Raises: InputError without keep_history."""
        if self._at is None or not self.keep_history:
            raise InputError("no history was kept.\n  TrajectoryStream(..., keep_history=True), and generate.")
        return self._at.history

    @property
    def means(self) -> list[Float[Tensor, "_segment layer d"]]:
        """Means of the segments, one tensor a sequence. Raises: InputError without keep_means."""
        if self._at is None or self._at.kept is None:
            raise InputError("no means were kept.\n  TrajectoryStream(..., keep_means=True), and generate.")
        return self._at.means()

    @property
    def latest(self) -> Float[Tensor, "trace layer d"]:
        """The states of the last token that was counted: what geometry across layers is measured on."""
        if self._at is None:
            raise InputError("no token of a span was seen yet.")
        return self._at.latest.transpose(0, 1).cpu()


class _Paths:
    """Running sums of all rows, [layer, batch, ...]."""

    def __init__(
        self, layers: int, batch: int, d: int, device: torch.device, block: int, means: bool, history: bool
    ) -> None:  # fmt: skip
        def zeros(*more: int) -> Tensor:
            return torch.zeros(layers, batch, *more, device=device)

        self.block = block
        self.first, self.last, self.whole, self.sum, self.unit, self.latest = (zeros(d) for _ in range(6))
        self.length, self.norms, self.steps = zeros(), zeros(), zeros()
        self.blocks, self.tokens, self.part = (torch.zeros(batch, dtype=torch.long, device=device) for _ in range(3))
        self.n_blocks = [0] * batch
        self.in_part = [0] * batch
        self.kept: list[list[Tensor]] | None = [[] for _ in range(batch)] if means else None
        self.keeps_history, self.history = history, []

    def add(self, x: Tensor, now: Tensor) -> None:
        rows = now.tolist()
        if all(rows):
            self.sum += x
            self.latest = x
        else:
            if not any(rows):
                return
            where = now.to(x.device)[:, None]
            self.sum += torch.where(where, x, 0.0)
            self.latest = torch.where(where, x, self.latest)
        self.tokens += now.to(self.tokens.device)
        done = []
        for row, is_in in enumerate(rows):
            self.in_part[row] += is_in
            if self.in_part[row] == self.block and is_in:
                done.append(row)
        if done:
            self._complete(done)

    def _complete(self, rows: list[int]) -> None:
        """These rows have a whole block: the one before it is settled."""
        for row in rows:
            if self.n_blocks[row] == 1:
                self.first[:, row] = self.whole[:, row]
        older = [row for row in rows if self.n_blocks[row] > 1]
        if older:
            step = self.whole[:, older] - self.last[:, older]
            self._step(older, step)
        settled = [row for row in rows if self.n_blocks[row] > 0]
        if settled:
            self.norms[:, settled] += self.whole[:, settled].norm(dim=-1)
            self.last[:, settled] = self.whole[:, settled]
            if self.kept is not None:
                for row in settled:
                    self.kept[row].append(self.whole[:, row].clone())
        self.whole[:, rows] = self.sum[:, rows] / self.block
        self.sum[:, rows] = 0.0
        for row in rows:
            self.n_blocks[row] += 1
            self.in_part[row] = 0
        if self.keeps_history:
            self.history.append(self.signals())

    def _step(self, rows: list[int], step: Tensor) -> None:
        length = step.norm(dim=-1)
        moved = length > 0
        self.length[:, rows] += length
        self.unit[:, rows] += torch.where(moved[..., None], step / length[..., None], 0.0)
        self.steps[:, rows] += moved

    def _end(self) -> tuple[Tensor, Tensor]:
        """The last segment's mean of every row, the rest of a block counted in; and how many segments there are."""
        n, part = (torch.tensor(v, device=self.sum.device) for v in (self.n_blocks, self.in_part))
        total = self.whole * self.block * (n > 0)[:, None] + self.sum
        count = torch.where(n > 0, self.block, 0) + part
        return total / count.clamp(min=1)[:, None], torch.where(n > 0, n, (part > 0).long())

    def signals(self) -> Signals:
        end, n = self._end()
        many = n > 1
        step = torch.where(many[:, None], end - self.last, 0.0)
        length = step.norm(dim=-1)
        moved = length > 0
        unit = self.unit + torch.where(moved[..., None], step / length[..., None], 0.0)
        way = torch.where(many[:, None], end - self.first, 0.0)
        net, counted = way.norm(dim=-1), self.steps + moved
        aligned = (unit * way).sum(-1) / (net * counted)
        aligned = torch.where((net > 0) & (counted > 0) & (n >= 3), aligned, torch.nan)
        norm = (self.norms + end.norm(dim=-1)) / n.clamp(min=1)
        net, cumulative, aligned, norm = (v.T.double().cpu() for v in (net, self.length + length, aligned, norm))
        return Signals(
            net, cumulative, aligned, norm, n.cpu(), self.tokens.cpu().clone()
        )  # what is counted goes on being counted

    def means(self) -> list[Tensor]:
        assert self.kept is not None
        end, n = self._end()
        return [
            torch.stack([*kept, end[:, row]]).double().cpu() if int(n[row]) else end[:, row][None].double().cpu()[:0]
            for row, kept in enumerate(self.kept)
        ]
