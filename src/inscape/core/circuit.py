"""A circuit: the parts of a model that do one thing, how they feed each other, and what each is for."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inscape.core.durable import disk_errors, written
from inscape.core.errors import FileError, InputError

VERSION = 1
LOGITS = "logits"  # the node that stands for the prediction


@dataclass(frozen=True)
class Node:
    """One part: a head (`layer`, `head`), a layer's MLP (`head` None), or with layer -1 the token embedding.

    Nodes are ordered as the model computes them: a layer's heads, then its MLP.
    """

    layer: int
    head: int | None = None

    def __lt__(self, other: "Node") -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[int, bool, int]:
        return (self.layer, self.head is None, self.head or 0)

    def __str__(self) -> str:
        return (
            f"{self.layer}.{self.head}"
            if self.head is not None
            else f"{self.layer}.mlp"
            if self.layer >= 0
            else "embed"
        )

    @classmethod
    def of(cls, text: str) -> "Node":
        """From "9.6", "3.mlp" or "embed"."""
        if text == "embed":
            return cls(-1)
        layer, _, part = text.partition(".")
        if not layer.isdigit() or not (part.isdigit() or part == "mlp"):
            raise InputError(f"{text!r} is no node; nodes are a head '9.6', an MLP '3.mlp' or 'embed'.")
        return cls(int(layer), None if part == "mlp" else int(part))


Edge = tuple[str, str, str]  # from node, to node or "logits", through "q", "k", "v", "mlp" or ""


@dataclass(frozen=True, eq=False)
class Circuit:
    """Nodes, weighted edges between them, and a role for each node.

    nodes: with how much each was found to matter. edges: (sender, receiver, through) -> weight, receiver a node or
    "logits", through "q", "k", "v", "mlp" or "" where that was not told apart. roles: node -> what it is for.
    model: a fingerprint; about: how it was found.
    """

    nodes: Mapping[Node, float]
    edges: Mapping[Edge, float] = field(default_factory=dict)
    roles: Mapping[Node, str] = field(default_factory=dict)
    model: str = ""
    about: str = ""

    def __post_init__(self) -> None:
        named = {str(n) for n in self.nodes} | {LOGITS}
        lost = next((f"{a} -> {b}" for a, b, _ in self.edges if a not in named or b not in named), None)
        if lost:
            raise InputError(f"the edge {lost} has an end that is no node of this circuit.")
        alone = next((n for n in self.roles if n not in self.nodes), None)
        if alone is not None:
            raise InputError(f"{alone} has a role and is no node of this circuit.")

    @property
    def heads(self) -> tuple[tuple[int, int], ...]:
        """(layer, head) of every head in it, in order."""
        return tuple(sorted((n.layer, n.head) for n in self.nodes if n.head is not None))

    @property
    def mlps(self) -> tuple[int, ...]:
        """Layers whose MLP is in it."""
        return tuple(sorted(n.layer for n in self.nodes if n.head is None and n.layer >= 0))

    def of_role(self, role: str) -> tuple[Node, ...]:
        return tuple(sorted(n for n, r in self.roles.items() if r == role))

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        counts = Counter(self.roles.values())
        said = ", ".join(f"{n} {role}" for role, n in counts.items())
        return f"Circuit({len(self.nodes)} nodes{f': {said}' if said else ''}, {len(self.edges)} edges)"

    def draw(self, **how: Any) -> Any:
        """A view to click in, in a notebook or saved as .html, .svg or .png: see `view.drawn.draw`."""
        from inscape.view.drawn import draw

        return draw(self, **how)

    # -- files ---------------------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": "circuit", "version": VERSION, "model": self.model, "about": self.about,
            "nodes": [{"node": str(n), "weight": w, "role": self.roles.get(n, "")} for n, w in self.nodes.items()],
            "edges": [{"from": a, "to": b, "through": t, "weight": w} for (a, b, t), w in self.edges.items()],
        }  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write it as one JSON file, whole or not at all."""
        with (
            disk_errors(str(path), lambda: "choose a folder that is there and has room."),
            written(Path(path), replace=True) as file,
        ):
            file.write(json.dumps(self.as_dict(), indent=1).encode())

    @classmethod
    def load(cls, path: str | Path) -> "Circuit":
        """Read what `save` wrote; FileError says what is wrong with anything else."""
        if not Path(path).is_file():
            raise FileError(f"there is no file {str(path)!r}.")
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise FileError(f"{str(path)!r} is no JSON file: {error}.") from error
        if not isinstance(found, dict) or found.get("kind") != "circuit" or found.get("version") != VERSION:
            raise FileError(f"{str(path)!r} holds no circuit of version {VERSION}.")
        try:
            nodes = {Node.of(n["node"]): float(n["weight"]) for n in found["nodes"]}
            roles = {Node.of(n["node"]): str(n["role"]) for n in found["nodes"] if n["role"]}
            edges = {(e["from"], e["to"], e["through"]): float(e["weight"]) for e in found["edges"]}
            return cls(nodes, edges, roles, str(found["model"]), str(found["about"]))
        except (KeyError, TypeError, ValueError, InputError) as error:
            raise FileError(f"{str(path)!r} is damaged: {error}.") from error


def circuit_of(heads: Iterable[tuple[int, int]], mlps: Iterable[int] = (), **more: Any) -> Circuit:
    """A circuit of these heads and MLPs, each with weight 1."""
    nodes = {Node(layer, head): 1.0 for layer, head in heads} | {Node(layer): 1.0 for layer in mlps}
    return Circuit(nodes, **more)
