"""Circuits found by working backwards along paths: who acts on the prediction, who acts on those, and so on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.pairing import asked
from inscape.circuits.paths import path_patching
from inscape.core.circuit import LOGITS, Circuit, Edge, Node
from inscape.core.errors import InputError
from inscape.core.grid import Grid
from inscape.core.nulls.matched import layer_matched_sets
from inscape.core.nulls.permutation import permutation_p
from inscape.core.progress import Progress, tell
from inscape.models.model import Model


@dataclass(frozen=True)
class Trail:
    """One step back: heads that act on the heads of role `of` through their q, k or v; on the prediction with None.

    positions: where the senders act: "all", or positions as `at=` takes them.
    """

    role: str
    of: str | None = None
    through: str = "q"
    positions: Any = "all"


INDIRECT_OBJECT = (
    Trail("mover", positions=-1),
    Trail("inhibition", "mover", "q", positions=-1),
    Trail("duplicate", "inhibition", "v"),
)


def discover(
    model: Model,
    clean: Any,
    corrupted: Any = None,
    *,
    trail: Sequence[Trail] = INDIRECT_OBJECT,
    top: int | None = None,
    threshold: float = 0.02,
    metric: Any = None,
    freeze: Sequence[str] = ("heads",),
    progress: Progress = None,
) -> Circuit:
    """Heads that carry what tells two prompts apart, by path patching step by step backwards from the prediction.

    Each step keeps the senders whose mean effect, as a share of what the whole corrupted prompt does (`Grid.pooled`),
    is beyond `threshold` in size, or the `top` largest of them. A head keeps the role of the first step that finds it.
    An edge's weight is the sender's effect through all receivers of its step together, so it stands at each of them.
    trail: the steps. The rest as in `path_patching`, which says what it costs (one call a step).
    Sibling: `circuits.attribution` scores every edge in one backward pass, approximately; this patches, exactly.
    Raises: InputError for a step back from a role that no step before it found.
    Source: Wang et al. 2022, arXiv:2211.00593; Merullo et al. 2023, arXiv:2310.08744; the threshold is ours.
    """
    clean, corrupted, metric = asked(clean, corrupted, metric, "discover")
    nodes: dict[Node, float] = {}
    edges: dict[Edge, float] = {}
    roles: dict[Node, str] = {}
    for i, step in enumerate(trail):
        tell(progress, f"paths to {step.of or 'the prediction'}", i / len(trail))
        found = [n for n, role in roles.items() if role == step.of]
        if step.of is not None and not found:
            if step.of not in {s.role for s in trail[:i]}:
                raise InputError(f"the step {step.role!r} goes back from {step.of!r}, which no step before it finds.")
            continue  # that step found nobody: there is nothing to go back from
        sites = [(_site(model, n, step.through), _shared(model, n, step.through)) for n in found] or None
        if sites is not None and min(n.layer for n in found) == 0 == max(n.layer for n in found):
            continue
        grid = path_patching(
            model, clean, corrupted, receivers=sites, positions=step.positions, freeze=freeze, metric=metric
        )
        for node, weight in _kept(model, grid, top, threshold):
            for end in [str(n) for n in found if n.layer > node.layer] or [LOGITS] * (step.of is None):
                edges[str(node), end, step.through if step.of is not None else ""] = weight
            if node not in nodes:
                nodes[node], roles[node] = weight, step.role
    return Circuit(nodes, edges, roles, model.fingerprint, "path patching")


def _kept(model: Model, grid: Grid, top: int | None, threshold: float) -> list[tuple[Node, float]]:
    effect = grid.pooled()
    layers = [model.layer_of(s) for s in grid.sites]
    order = effect.abs().nan_to_num(-1.0).flatten().argsort(descending=True).tolist()
    out = []
    for flat in order[:top] if top is not None else order:
        i, head = divmod(flat, effect.shape[1])
        weight = float(effect[i, head])
        if top is None and abs(weight) < threshold:
            break
        out.append((Node(layers[i], head), weight))
    return out


def _site(model: Model, node: Node, through: str) -> str:
    return f"{model.blocks[node.layer].name}.attn.{through}"


def _shared(model: Model, node: Node, through: str) -> int | None:
    """The head at that site: key and value heads are shared by several query heads."""
    if through in ("q", "z") or node.head is None:
        return node.head
    points = model.blocks[node.layer].points
    heads, config = points["attn.z"].heads or 1, getattr(points[f"attn.{through}"].module, "config", None)
    shared = getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None) or heads
    if getattr(config, "multi_query", False):
        shared = 1
    return node.head * min(shared, heads) // heads


@dataclass(frozen=True, eq=False)
class Compared:
    """What two circuits share, beside random circuits with as many heads in each layer.

    jaccard: |A and B| / |A or B|. of_first, of_second: the shared part of each. by_role: role -> shared part of the
    first circuit's heads of that role that have it in the second too. null: Jaccard of random pairs; p: how often they
    share as much.
    """

    jaccard: float
    of_first: float
    of_second: float
    by_role: dict[str, float]
    null: Float[Tensor, " n"]
    p: float

    def __str__(self) -> str:
        return (
            f"share {self.jaccard:.2f} of their heads (random circuits of the same layers "
            f"{float(self.null.mean()):.2f}, p {self.p:.3g})"
        )


def compare(
    first: Circuit, second: Circuit, units_by_layer: int | Sequence[int], *, n: int = 2000, seed: int = 0
) -> Compared:
    """Do two circuits use the same heads, more than circuits of the same layers do by chance?

    units_by_layer: how many heads the model has, in each layer or in all. Late heads matter for most tasks, so overlap
    alone says little: read it beside its null, in which both circuits are redrawn within their layers.
    Raises: InputError for a circuit without heads.
    """
    a, b = set(first.heads), set(second.heads)
    if not a or not b:
        raise InputError("circuits are compared by their heads, and one of these has none.")
    draws = [layer_matched_sets(sorted(x), units_by_layer, n=n, seed=seed + i) for i, x in enumerate((a, b))]
    null = torch.tensor([_jaccard(set(x), set(y)) for x, y in zip(*draws, strict=True)], dtype=torch.float64)
    both = a & b
    roles = {}
    for role in dict.fromkeys(first.roles.values()):
        mine = {(m.layer, m.head) for m in first.of_role(role)}
        theirs = {(m.layer, m.head) for m in second.of_role(role)}
        roles[role] = len(mine & theirs) / max(1, len(mine))
    value = _jaccard(a, b)
    return Compared(value, len(both) / len(a), len(both) / len(b), roles, null, float(permutation_p(value, null)))


def _jaccard(a: set[Any], b: set[Any]) -> float:
    return len(a & b) / max(1, len(a | b))
