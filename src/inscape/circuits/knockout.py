"""Is it the circuit? Take away everything else, take away the circuit, take away each of its parts.

With m(S) the mean metric when every head (and MLP, if asked) outside S has the value it has on the corrupted prompt:
faithfulness  (m(C) - m(nothing)) / (m(everything) - m(nothing)): how much of the behaviour the circuit alone keeps
completeness  1 - the same of everything but C: how much is gone without it
minimality    per node, how much faithfulness falls when the node leaves the circuit
Each beside layer-matched random sets of as many heads: a set that is no better than those is no circuit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from inscape.circuits.heads_out import HeadsOut
from inscape.core.circuit import Circuit, Node
from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.nulls.matched import layer_matched_sets
from inscape.core.nulls.permutation import permutation_p
from inscape.core.progress import Progress
from inscape.models.model import Model


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
    minimality: also one run a head, and with mlps three an MLP.
    Cost: (2 + 2 n_sets + nodes) runs a pair, whole ones, packed together.
    Raises: InputError for a circuit that is empty or of other heads than the model has, pairs without contrast.
    Source: Wang et al. 2022, arXiv:2211.00593, section 4; effects are normalised by the knocked-out model here.
    """
    if control not in (None, "layer-matched"):
        raise InputError(f"control={control!r}: it can be 'layer-matched' or None.")
    circuit = circuit if isinstance(circuit, Circuit) else Circuit({Node(a, b): 1.0 for a, b in circuit})
    job = HeadsOut.of("knock_out", model, clean, corrupted, metric, how, mlps, padding_side, progress)
    inside = job.checked(circuit)
    everything = frozenset(job.heads)
    sets = [inside, everything - inside]
    nodes = [n for n in circuit.nodes if n.head is not None] if minimality else []
    sets += [inside - {(n.layer, n.head)} for n in nodes if n.head is not None]
    drawn = []
    if control is not None:
        drawn = [frozenset(s) for s in layer_matched_sets(sorted(inside), job.by_layer, n=n_sets, seed=seed)]
        sets += [*drawn, *(everything - s for s in drawn)]
    kept = job.kept(sets, circuit.mlps)
    faithful, complete, share = kept.interval(0, seed), kept.interval(1, seed, gone=True), kept.share
    falls = {n: faithful.value - float(share[2 + i]) for i, n in enumerate(nodes)}
    for layer in circuit.mlps if minimality and mlps else ():
        without = job.kept([inside], [m for m in circuit.mlps if m != layer])
        falls[Node(layer)] = faithful.value - float(without.share[0])
    at = 2 + len(nodes)
    keeps, losses = share[at : at + len(drawn)], 1 - share[at + len(drawn) :]
    return Tried(
        circuit, faithful, complete, keeps, losses, _p(faithful.value, keeps), _p(complete.value, losses), falls,
        job.both.n,
    )  # fmt: skip


def _p(value: float, null: Tensor) -> float:
    return float(permutation_p(value, null)) if len(null) else float("nan")
