"""Who may look at whom, by layer, as plans of attention edits: peeking positions, hop windows over groups of tokens."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.edits.attend import attend
from inscape.core.edits.relate import relate
from inscape.core.errors import EditError
from inscape.core.positions import At

Layers = str | int | Sequence[str | int]
Spans = Sequence[tuple[int, int]]


def peek(layers: Layers, viewers: At, targets: At = (), *, self: bool = True, bos: bool = True) -> list[Edit]:
    """Let the viewers look at the targets, at themselves and at the first token, and at nothing else.

    layers: names ("layers.3", "layers.*") or numbers. viewers, targets: positions as in at=; targets=() leaves the
    viewers alone, None is every position. What the model hides itself (the future, padding, what lies outside a sliding
    window) stays hidden; a viewer that is left with nothing to look at gets nothing. Positions counted from the end
    move as a text grows: in `generate`, name the positions of the prompt from its start.
    Choose it to cut a sequence into tokens that do not know each other; choose `relation` for groups of tokens.
    Cost: the pattern of these layers is computed by hand, [batch, head, query, key]; the others keep their kernel.
    """
    return [attend(name, "only", keys=targets, at=viewers, own=self, first=bos) for name in _names(layers)]


def relation(
    layers: Layers, spans: Spans | Sequence[Spans], adjacency: Shaped[Tensor, "*row node node"], hops: int = 1
) -> list[Edit]:
    """Let the tokens of a node look at those of another only where `hops` links lead from one to the other.

    With S = A or A' or I, node i sees node j where (S^hops)_ij > 0; tokens of no node see and are seen as ever.
    spans: (start, stop) of each node's real tokens, one list for every row or a list a row. adjacency: links [node,
    node] or [row, node, node], any non-zero entry; the direction of a link does not count. hops: at least the graph's
    diameter leaves all connected nodes open. Nodes never see later ones: a decoder's causal mask is not opened.
    Cost: as `peek`. Raises: EditError for overlapping or empty spans, hops below 1, an adjacency of another size.
    Source: Guo et al. 2025, arXiv:2505.02130; theirs can also open the future inside the node block.
    """
    if hops < 1:
        raise EditError(f"relation: hops={hops}; a node needs at least 1, its own neighbours.")
    if not len(spans):
        raise EditError("relation: there are no spans; give (start, stop) of every node.")
    rows: list[Spans] = [spans] if isinstance(spans[0][0], int) else list(spans)  # type: ignore[list-item]
    links = adjacency if adjacency.ndim == 3 else adjacency[None]
    n_nodes = max(len(row) for row in rows)
    if links.shape[-1] != links.shape[-2] or links.shape[-1] < n_nodes:
        raise EditError(
            f"relation: {n_nodes} spans are given, and an adjacency of {tuple(adjacency.shape)}; "
            "it is [node, node], or [row, node, node], in the order of the spans."
        )
    groups = torch.full((len(rows), max(stop for row in rows for _, stop in row)), -1)
    for number, row in enumerate(rows):
        _fill(groups[number], row, number)
    allowed = reach(links, hops)
    return [relate(name, groups, allowed if len(allowed) > 1 else allowed[0]) for name in _names(layers)]


def reach(adjacency: Shaped[Tensor, "*row node node"], hops: int) -> Bool[Tensor, "*row node node"]:
    """Which nodes lie at most `hops` links apart, in either direction of a link; every node reaches itself."""
    linked = adjacency != 0
    near = linked | linked.transpose(-1, -2) | torch.eye(linked.shape[-1], dtype=torch.bool, device=linked.device)
    far = near
    for _ in range(min(hops, linked.shape[-1]) - 1):
        far = (far.float() @ near.float()) > 0
    return far


def _fill(groups: Tensor, row: Spans, number: int) -> None:
    for node, (start, stop) in enumerate(row):
        if not 0 <= start < stop:
            raise EditError(f"relation: span {node} of row {number} is ({start}, {stop}); write 0 <= start < stop.")
        taken = groups[start:stop][groups[start:stop] >= 0]
        if len(taken):
            raise EditError(
                f"relation: spans {int(taken[0])} and {node} of row {number} overlap; a token belongs to one node."
            )
        groups[start:stop] = node


def _names(layers: Layers) -> list[str]:
    given = [layers] if isinstance(layers, (str, int)) else list(layers)
    return [f"layers.{x}" if isinstance(x, int) else str(x) for x in given]
