"""Is it a circuit of edges? Cut all others, cut these, cut those of each node; beside random edges.

With m(S) the metric when only the edges S are left and every cut edge carries what its writer says on the corrupted
prompt:
faithfulness  (m(C) - m(none)) / (m(all) - m(none)): how much of the behaviour these edges alone keep
completeness  1 - the same of all edges but C: how much is gone without them
minimality    per node, how much faithfulness falls when its edges leave the circuit
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.edges.chance import random_edges, random_paths
from inscape.circuits.edges.exact import EdgeRuns
from inscape.circuits.edges.wiring import Keep
from inscape.circuits.heads_out import Kept
from inscape.core.circuit import Circuit, Node
from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.nulls.permutation import permutation_p
from inscape.core.progress import Progress, tell
from inscape.models.model import Model

CONTROLS = (None, "paths", "any")


@dataclass(frozen=True, eq=False)
class EdgesTried:
    """How much of the behaviour is there with a circuit's edges alone, and without them.

    n_edges, of: how many it has, counted as the model has them (heads that share keys share edges), of how many.
    null: faithfulness of random edge sets of as many edges; p: how often they do as well. metric: its mean over pairs
    with these edges alone, with all edges and with none.
    """

    circuit: Circuit
    n_edges: int
    of: int
    faithfulness: Interval
    completeness: Interval
    null: Float[Tensor, " sets"]
    p: float
    metric: tuple[float, float, float]
    minimality: Mapping[Node, float] = field(default_factory=dict)

    def __str__(self) -> str:
        beside = f" (random edges {float(self.null.mean()):.3g}, p {self.p:.3g})" if len(self.null) else ""
        return (
            f"{self.n_edges} of {self.of} edges keep {self.faithfulness} of the behaviour{beside}; "
            f"without them {self.completeness} of it is gone"
        )


def edge_faithfulness(
    model: Model,
    circuits: Circuit | Sequence[Circuit],
    clean: Any,
    corrupted: Any = None,
    *,
    metric: Any = None,
    split: str = "heads",
    control: str | None = "paths",
    n_sets: int = 20,
    minimality: bool = False,
    padding_side: str | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> list[EdgesTried]:
    """Faithfulness, completeness and minimality of circuits of edges, each beside random edges, exactly.

    circuits: one or several, such as `best_edges` of growing n: a curve. clean, corrupted, metric: as in `sweep`.
    split: that of the circuits. control: "paths", random paths from the embedding to the logits of as many edges
        together; "any", as many of all edges, most of them loose ends, which is easy to beat; None for none.
    Take pairs that the circuits were not found on.
    Cost: (2 + n_sets + nodes with minimality) runs a circuit and pair, with its readers' projections beside each.
    Raises: as `EdgeRuns.of`; InputError for circuits without edges, pairs without contrast.
    Source: Wang et al. 2022, arXiv:2211.00593; Hanna et al. 2024, arXiv:2403.17806, whose normalised faithfulness this
    is, as a ratio of means over pairs.
    """
    if control not in CONTROLS:
        raise InputError(f"control={control!r}: it can be 'paths', 'any' or None.")
    several = [circuits] if isinstance(circuits, Circuit) else list(circuits)
    runs = EdgeRuns.of(model, clean, corrupted, metric, split=split, padding_side=padding_side)
    full, none = runs.measure(torch.stack([runs.all, torch.zeros_like(runs.all)]))
    if abs(float((full - none).mean())) < 1e-3:
        raise InputError(
            f"these {runs.n_pairs} pairs are no contrast: cutting every edge moves {runs.metric!r} by less than 0.001 "
            "in the mean.\n  choose pairs whose prompts have different answers, or another metric."
        )
    draw = {"paths": random_paths, "any": random_edges}.get(control or "")
    out = []
    for number, circuit in enumerate(several):
        keep = runs.wiring.keep_of(circuit)
        n = int(keep.sum())
        nodes = [node for node in circuit.nodes if node.layer >= 0] if minimality else []
        drawn = [draw(runs.wiring, n, (seed << 16) + i) for i in range(n_sets)] if draw is not None else []
        cells = [keep, runs.all & ~keep, *(_without(runs, keep, node) for node in nodes), *drawn]
        values = runs.measure(torch.stack(cells)).T
        kept = Kept((values - none[:, None]).double(), (full - none).double())
        faithful, gone = kept.interval(0, seed), kept.interval(1, seed, gone=True)
        falls = {node: faithful.value - float(kept.share[2 + i]) for i, node in enumerate(nodes)}
        null = kept.share[2 + len(nodes) :]
        means = (float(values[:, 0].mean()), float(full.mean()), float(none.mean()))
        p = float(permutation_p(faithful.value, null)) if len(null) else float("nan")
        out.append(EdgesTried(circuit, n, runs.wiring.n_edges, faithful, gone, null, p, means, falls))
        tell(progress, f"{number + 1} of {len(several)} circuits", (number + 1) / len(several))
    return out


def _without(runs: EdgeRuns, keep: Keep, node: Node) -> Keep:
    """The same edges but for those out of this node."""
    keep = keep.clone()
    keep[runs.wiring.nodes.index(node)] = False
    return keep
