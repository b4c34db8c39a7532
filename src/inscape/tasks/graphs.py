"""Graphs as matrices of links: grid, ring, hexagonal lattice, and random ones to learn from."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from inscape.core.errors import InputError

Links = Bool[Tensor, "node node"]


def grid(rows: int = 4, columns: int = 4) -> Links:
    """A square grid; node `row * columns + column`."""
    _positive("grid", rows=rows, columns=columns)
    place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    return (place[:, None] - place).abs().sum(-1) == 1


def ring(nodes: int = 10) -> Links:
    """A ring; each node is linked to the one before and the one after."""
    if nodes < 3:
        raise InputError(f"ring({nodes}): a ring has at least 3 nodes.")
    step = (torch.arange(nodes)[:, None] - torch.arange(nodes)).abs()
    return (step == 1) | (step == nodes - 1)


def hexagonal(rows: int = 3, columns: int = 3) -> Links:
    """`rows` x `columns` hexagons side by side as in a honeycomb: nodes are their corners, links their sides.

    3 x 3 hexagons have 30 corners. It is a brick wall: a grid of rows + 1 by 2 columns + 2 whose upright links are
    every second one, without the corners that end up with one link.
    """
    _positive("hexagonal", rows=rows, columns=columns)
    height, width = rows + 1, 2 * columns + 2
    links = torch.zeros(height * width, height * width, dtype=torch.bool)
    for r in range(height):
        for c in range(width):
            if c + 1 < width:
                links[r * width + c, r * width + c + 1] = True
            if r + 1 < height and (r + c) % 2 == 0:
                links[r * width + c, (r + 1) * width + c] = True
    links |= links.T.clone()
    kept = links.sum(1) > 1
    return links[kept][:, kept]


def random_connected(nodes: int, degree: float, generator: torch.Generator) -> Links:
    """A random tree over all nodes, and random links until the mean number of links a node is `degree`."""
    order = torch.randperm(nodes, generator=generator)
    links = torch.zeros(nodes, nodes, dtype=torch.bool)
    for i in range(1, nodes):
        j = int(torch.randint(i, (), generator=generator))
        links[order[i], order[j]] = True
    links |= links.T.clone()
    free = (~links).triu(1).nonzero()
    more = min(len(free), max(0, round(nodes * degree / 2) - (nodes - 1)))
    chosen = free[torch.randperm(len(free), generator=generator)[:more]]
    links[chosen[:, 0], chosen[:, 1]] = True
    return links | links.T


def nearest_places(nodes: int, links_each: int, generator: torch.Generator) -> Links:
    """Random places in a square, each linked to its nearest ones, and the parts joined where they are closest."""
    place = torch.rand(nodes, 2, generator=generator)
    apart = torch.cdist(place, place) + torch.eye(nodes) * 9
    links = torch.zeros(nodes, nodes, dtype=torch.bool)
    links.scatter_(1, apart.topk(min(links_each, nodes - 1), largest=False).indices, True)
    links |= links.T.clone()
    while not bool((part := reached(links, 0)).all()):
        between = apart.masked_fill(~(part[:, None] & ~part), torch.inf)
        i, j = divmod(int(between.argmin()), nodes)
        links[i, j] = links[j, i] = True
    return links


def reached(links: Links, start: int) -> Bool[Tensor, " node"]:
    """The nodes that can be reached from one."""
    seen = torch.zeros(len(links), dtype=torch.bool)
    seen[start] = True
    for _ in range(len(links)):
        seen = seen | links[seen].any(0)
    return seen


NAMED: Mapping[str, Callable[..., Links]] = {"grid": grid, "ring": ring, "hex": hexagonal}


def links_of(graph: Any, **size: int) -> Links:
    """A named graph ("grid", "ring", "hex") with its size, or a matrix of links of your own, checked.

    Raises: InputError for an unknown name, a matrix that is not square and symmetric, a node linked to itself or to
    nobody, a graph in several parts.
    """
    if isinstance(graph, str):
        if graph not in NAMED:
            raise InputError(
                f"graph={graph!r}: named ones are {', '.join(NAMED)}.\n"
                "  any other is a square matrix that is true where two nodes are linked."
            )
        links = NAMED[graph](**size)
    else:
        if size:
            raise InputError(f"graph is a matrix, which has its size; leave {', '.join(size)}= out.")
        links = torch.as_tensor(graph) != 0
    if links.ndim != 2 or links.shape[0] != links.shape[1] or not torch.equal(links, links.T):
        raise InputError(
            f"the links have the shape {tuple(links.shape)} and are not a symmetric square: give one row and one column"
            " a node, and each link both ways."
        )
    if bool(links.diagonal().any()):
        raise InputError(f"node {int(links.diagonal().nonzero()[0])} is linked to itself: clear the diagonal.")
    if len(links) < 2 or not bool(reached(links, 0).all()):
        away = (~reached(links, 0)).nonzero().flatten().tolist() if len(links) else []
        raise InputError(
            f"a walk from node 0 cannot reach the nodes {away[:8]}: the graph needs two nodes and one part.\n"
            "  give each part as a graph of its own."
        )
    return links


def walk(links: Bool[Tensor, "row node node"], length: int, generator: torch.Generator) -> Int[Tensor, "row length"]:
    """A uniform random walk on each of these graphs, from a random node that has links: nodes [row, length]."""
    chances = links.float()
    at = torch.multinomial((chances.sum(2) > 0).float(), 1, generator=generator)
    out, row = [at], torch.arange(len(links))
    for _ in range(length - 1):
        at = torch.multinomial(chances[row, at[:, 0]], 1, generator=generator)
        out.append(at)
    return torch.cat(out, 1)


def _positive(name: str, **sizes: int) -> None:
    wrong = {k: v for k, v in sizes.items() if v < 1}
    if wrong:
        raise InputError(f"{name}({', '.join(f'{k}={v}' for k, v in sizes.items())}): sizes count from 1.")
