"""A circuit of the n best edges by any score: grown from the logits, so that every edge leads somewhere."""

import heapq
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.attribution.edges import EdgeScores
from inscape.circuits.edges.wiring import Keep, Wiring
from inscape.core.circuit import Circuit
from inscape.core.errors import InputError
from inscape.models.model import Model


def best_edges(model: Model, scores: EdgeScores, n: int) -> Circuit:
    """The circuit of at most n edges with the largest |score| that hang together.

    Grown from the logits: the largest edge into what is in the circuit already is taken next; edges that no path from
    the embedding reaches do not count and are left out. Choose it for a first look, for large models and for a curve
    over n (`edge_faithfulness` takes several circuits); it believes its scores, which are estimates one edge at a time.
    scores: of `edge_attribution` on this model; steps=5 or more is EAP-IG, the better ranking of the two.
    Cost: none beside the scores, which are some backward passes.
    Raises: InputError for less than one edge, or scores of another model.
    Source: Syed et al. 2023, arXiv:2310.10348; Hanna et al. 2024, arXiv:2403.17806. Ours counts edges after loose ends
    are gone, theirs before.
    """
    wiring = Wiring.of(model, split_of(scores))
    values = on_wiring(wiring, scores)
    order = grown(wiring, values.abs())
    about = f"best {n} edges of edge attribution, {len(scores.metric[0])} pairs"
    return wiring.circuit(first_connected(wiring, order, n), values, about)


def split_of(scores: EdgeScores) -> str:
    """Which split= the scores were made with."""
    queries = [r for r in scores.readers if ".attn.q" in r]
    return "whole" if not queries else "qkv" if queries[0].endswith(".q") else "heads"


def on_wiring(wiring: Wiring, scores: EdgeScores) -> Float[Tensor, "writer reader"]:
    """The scores in the order of the wiring; edges that are none have 0."""
    writers, readers = [w.name for w in wiring.writers], [r.name for r in wiring.readers]
    lost = [x for x in (*writers, *readers) if x not in scores.writers and x not in scores.readers]
    if lost:
        raise InputError(
            f"these scores say nothing of {lost[0]}, which this model has.\n  make them with edge_attribution on it."
        )
    rows = [scores.writers.index(w) for w in writers]
    columns = [scores.readers.index(r) for r in readers]
    return scores.values[rows][:, columns].nan_to_num(0.0) * wiring.allowed


def grown(wiring: Wiring, size: Float[Tensor, "writer reader"]) -> list[tuple[int, int]]:
    """All edges in the order in which they are taken: always the largest into what is in already, from the logits on.

    Ties go to the later writer. Readers of a node come in with the first edge out of it.
    """
    order: list[tuple[int, int]] = []
    heap: list[tuple[float, int, int]] = []
    inside: set[int] = set()
    known: set[int] = set()

    def open_reader(r: int) -> None:
        if r not in known:
            known.add(r)
            for w in range(wiring.readers[r].before):
                heapq.heappush(heap, (-float(size[w, r]), -w, r))

    for r in (~wiring.reads_for.any(1)).nonzero().flatten().tolist():
        open_reader(r)
    while heap:
        _, w, r = heapq.heappop(heap)
        w = -w
        order.append((w, r))
        if w not in inside:
            inside.add(w)
            for other in wiring.reads_for[:, w].nonzero().flatten().tolist():
                open_reader(other)
    return order


def first_connected(wiring: Wiring, order: Sequence[tuple[int, int]], n: int, *, or_more: bool = False) -> Keep:
    """The longest beginning of this order that has at most n edges once its loose ends are gone.

    or_more: take the shortest beginning that reaches the embedding where even that has more.
    Raises: InputError for n below one, or without or_more below the edges of that shortest beginning.
    """
    if n < 1:
        raise InputError(f"n={n}: a circuit has at least one edge.")

    def kept(length: int) -> Keep:
        keep = torch.zeros_like(wiring.allowed)
        where = torch.tensor(list(order[:length])).reshape(-1, 2)
        keep[where[:, 0], where[:, 1]] = True
        return wiring.connected(keep)

    low, high = 0, len(order)
    while low < high:  # what hangs together only grows along the order
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(kept(middle).sum()) <= n else (low, middle - 1)
    found = kept(low)
    if not bool(found.any()):
        while low < len(order) and not bool(found.any()):
            low += 1
            found = kept(low)
        if not or_more:
            raise InputError(
                f"n={n}: with these scores the smallest circuit from the embedding to the logits has "
                f"{int(found.sum())} edges."
            )
    return found
