"""All edges of a model: who writes into the stream, who reads it, and circuits as choices among them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.circuits.attribution.stream_graph import Reader, Writer, stream_graph
from inscape.core.circuit import LOGITS, Circuit, Edge, Node
from inscape.core.errors import InputError, ModelError
from inscape.engine.forward import run
from inscape.engine.own_streams import Place
from inscape.models.model import Model

Keep = Bool[Tensor, "writer reader"]


@dataclass(frozen=True)
class Reading:
    """One reader: its name as in `EdgeScores`, the layer whose block it is in (the output: one more), its place there
    (None for the output), how many writers come before it, and the nodes that read through it.

    Key and value heads that several query heads share are one reader with as many ends.
    """

    name: str
    layer: int
    place: Place | None
    before: int
    ends: tuple[tuple[str, str], ...]  # (node or "logits", through)


@dataclass(frozen=True, eq=False)
class Wiring:
    """The writers and readers of one model, in forward order; an edge is a pair of them."""

    writers: tuple[Writer, ...]
    readers: tuple[Reading, ...]
    model: str  # fingerprint

    @classmethod
    def of(cls, model: Model, split: str = "heads") -> "Wiring":
        """split: attention reads as one ("whole"), as q, k and v ("qkv"), or these by head ("heads").

        Raises: ModelError where the stream is no plain sum, or attention is not made of heads.
        """
        writers, readers = stream_graph(model, split)
        headless = next((w for w in writers if w.head is None and not w.name.endswith(("mlp", "embed"))), None)
        if headless is not None:
            raise ModelError(
                f"{headless.name} of {type(model.module).__name__} is not made of heads, so it is no node of a circuit."
                "\n  edge_attribution scores its edges all the same."
            )
        widths = _widths(model) if split == "heads" else {}
        heads = {i: sum(w.order == (i, 0) and w.head is not None for w in writers) for i in range(model.n_layers)}
        made = []
        for reader in readers:
            if (
                reader.rest
            ):  # what attention reads besides queries, keys and values: `EdgeRuns` finds out whether it does
                continue
            n = sum(w.order < reader.before for w in writers)
            made += _readings(reader, n, heads.get(reader.before[0], 0), widths)
        return cls(writers, tuple(made), model.fingerprint)

    @cached_property
    def allowed(self) -> Keep:
        """Which pairs are edges: the writer comes before the reader."""
        before = torch.tensor([r.before for r in self.readers])
        return torch.arange(len(self.writers))[:, None] < before[None]

    @property
    def n_edges(self) -> int:
        return int(self.allowed.sum())

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The node of every writer."""
        return tuple(_node(w) for w in self.writers)

    @cached_property
    def reads_for(self) -> Bool[Tensor, "reader writer"]:
        """Which reader feeds which writer; the output feeds none."""
        names = {str(n): i for i, n in enumerate(self.nodes)}
        out = torch.zeros(len(self.readers), len(self.writers), dtype=torch.bool)
        for i, reader in enumerate(self.readers):
            for end, _ in reader.ends:
                if end != LOGITS:
                    out[i, names[end]] = True
        return out

    def useful(self, keep: Keep) -> Bool[Tensor, " reader"]:
        """Readers whose node hands something on: the others can read what they like."""
        used = (keep & self.allowed).any(1)
        return (self.reads_for & used).any(1) | ~self.reads_for.any(1)

    def connected(self, keep: Keep) -> Keep:
        """Without edges that no path from the embedding to the logits goes through. What remains computes the same:
        a node that is told nothing says what it says on the corrupted prompt, with or without its edges."""
        keep = keep & self.allowed
        is_source = torch.tensor([w.order[0] < 0 for w in self.writers])
        while True:
            fed = (self.reads_for & keep.any(0)[:, None]).any(0) | is_source
            new = keep & fed[:, None] & self.useful(keep)[None]
            if torch.equal(new, keep):
                return keep
            keep = new

    def circuit(self, keep: Keep, weights: Float[Tensor, "writer reader"], about: str) -> Circuit:
        """The edges that are kept, without loose ends, as a circuit. A node weighs what its largest edge weighs."""
        keep = self.connected(keep)
        used = {str(self.nodes[i]) for i in keep.any(1).nonzero().flatten().tolist()} | {LOGITS}
        edges: dict[Edge, float] = {}
        nodes: dict[Node, float] = {}
        for w, r in keep.nonzero().tolist():
            node, weight = self.nodes[w], float(weights[w, r])
            nodes[node] = max(nodes.get(node, 0.0), abs(weight))
            edges |= {(str(node), end, through): weight for end, through in self.readers[r].ends if end in used}
        return Circuit(dict(sorted(nodes.items())), edges, {}, self.model, about)

    def keep_of(self, circuit: Circuit) -> Keep:
        """The circuit's edges among all edges. Raises: InputError for a circuit without edges, or of other ones."""
        if not circuit.edges:
            raise InputError(
                f"{circuit!r} has no edges.\n  knock_out tries circuits of nodes; edges come from greedy_edges, "
                "best_edges and learned_edges."
            )
        names = {str(n): i for i, n in enumerate(self.nodes)}
        ends = {end: i for i, reader in enumerate(self.readers) for end in reader.ends}
        keep = torch.zeros_like(self.allowed)
        for a, b, through in circuit.edges:
            w, r = names.get(a), ends.get((b, through))
            if w is None or r is None or not bool(self.allowed[w, r]):
                way = f" through {through}" if through else ""
                raise InputError(
                    f"{a} -> {b}{way} is no edge here; there are {len(self.writers)} writers, {len(self.readers)} "
                    "readers.\n  was the circuit found on another model, or with another split=?"
                )
            keep[w, r] = True
        return keep


def _readings(reader: Reader, before: int, n_heads: int, widths: dict[str, int]) -> list[Reading]:
    layer = reader.before[0]
    if not reader.through:
        return [Reading(reader.name, layer, None, before, ((LOGITS, ""),))]
    part = reader.name.rsplit(".", 1)[-1]
    if part == "mlp":
        place = Place("mlp", late=reader.stream.endswith("resid_mid"))
        return [Reading(reader.name, layer, place, before, ((str(Node(layer)), "mlp"),))]
    kind = part if part in ("q", "k", "v") else ""
    if reader.head is None:
        ends = tuple((str(Node(layer, h)), kind) for h in range(n_heads))
        return [Reading(reader.name, layer, Place("attn", kind), before, ends)]
    n = widths[reader.through]
    shared = n_heads // n
    return [
        Reading(
            f"{reader.name}.{i}", layer, Place("attn", kind, i), before,
            tuple((str(Node(layer, h)), kind) for h in range(i * shared, (i + 1) * shared)),
        )
        for i in range(n)
    ]  # fmt: skip


def _widths(model: Model) -> dict[str, int]:
    """How many heads the queries, keys and values of every layer have, seen in a run of one token."""
    sites = [f"{b.name}.attn.{k}" for b in model.blocks for k in "qkv" if f"attn.{k}" in b.points]
    trace = run(model, [[0, 0]], read=sites, output=False)
    return {s: trace[s].shape[2] for s in sites}


def _node(writer: Writer) -> Node:
    layer = writer.order[0]
    return Node(layer, writer.head) if layer >= 0 else Node(-1)
