"""Random circuits of as many edges: what a found one has to beat."""

import random
from collections.abc import Sequence

import torch

from inscape.circuits.edges.wiring import Keep, Wiring

TRIES = 200  # paths that did not fit, in a row, until a set is taken as full


def random_edges(wiring: Wiring, n: int, seed: int) -> Keep:
    """n edges drawn from all of them, loose ends included: most carry nothing, so this is easy to beat."""
    where = wiring.allowed.nonzero()
    chosen = where[torch.randperm(len(where), generator=torch.Generator().manual_seed(seed))[:n]]
    keep = torch.zeros_like(wiring.allowed)
    keep[chosen[:, 0], chosen[:, 1]] = True
    return keep


def random_paths(wiring: Wiring, n: int, seed: int) -> Keep:
    """Paths from the logits back to the embedding, drawn step by step, until n edges are there (or none more fits).

    Every edge of such a set can carry something, as in a circuit that was found.
    """
    rng = random.Random(seed)
    keep = torch.zeros_like(wiring.allowed)
    taken: set[tuple[int, int]] = set()
    ends = (~wiring.reads_for.any(1)).nonzero().flatten().tolist()
    feeding = [wiring.reads_for[:, w].nonzero().flatten().tolist() for w in range(len(wiring.writers))]
    missed = 0
    while len(taken) < n and missed < TRIES:
        new = set(_path(wiring, rng, ends, feeding)) - taken
        missed = 0 if new and len(taken) + len(new) <= n else missed + 1
        if not missed:
            taken |= new
    for edge in taken:
        keep[edge] = True
    return keep


def _path(
    wiring: Wiring, rng: random.Random, ends: Sequence[int], feeding: Sequence[Sequence[int]]
) -> list[tuple[int, int]]:
    path, readers = [], ends
    while readers:
        r = rng.choice(readers)
        w = rng.randrange(wiring.readers[r].before)
        path.append((w, r))
        readers = feeding[w]
    return path
