"""An attribution graph: nodes at positions of one prompt, with what each adds to each; the file of circuit-tracer and
Neuronpedia, read and written without loss.

One JSON object of four parts. `metadata`: slug, scan (the model's name), prompt, prompt_tokens; `qParams`: what is
pinned; `nodes`: node_id, feature, layer ("E" for the embedding), ctx_idx (the position), feature_type, jsNodeId, clerp
(a label), and perhaps influence and activation; `links`: source, target, weight. Whatever else is in it is kept.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inscape.core.circuit import LOGITS, Circuit, Edge, Node
from inscape.core.durable import disk_errors, written
from inscape.core.errors import FileError, InputError

HEAD, MLP = "attention head", "mlp"  # ours; the others are circuit-tracer's
EMBEDDING, LOGIT = "embedding", "logit"
FEATURES = ("cross layer transcoder", "transcoder", "mlp reconstruction error")  # parts of what an MLP adds
TYPES = (HEAD, MLP, EMBEDDING, LOGIT, *FEATURES)
OTHERS = ("refuse", "drop")

_Kinds = dict[str, tuple[type, ...]]
_TEXT, _WHOLE, _NUMBER = (str,), (int,), (int, float)
_METADATA: _Kinds = {"slug": _TEXT, "scan": _TEXT, "prompt_tokens": (list,), "prompt": _TEXT}
_NODE: _Kinds = {
    "node_id": _TEXT, "feature": (int, type(None)), "layer": (str, int), "ctx_idx": _WHOLE, "feature_type": _TEXT,
    "jsNodeId": _TEXT, "clerp": _TEXT,
}  # fmt: skip
_PERHAPS: _Kinds = {"influence": (*_NUMBER, type(None)), "activation": (*_NUMBER, type(None))}
_LINK: _Kinds = {"source": _TEXT, "target": _TEXT, "weight": _NUMBER}
_Q: _Kinds = {"pinnedIds": (list,), "supernodes": (list,), "linkType": _TEXT, "clickedId": _TEXT, "sg_pos": _TEXT}
_WORDS = {str: "text", int: "a whole number", float: "a number", list: "a list", type(None): "null", dict: "an object"}


@dataclass(frozen=True, eq=False)
class AttributionGraph:
    """The four parts of the file, as they are in it; fields we do not know are kept.

    extra: further parts beside the four. Made by `load`, or by `of` from a circuit; checked when made.
    Raises: InputError for parts that are missing, of another kind, or links to nodes that are not there.
    """

    metadata: Mapping[str, Any]
    nodes: Sequence[Mapping[str, Any]]
    links: Sequence[Mapping[str, Any]]
    qparams: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("metadata", self.metadata, _METADATA)
        odd = next((t for t in self.metadata["prompt_tokens"] if not isinstance(t, str)), None)
        if odd is not None:
            raise InputError(f"metadata.prompt_tokens holds {odd!r}; it is a list of texts, one a token.")
        _check("qParams", self.qparams, {}, _Q)
        for i, node in enumerate(self.nodes):
            _check(f"nodes[{i}]", node, _NODE, _PERHAPS)
        known = {n["node_id"] for n in self.nodes}
        for i, link in enumerate(self.links):
            _check(f"links[{i}]", link, _LINK)
            lost = next((link[end] for end in ("source", "target") if link[end] not in known), None)
            if lost is not None:
                raise InputError(f"links[{i}] has an end {lost!r} that is no node_id among {len(known)} nodes.")

    @property
    def tokens(self) -> tuple[str, ...]:
        """The prompt's tokens."""
        return tuple(self.metadata["prompt_tokens"])

    @property
    def types(self) -> dict[str, int]:
        """feature_type -> how many nodes."""
        return dict(Counter(n["feature_type"] for n in self.nodes))

    @property
    def ambiguous(self) -> tuple[str, ...]:
        """node_ids of several nodes. Older files have them: an error node "0_5_3" (of layer 5) is called as feature 5
        of layer 0 is, so that links to it mean either."""
        return tuple(i for i, n in Counter(n["node_id"] for n in self.nodes).items() if n > 1)

    def __repr__(self) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.types.items())
        return (
            f"AttributionGraph({self.metadata['slug']!r} of {self.metadata['scan']}: {kinds}; {len(self.links)} links)"
        )

    def draw(self, **how: Any) -> Any:
        """A view to click in, in a notebook or saved as .html, .svg or .png: see `view.drawn.draw`."""
        from inscape.view.drawn import draw

        return draw(self, **how)

    # -- files ---------------------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """The file's content."""
        return {
            "metadata": dict(self.metadata), "qParams": dict(self.qparams), "nodes": [dict(n) for n in self.nodes],
            "links": [dict(x) for x in self.links], **self.extra,
        }  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write it as one JSON file, whole or not at all; every number comes back as it was."""
        with (
            disk_errors(str(path), lambda: "choose a folder that is there and has room."),
            written(Path(path), replace=True) as file,
        ):
            file.write(json.dumps(self.as_dict(), ensure_ascii=False, allow_nan=False).encode())

    @classmethod
    def load(cls, path: str | Path) -> "AttributionGraph":
        """Read a graph of circuit-tracer, of Neuronpedia or our own. Raises: FileError for anything else."""
        if not Path(path).is_file():
            raise FileError(f"there is no file {str(path)!r}.")
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_not_json)
        except (ValueError, OSError, RecursionError) as error:
            raise FileError(f"{str(path)!r} is no JSON file: {error}.") from error
        parts = ("metadata", "qParams", "nodes", "links")
        lost = [p for p in parts if p not in found] if isinstance(found, dict) else list(parts)
        if lost:
            raise FileError(
                f"{str(path)!r} is no attribution graph: it has no {' and no '.join(lost)}.\n"
                "  a graph file of circuit-tracer or Neuronpedia has metadata, qParams, nodes and links."
            )
        try:
            if not all(isinstance(found[p], list) for p in ("nodes", "links")):
                raise InputError("nodes and links are lists.")
            extra = {k: v for k, v in found.items() if k not in parts}
            return cls(found["metadata"], found["nodes"], found["links"], found["qParams"], extra)
        except InputError as error:
            raise FileError(f"{str(path)!r} is no attribution graph: {error}") from error

    # -- circuits ------------------------------------------------------------------------------------------------

    @classmethod
    def of(
        cls, circuit: Circuit, tokens: Iterable[str], *, slug: str, scan: str, says: str = "", n_layers: int = 0
    ) -> "AttributionGraph":  # fmt: skip
        """A circuit as a graph of one prompt, to be looked at where such graphs are.

        A circuit is of heads and MLPs, not of positions: every node stands at the last token, and the description says
        so. Heads and MLPs have feature types that the website does not know and draws plainly; an edge's way in (q, k,
        v) is the link's field "through". Roles become labels and supernodes.
        tokens: of the prompt. slug: the graph's name. scan: the model's name there, "gemma-2-2b". says: the token that
        the logits node stands for. n_layers: of the model; one more than the highest node's when left out.
        Raises: InputError without tokens.
        """
        words = [str(t) for t in tokens]
        if not words:
            raise InputError("an attribution graph needs the tokens of its prompt.")
        last = len(words) - 1
        top = n_layers or 1 + max((n.layer for n in circuit.nodes), default=0)
        nodes = [_node_of(n, last, circuit) for n in sorted(circuit.nodes)]
        ids = {str(n): made["node_id"] for n, made in zip(sorted(circuit.nodes), nodes, strict=True)}
        if any(b == LOGITS for _, b, _ in circuit.edges):
            label = f"Output {json.dumps(says, ensure_ascii=False)}" if says else "logits"
            ids[LOGITS] = f"{top + 1}_logits_{last}"
            nodes.append(_fields(ids[LOGITS], None, str(top + 1), last, LOGIT, f"L_logits-{last}", label))
        links = [
            {"source": ids[a], "target": ids[b], "weight": w, **({"through": t} if t else {})}
            for (a, b, t), w in circuit.edges.items()
        ]
        groups = {role: [ids[str(n)] for n in circuit.of_role(role)] for role in dict.fromkeys(circuit.roles.values())}
        metadata = {
            "slug": slug, "scan": scan, "prompt_tokens": words, "prompt": "".join(words), "schema_version": 1,
            "info": {
                "description": f"{circuit.about or 'a circuit'}; nodes are heads and MLPs at all positions together, "
                "drawn at the last token",
                "generator": {"name": "inscape"},
            },
        }  # fmt: skip
        pinned = {
            "pinnedIds": [n["node_id"] for n in nodes], "supernodes": [[r, *m] for r, m in groups.items()],
            "linkType": "both", "clickedId": "", "sg_pos": "",
        }  # fmt: skip
        return cls(metadata, nodes, links, pinned)

    def circuit(self, *, others: str = "refuse") -> Circuit:
        """The graph as a circuit of heads, MLPs, the embedding and the logits; positions are summed over.

        An MLP's features and what they fail to explain (error nodes) are parts of that MLP: links between two nodes of
        the circuit are added up, signs kept, and those inside one node are left out. That is coarse: features of one
        MLP that work against each other are not told apart.
        others: "refuse" nodes of other types (attention features, which know their layer and no head), or "drop" them.
        Raises: InputError for these, and for ids that mean two nodes.
        """
        if others not in OTHERS:
            raise InputError(f"others={others!r}: it can be 'refuse' or 'drop'.")
        if self.ambiguous:
            raise InputError(
                f"{len(self.ambiguous)} ids of this graph mean two nodes each ({', '.join(self.ambiguous[:3])}), so "
                "its links are unclear.\n  make it again with a newer circuit-tracer, which names error nodes apart."
            )
        at = {n["node_id"]: _part_of(n) for n in self.nodes}
        unknown = [n for n in self.nodes if at[n["node_id"]] is None]
        if unknown and others == "refuse":
            kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(u["feature_type"] for u in unknown).items())
            raise InputError(
                f"no node of a circuit stands for {kinds}; known are {', '.join(TYPES)}.\n"
                "  give others='drop' to leave them and their links out."
            )
        edges: dict[Edge, float] = {}
        for link in self.links:
            a, b = at[link["source"]], at[link["target"]]
            if a is None or b is None or a in (b, LOGITS):
                continue
            key = (a, b, str(link.get("through", "mlp" if b.endswith("mlp") else "")))
            edges[key] = edges.get(key, 0.0) + float(link["weight"])
        names = dict.fromkeys(x for x in at.values() if x is not None and x != LOGITS)
        weights = {x: max((abs(w) for (a, _, _), w in edges.items() if a == x), default=0.0) for x in names}
        roles = {
            x: group[0] for group in self.qparams.get("supernodes", []) for x in map(at.get, group[1:]) if x in names
        }
        made = {Node.of(x): w for x, w in weights.items()}
        about = f"attribution graph {self.metadata['slug']!r} of {self.metadata['scan']}"
        return Circuit(
            dict(sorted(made.items())),
            edges,
            {Node.of(x): str(r) for x, r in roles.items() if x is not None},
            "",
            about,
        )


def _node_of(node: Node, last: int, circuit: Circuit) -> dict[str, Any]:
    role = circuit.roles.get(node, "")
    if node.layer < 0:
        return _fields(f"E_all_{last}", None, "E", last, EMBEDDING, f"E_all-{last}", role or "embedding")
    kind, name = (MLP, "mlp") if node.head is None else (HEAD, f"h{node.head}")
    label = f"{'MLP' if node.head is None else 'head'} {node}{f' ({role})' if role else ''}"
    layer = str(node.layer)
    return _fields(f"{layer}_{name}_{last}", node.head, layer, last, kind, f"{layer}_{name}-{last}", label)


def _fields(node_id: str, feature: int | None, layer: str, at: int, kind: str, js: str, label: str) -> dict[str, Any]:
    return {
        "node_id": node_id, "feature": feature, "layer": layer, "ctx_idx": at, "feature_type": kind, "jsNodeId": js,
        "clerp": label,
    }  # fmt: skip


def _part_of(node: Mapping[str, Any]) -> str | None:
    """The circuit's node that this one is a part of; None for types that we do not know."""
    kind, layer = node["feature_type"], str(node["layer"])
    if kind == EMBEDDING:
        return "embed"
    if kind == LOGIT:
        return LOGITS
    if not layer.isdigit():
        return None
    if kind == HEAD and node["feature"] is not None:
        return f"{layer}.{node['feature']}"
    return f"{layer}.mlp" if kind == MLP or kind in FEATURES else None


def _check(where: str, given: Any, needed: _Kinds, perhaps: _Kinds | None = None) -> None:
    if not isinstance(given, Mapping):
        raise InputError(f"{where} is {_said(given)}; it is an object with named fields.")
    for name, kinds in {**needed, **(perhaps or {})}.items():
        if name not in given:
            if name in needed:
                raise InputError(f"{where} has no {name!r}; it has {', '.join(map(str, given)) or 'nothing'}.")
            continue
        value = given[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            wanted = " or ".join(_WORDS[k] for k in kinds)
            raise InputError(f"{where}.{name} is {_said(value)}; it is {wanted}.")


def _said(value: Any) -> str:
    return f"{value!r:.60}"


def _not_json(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
