"""The data of the circuit view: what stands where, and what runs between; layers upwards, heads or positions across."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from inscape.core.attribution_graph import AttributionGraph
from inscape.core.circuit import LOGITS, Circuit, Node
from inscape.core.errors import ShapeError

MAX_EDGES = 4000  # drawn at once; of more, the largest
MAX_NODES = 3000
SIDE = 0.42  # half the width that nodes of one place share, in columns


def circuit(
    given: Circuit | AttributionGraph, *, label: str = "", about: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Data for a `Figure("circuit", ...)`, placed: x in columns, y in rows, counted from the lower left.

    A circuit has its heads side by side, each layer's MLP above and to the right of them, the embedding below and the
    logits on top. An attribution graph has its nodes at the positions of its prompt. Rows without a node are left out.
    about: node ("9.6", or a node_id) -> what the tooltip says of it.
    Of more than 4,000 edges the largest are kept, and the view says so.
    Raises: ShapeError for a circuit without nodes, or more than 3,000 of them.
    """
    found = _of_circuit(given) if isinstance(given, Circuit) else _of_graph(given)
    nodes, edges = found["nodes"], found["edges"]
    if not nodes:
        raise ShapeError("this circuit has no nodes to draw.\n  lower the threshold it was found with.")
    if len(nodes) > MAX_NODES:
        raise ShapeError(
            f"{len(nodes):,} nodes are more than a page can show; it stays quick up to {MAX_NODES:,}.\n"
            "  prune the graph first, or draw its .circuit()."
        )
    edges.sort(key=lambda e: -abs(e["weight"]))
    for node in nodes:
        node["about"] = str((about or {}).get(node["id"], node.get("about", "")))
    most = max((abs(e["weight"]) for e in edges), default=1.0) or 1.0
    return {
        **found, "edges": edges[:MAX_EDGES], "left_out": max(0, len(edges) - MAX_EDGES), "most": _short(most),
        "roles": list(dict.fromkeys(n["role"] for n in nodes if n["role"])), "label": label,
    }  # fmt: skip


def _of_circuit(given: Circuit) -> dict[str, Any]:
    heads = sorted({n.head for n in given.nodes if n.head is not None})
    column = {h: i for i, h in enumerate(heads)}
    wide = max(1, len(heads))
    has_logits = any(b == LOGITS for _, b, _ in given.edges)
    levels = sorted({_level(n) for n in given.nodes})
    row = {level: i for i, level in enumerate(levels)}
    middle = (wide - 1) / 2
    nodes = []
    for n in sorted(given.nodes):
        kind = "head" if n.head is not None else "mlp" if n.layer >= 0 else "embed"
        x = column[n.head] if n.head is not None else wide if n.layer >= 0 else middle
        name = f"head {n.head} of layer {n.layer}" if kind == "head" else f"MLP of layer {n.layer}"
        nodes.append(
            {
                "id": str(n), "name": str(n), "about": "token embedding" if kind == "embed" else name, "kind": kind,
                "x": float(x), "y": row[_level(n)], "role": given.roles.get(n, ""),
                "weight": _short(float(given.nodes[n])),
            }
        )  # fmt: skip
    if has_logits:
        nodes.append(
            {
                "id": LOGITS, "name": LOGITS, "about": "the prediction", "kind": "logits", "x": middle,
                "y": len(levels), "role": "", "weight": None,
            }
        )  # fmt: skip
    names = [_row_name(level, levels) for level in levels] + [""] * has_logits
    edges = [{"from": a, "to": b, "through": t, "weight": _short(float(w))} for (a, b, t), w in given.edges.items()]
    has_mlp = any(n.head is None and n.layer >= 0 for n in given.nodes)
    columns = [f"head {h}" for h in heads] + ["MLP"] * has_mlp
    return {"nodes": nodes, "edges": edges, "rows": names, "columns": columns if heads or has_mlp else [""]}


def _level(node: Node) -> tuple[int, int]:
    """A layer's heads come before its MLP, which may hear them."""
    return (node.layer, int(node.head is None and node.layer >= 0))


def _row_name(level: tuple[int, int], levels: Sequence[tuple[int, int]]) -> str:
    """A layer is named once, at its heads where it has some."""
    layer, is_mlp = level
    return "" if layer < 0 or (is_mlp and (layer, 0) in levels) else f"layer {layer}"


def _of_graph(given: AttributionGraph) -> dict[str, Any]:
    groups = {i: str(g[0]) for g in given.qparams.get("supernodes", []) if g for i in g[1:]}
    depth = {i: _depth(n) for i, n in enumerate(given.nodes)}
    row = {level: i for i, level in enumerate(sorted(set(depth.values())))}
    seats: dict[tuple[int, int], list[int]] = {}
    for i, n in enumerate(given.nodes):
        seats.setdefault((depth[i], n["ctx_idx"]), []).append(i)
    shift = {i: _seat(k, len(group)) for group in seats.values() for k, i in enumerate(group)}
    first: dict[str, str] = {}
    nodes = []
    for i, n in enumerate(given.nodes):
        own = n["node_id"] if n["node_id"] not in first else f"{n['node_id']} ({i})"
        first.setdefault(n["node_id"], own)
        weight = n.get("influence") if n.get("influence") is not None else n.get("activation")
        nodes.append(
            {
                "id": own, "name": n["clerp"] or n["node_id"], "about": f"{n['feature_type']}, {n['node_id']}",
                "kind": _kind(n["feature_type"]), "x": float(n["ctx_idx"] + shift[i]), "y": row[depth[i]],
                "role": groups.get(n["node_id"], ""), "weight": _short(float(weight)) if weight is not None else None,
            }
        )  # fmt: skip
    edges = [
        {
            "from": e["source"],
            "to": e["target"],
            "through": str(e.get("through", "")),
            "weight": _short(float(e["weight"])),
        }
        for e in given.links
    ]
    top = {depth[i] for i, n in enumerate(given.nodes) if n["feature_type"] == "logit"}
    names = ["" if d < 0 or d in top else f"layer {d}" for d in sorted(row)]
    return {"nodes": nodes, "edges": edges, "rows": names, "columns": list(given.tokens)}


def _depth(node: Mapping[str, Any]) -> int:
    return -1 if not str(node["layer"]).isdigit() else int(node["layer"])


def _seat(k: int, n: int) -> float:
    return 0.0 if n == 1 else SIDE * (2 * k / (n - 1) - 1)


def _kind(feature_type: str) -> str:
    known = {"embedding": "embed", "logit": "logits", "attention head": "head", "mlp": "mlp"}
    return known.get(feature_type, "error" if "error" in feature_type else "feature")


def _short(value: float) -> float:
    return float(f"{value:.4g}") if math.isfinite(value) else 0.0
