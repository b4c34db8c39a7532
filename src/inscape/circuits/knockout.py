"""Is it the circuit? Take away everything else, take away the circuit, take away each of its parts.

With m(S) the metric when every head (and MLP, if asked) outside S has the value it has on the corrupted prompt:
faithfulness  (m(C) - m(nothing)) / (m(everything) - m(nothing)): how much of the behaviour the circuit alone keeps
completeness  1 - the same of everything but C: how much is gone without it
minimality    per node, how much faithfulness falls when the node leaves the circuit
Each beside layer-matched random sets of as many heads: a set that is no better than those is no circuit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.pairing import Pairing, asked, measured
from inscape.circuits.places import set_to
from inscape.core.circuit import Circuit, Node
from inscape.core.edit import Edit
from inscape.core.edits.sources import ablate
from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.metrics import Metric
from inscape.core.nulls.bootstrap import bootstrap
from inscape.core.nulls.matched import layer_matched_sets
from inscape.core.nulls.permutation import permutation_p
from inscape.core.progress import Progress, tell
from inscape.engine.cells import Cell
from inscape.engine.forward import run
from inscape.models.model import Model

HOW = ("resample", "zero")
Heads = frozenset[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Tried:
    """How much of the behaviour is there with the circuit alone, and without it.

    faithfulness, completeness: mean over pairs with its bootstrap interval. null: the same of layer-matched random
    sets, and p: how often they do as well. minimality: node -> fall of faithfulness without it.
    """

    circuit: Circuit
    faithfulness: Interval
    completeness: Interval
    faithfulness_null: Float[Tensor, " sets"]
    completeness_null: Float[Tensor, " sets"]
    faithfulness_p: float
    completeness_p: float
    minimality: Mapping[Node, float] = field(default_factory=dict)
    n_pairs: int = 0

    def __str__(self) -> str:
        null = self.faithfulness_null
        return (
            f"{len(self.circuit)} nodes keep {self.faithfulness} of the behaviour (random sets of the same layers "
            f"{float(null.mean()):.3g}, p {self.faithfulness_p:.3g}); without them {self.completeness} of it is gone "
            f"(random {float(self.completeness_null.mean()):.3g}, p {self.completeness_p:.3g}); {self.n_pairs} pairs"
        )


def knock_out(
    model: Model,
    circuit: Circuit | Iterable[tuple[int, int]],
    clean: Any,
    corrupted: Any = None,
    *,
    metric: Any = None,
    how: str = "resample",
    mlps: bool = False,
    control: str | None = "layer-matched",
    n_sets: int = 100,
    minimality: bool = False,
    padding_side: str | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> Tried:
    """Faithfulness, completeness and minimality of a circuit, beside random circuits.

    circuit: one, or (layer, head) pairs. clean, corrupted, metric: as in `sweep`; aligned prompts. how: "resample",
        what is outside has its value on the corrupted prompt; "zero", it is zero, which the model has never met.
    mlps: are MLPs knocked out too, or left to recompute (the usual choice for circuits of heads)?
    control: "layer-matched" random sets of heads, `n_sets` of them; None for none.
    minimality: also one run a node. Cost: (2 + 2 n_sets + nodes) runs a pair, whole ones, packed together.
    Raises: InputError for a circuit that is empty or of other heads than the model has, pairs without contrast.
    Source: Wang et al. 2022, arXiv:2211.00593, section 4; effects are normalised by the knocked-out model here.
    """
    clean, corrupted, metric = asked(clean, corrupted, metric, "knock_out")
    if how not in HOW:
        raise InputError(f"how={how!r}: it can be {' or '.join(HOW)}.")
    if control not in (None, "layer-matched"):
        raise InputError(f"control={control!r}: it can be 'layer-matched' or None.")
    circuit = circuit if isinstance(circuit, Circuit) else Circuit({Node(a, b): 1.0 for a, b in circuit})
    both = Pairing.of(model, clean, corrupted, "noise", padding_side)
    both.check_aligned()
    job = _Knockouts(model, both, metric, how, mlps, progress)
    inside = job.checked(circuit)
    everything = frozenset(job.heads)
    sets = [everything, frozenset(), inside, everything - inside]
    nodes = [n for n in circuit.nodes if n.head is not None] if minimality else []
    sets += [inside - {(n.layer, n.head)} for n in nodes if n.head is not None]
    drawn = []
    if control is not None:
        count = {layer: sum(1 for a, _ in job.heads if a == layer) for layer, _ in job.heads}
        drawn = [frozenset(s) for s in layer_matched_sets(sorted(inside), count, n=n_sets, seed=seed)]
        sets += [*drawn, *(everything - s for s in drawn)]
    values = job.of(sets, circuit)  # [pair, set]
    span = values[:, 0] - values[:, 1]
    flat = (span.abs() < 1e-3).nonzero().flatten().tolist()
    if flat:
        raise InputError(
            f"{len(flat)} of {both.n} pairs are no contrast: knocking out every head moves {job.metric!r} by less than "
            f"0.001 (pairs {', '.join(map(str, flat[:5]))}).\n  leave these pairs out, or choose another metric."
        )
    kept = (values - values[:, 1:2]) / span[:, None]
    gone = 1 - kept
    faithful, complete = _mean(kept[:, 2], seed), _mean(gone[:, 3], seed)
    falls = {n: faithful.value - float(kept[:, 4 + i].mean()) for i, n in enumerate(nodes)}
    at = 4 + len(nodes)
    keeps = kept[:, at : at + len(drawn)].mean(0).double()
    losses = gone[:, at + len(drawn) : at + 2 * len(drawn)].mean(0).double()
    return Tried(
        circuit, faithful, complete, keeps, losses, _p(faithful.value, keeps), _p(complete.value, losses), falls, both.n
    )


def _mean(values: Tensor, seed: int) -> Interval:
    if len(values) < 2:
        value = float(values.mean())
        return Interval(value, float("-inf"), float("inf"), n_items=len(values))
    return bootstrap(values, seed=seed)


def _p(value: float, null: Tensor) -> float:
    return float(permutation_p(value, null)) if len(null) else float("nan")


@dataclass(eq=False)
class _Knockouts:
    model: Model
    both: Pairing
    metric: Metric
    how: str
    mlps: bool
    progress: Progress

    @property
    def heads(self) -> list[tuple[int, int]]:
        """(layer, head) of every head there is."""
        found = [(i, b.points["attn.z"].heads or 1) for i, b in enumerate(self.model.blocks) if "attn.z" in b.points]
        if not found:
            raise InputError(f"{type(self.model.module).__name__} has no attention heads to knock out.")
        return [(layer, h) for layer, n in found for h in range(n)]

    def checked(self, circuit: Circuit) -> Heads:
        inside = frozenset(circuit.heads)
        lost = sorted(inside - set(self.heads))
        if not inside:
            raise InputError("this circuit has no heads, and heads are what is knocked out.")
        if lost:
            raise InputError(f"head {lost[0][0]}.{lost[0][1]} is not in this model: it has {len(self.heads)} heads.")
        return inside

    def of(self, sets: Sequence[Heads], circuit: Circuit) -> Tensor:
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
            cells = [Cell(self._edits(inside, value, sites, outs, circuit), i) for inside in sets]
            out.append(measured(self.both, self.metric, [Cell(c.edits, 0) for c in cells], [i]).values)
            tell(self.progress, f"{i + 1} of {self.both.n} pairs", (i + 1) / self.both.n)
        return torch.stack(out)

    def _edits(
        self, inside: Heads, value: Mapping[str, Tensor], sites: Mapping[int, str], outs: Mapping[int, str],
        circuit: Circuit,
    ) -> tuple[Edit, ...]:  # fmt: skip
        edits = []
        for layer, site in sites.items():
            outside = [h for a, h in self.heads if a == layer and (a, h) not in inside]
            if outside:
                edits.append(self._out(site, value[site], tuple(outside)))
        if self.mlps and len(inside) < len(self.heads):
            edits += [self._out(s, value[s], None) for i, s in outs.items() if i not in circuit.mlps]
        return tuple(edits)

    def _out(self, site: str, value: Tensor, heads: tuple[int, ...] | None) -> Edit:
        if self.how == "zero":
            return ablate(site, "zero", heads=heads)
        return set_to(site, value, heads=heads)
