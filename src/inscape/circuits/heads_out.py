"""The metric of each pair with heads knocked out: what `knock_out` and `faithfulness_curve` are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.pairing import Pairing, asked, measured
from inscape.circuits.places import set_to
from inscape.core.circuit import Circuit
from inscape.core.edit import Edit
from inscape.core.edits.sources import ablate
from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.metrics import Metric
from inscape.core.nulls.bootstrap import bootstrap
from inscape.core.progress import Progress, tell
from inscape.engine.cells import Cell
from inscape.engine.forward import run
from inscape.models.model import Model

HOW = ("resample", "zero")
Heads = frozenset[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Kept:
    """What each set keeps of the metric, above: [pair, set], and what there is to keep, span: [pair].

    Shares are ratios of two means over pairs, so that a pair with little contrast weighs little.
    """

    above: Float[Tensor, "pair set"]
    span: Float[Tensor, " pair"]

    @property
    def share(self) -> Float[Tensor, " set"]:
        return self.above.mean(0) / self.span.mean()

    def interval(self, number: int, seed: int, *, gone: bool = False) -> Interval:
        """The share of one set (or with `gone` what is left of 1), with its bootstrap interval over pairs."""
        sign, start = (-1, 1) if gone else (1, 0)
        if len(self.span) < 2:
            value = start + sign * float(self.share[number])
            return Interval(value, float("-inf"), float("inf"), n_items=len(self.span))
        return bootstrap(
            (self.above[:, number], self.span),
            lambda a, b: start + sign * float(a.mean() / b.mean()),
            n=1000,
            seed=seed,
        )


@dataclass(eq=False)
class HeadsOut:
    """Knocks out all heads outside a set (and MLPs outside some layers), pair by pair.

    how, mlps, metric: as `knock_out` says.
    """

    model: Model
    both: Pairing
    metric: Metric
    how: str
    mlps: bool
    progress: Progress

    @classmethod
    def of(
        cls, caller: str, model: Model, clean: Any, corrupted: Any, metric: Any, how: str, mlps: bool,
        padding_side: str | None, progress: Progress,
    ) -> "HeadsOut":  # fmt: skip
        """Raises: InputError without a metric or second prompt, or for an unknown `how`; TokenError when unaligned."""
        clean, corrupted, metric = asked(clean, corrupted, metric, caller)
        if how not in HOW:
            raise InputError(f"how={how!r}: it can be {' or '.join(HOW)}.")
        both = Pairing.of(model, clean, corrupted, "noise", padding_side)
        both.check_aligned()
        return cls(model, both, metric, how, mlps, progress)

    @property
    def heads(self) -> list[tuple[int, int]]:
        """(layer, head) of every head there is."""
        found = [(i, b.points["attn.z"].heads or 1) for i, b in enumerate(self.model.blocks) if "attn.z" in b.points]
        if not found:
            raise InputError(f"{type(self.model.module).__name__} has no attention heads to knock out.")
        return [(layer, h) for layer, n in found for h in range(n)]

    @property
    def by_layer(self) -> dict[int, int]:
        """How many heads each layer has."""
        heads = self.heads
        return {layer: sum(1 for a, _ in heads if a == layer) for layer, _ in heads}

    def checked(self, circuit: Circuit) -> Heads:
        inside = frozenset(circuit.heads)
        lost = sorted(inside - set(self.heads))
        if not inside:
            raise InputError("this circuit has no heads, and heads are what is knocked out.")
        if lost:
            raise InputError(f"head {lost[0][0]}.{lost[0][1]} is not in this model: it has {len(self.heads)} heads.")
        return inside

    def kept(self, sets: Sequence[Heads], mlps: Sequence[int] = ()) -> Kept:
        """The share of the behaviour that each set keeps alone: 1 with every head in it, 0 with none.

        mlps: the layers whose MLP stays, where MLPs are knocked out too. Equal sets are run once.
        Raises: InputError for pairs in which all heads together do nothing.
        """
        every = frozenset(self.heads)
        different = {s: i for i, s in enumerate(dict.fromkeys([every, frozenset(), *sets]))}
        values = self._values(list(different), frozenset(mlps)).double()
        span = values[:, 0] - values[:, 1]
        if abs(float(span.mean())) < 1e-3:
            raise InputError(
                f"these {self.both.n} pairs are no contrast: knocking out every head moves {self.metric!r} by less "
                "than 0.001 in the mean.\n  choose pairs whose prompts have different answers, or another metric."
            )
        return Kept((values - values[:, 1:2])[:, [different[s] for s in sets]], span)

    def _values(self, sets: Sequence[Heads], mlps: frozenset[int]) -> Tensor:
        """The metric with all heads outside each set knocked out, [pair, set]."""
        rows = range(self.both.n)
        inputs, _ = self.both.inputs(rows)
        sites = {i: b.points["attn.z"].name for i, b in enumerate(self.model.blocks) if "attn.z" in b.points}
        outs = {i: b.points["mlp_out"].name for i, b in enumerate(self.model.blocks) if "mlp_out" in b.points}
        names = [*sites.values(), *(outs.values() if self.mlps else ())]
        trace = run(self.model, inputs, read=names, output=False, padding_side=self.both.side)
        mask = trace.mask
        assert mask is not None
        out = []
        for i in rows:
            theirs = mask[self.both.n + i]
            value = {s: trace[s][self.both.n + i][theirs] for s in names}
            made = _Edits(self, value, sites, {n: s for n, s in outs.items() if self.mlps and n not in mlps})
            cells = [Cell(made.outside(inside)) for inside in sets]
            out.append(measured(self.both, self.metric, cells, [i]).values)
            tell(self.progress, f"{i + 1} of {self.both.n} pairs", (i + 1) / self.both.n)
        return torch.stack(out)


@dataclass(eq=False)
class _Edits:
    """The edits of one pair; sets that leave out the same heads of a layer share the edit there."""

    job: HeadsOut
    value: Mapping[str, Tensor]
    sites: Mapping[int, str]
    mlps: Mapping[int, str]

    def __post_init__(self) -> None:
        self.made: dict[tuple[str, Any], Edit] = {}
        self.heads = {layer: [h for a, h in self.job.heads if a == layer] for layer in self.sites}

    def outside(self, inside: Heads) -> tuple[Edit, ...]:
        edits = []
        for layer, site in self.sites.items():
            gone = tuple(h for h in self.heads[layer] if (layer, h) not in inside)
            if gone:
                edits.append(self._out(site, gone))
        if len(inside) < sum(map(len, self.heads.values())):
            edits += [self._out(site, None) for site in self.mlps.values()]
        return tuple(edits)

    def _out(self, site: str, heads: tuple[int, ...] | None) -> Edit:
        key = (site, heads)
        if key not in self.made:
            zero = self.job.how == "zero"
            self.made[key] = ablate(site, "zero", heads=heads) if zero else set_to(site, self.value[site], heads=heads)
        return self.made[key]
