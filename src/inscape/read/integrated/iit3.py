"""Integrated information as version 3.0 of the theory defines it, by exhaustive search.

1. Of every mechanism (a set of nodes in its state) and purview (a set of nodes before, or after) the repertoire: what
   the mechanism's state says about the purview's.
2. phi of the pair: the earth mover's distance to the nearest product of two independent parts. The purview with the
   largest is the core cause, or effect; the concept's phi is the smaller of the two.
3. The constellation: all concepts with phi > 0. Phi: how far it moves, at least, when the connections from one part of
   the network to the rest are cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, reduce

import numpy as np
from jaxtyping import Float

from inscape.core.extra import package
from inscape.read.integrated.causal import Causal, Nodes, causal_of, subsets
from inscape.read.integrated.moving import earth_mover

TINY = 1e-9
CAUSE, EFFECT = "cause", "effect"


@dataclass(frozen=True, eq=False)
class Core:
    """The purview about which a mechanism is least reducible, in one direction. repertoire: over all nodes."""

    phi: float
    purview: Nodes
    repertoire: Float[np.ndarray, " state"]


@dataclass(frozen=True, eq=False)
class Concept:
    """A mechanism with its core cause and core effect; phi is the smaller of both."""

    mechanism: Nodes
    cause: Core
    effect: Core

    @property
    def phi(self) -> float:
        return min(self.cause.phi, self.effect.phi)


@dataclass(frozen=True, eq=False)
class Integrated3:
    """Phi with what it comes from. phi: 0 for a network that is not strongly connected.

    concepts: those of the whole network. information: the distance of their constellation to the null concept.
    cut: (from, to) of the least harmful cut; None where there is none to try. nodes: of the candidate set.
    """

    phi: float
    concepts: tuple[Concept, ...]
    information: float
    cut: tuple[Nodes, Nodes] | None
    nodes: Nodes


def phi3(tpm: object, state: Sequence[int], nodes: Sequence[int] | None = None) -> Integrated3:
    """Phi of a candidate set of nodes in a state (all nodes without `nodes`; those outside are held as they are).

    Cost: every pair of mechanism and purview with all its partitions, for the network and each of its 2^n - 2 directed
    cuts: 0.1 s for 3 nodes, a second for 4, some minutes for 5 (7 s for the network and for each cut).
    Raises: as `causal_of`; MissingExtraError without scipy, where constellations have to be moved onto each other.
    Source: Oizumi, Albantakis & Tononi 2014, 10.1371/journal.pcbi.1003588; distances, cuts and ties as PyPhi 1 has them
    (equal phi: the larger purview). The earth mover's distance is exact without a linear program, see `moving`.
    """
    network = causal_of(tpm, state, nodes)
    chosen = tuple(range(network.n)) if nodes is None else tuple(sorted(set(nodes)))
    whole = constellation(network)
    null = _null(network)
    information = float(sum(c.phi * _apart(c, null) for c in whole))
    if not network.is_strongly_connected() or not whole:
        return Integrated3(0.0, whole, information, None, chosen)
    best, where = np.inf, None
    for source, target in _cuts(network.n):
        severed = np.zeros((network.n, network.n), bool)
        severed[np.ix_(source, target)] = True
        moved = _moved(whole, constellation(network.cut(severed)), null)
        if moved < best - TINY:
            best, where = moved, (source, target)
        if best < TINY:
            break
    return Integrated3(max(0.0, float(best)), whole, information, where, chosen)


def constellation(network: Causal) -> tuple[Concept, ...]:
    """Every mechanism that has a cause and an effect of its own."""
    repertoires = _Repertoires(network)
    found = []
    for mechanism in subsets(range(network.n)):
        effect = repertoires.core(mechanism, EFFECT)
        if effect.phi > TINY:
            cause = repertoires.core(mechanism, CAUSE)
            if cause.phi > TINY:
                found.append(Concept(mechanism, cause, effect))
    return tuple(found)


@dataclass(eq=False)
class _Repertoires:
    """Repertoires of one network, each computed once."""

    network: Causal
    _causes: dict[tuple[Nodes, Nodes], np.ndarray] = field(default_factory=dict)

    def cause(self, mechanism: Nodes, purview: Nodes) -> np.ndarray:
        """P(purview's past state | mechanism's state): an axis for every node, of two inside the purview, else of one,
        so that the product of two parts is a plain product."""
        known = self._causes.get((mechanism, purview))
        if known is None:
            known = np.ones([2 if i in purview else 1 for i in range(self.network.n)])
            for node in mechanism:
                on = self.network.on(node, purview).reshape(known.shape)
                known = known * (on if self.network.state[node] else 1 - on)
            total = known.sum()
            known = known / total if total > 0 else known
            self._causes[mechanism, purview] = known
        return known

    @cached_property
    def effects(self) -> Float[np.ndarray, "mechanism node"]:
        """P(node is on next | mechanism's state), by the mechanism's bits: an effect repertoire is their product."""
        n, out = self.network.n, []
        for bits in range(2**n):
            mechanism = _nodes(bits)
            at = [self.network.state[i] for i in mechanism]
            out.append([self.network.chance(node, mechanism, at, 1) for node in range(n)])
        return np.array(out)

    def core(self, mechanism: Nodes, direction: str) -> Core:
        """The purview of the largest phi; of equal ones the larger, then the first."""
        best: tuple[float, Nodes] = (0.0, ())
        for purview in subsets(range(self.network.n)):
            phi = self.phi_cause(mechanism, purview) if direction == CAUSE else self.phi_effect(mechanism, purview)
            if phi > best[0] + TINY or (phi > TINY and phi > best[0] - TINY and len(purview) > len(best[1])):
                best = (phi, purview)
        return Core(best[0], best[1], self.over_all(mechanism, best[1], direction))

    def phi_cause(self, mechanism: Nodes, purview: Nodes) -> float:
        whole = self.cause(mechanism, purview)
        if whole.sum() == 0:
            return 0.0
        halves, _ = _halves(mechanism, purview)
        split = [(self.cause(a, za) * self.cause(b, zb)).reshape(-1) for a, za, b, zb in halves]
        return float(earth_mover(whole.reshape(1, -1), np.stack(split)).min())

    def phi_effect(self, mechanism: Nodes, purview: Nodes) -> float:
        """Products on both sides: the earth mover's distance is the sum over nodes of |p - q|."""
        _, bits = _halves(mechanism, purview)
        whole, inside = (
            self.effects[_bits(mechanism)],
            [[(bits[:, side] >> i) & 1 for i in range(self.network.n)] for side in (1, 3)],
        )
        apart = [np.abs(whole - self.effects[bits[:, side]]) for side in (0, 2)]
        return float(sum((d * np.array(z).T).sum(1) for d, z in zip(apart, inside, strict=True)).min())

    def over_all(self, mechanism: Nodes, purview: Nodes, direction: str) -> Float[np.ndarray, " state"]:
        """A repertoire over all nodes: beside the purview the past is uniform, and the future as nothing says it."""
        n = self.network.n
        if direction == CAUSE:
            inside = self.cause(mechanism, purview)
            return (np.broadcast_to(inside, (2,) * n) / 2 ** (n - len(purview))).reshape(-1)
        on, free = self.effects[_bits(mechanism)], self.effects[0]
        return _product([on[i] if i in purview else free[i] for i in range(n)])


def _product(on: Sequence[float]) -> Float[np.ndarray, " state"]:
    return reduce(np.multiply.outer, [np.array([1 - p, p]) for p in on]).reshape(-1)


@cache
def _halves(mechanism: Nodes, purview: Nodes) -> tuple[list[tuple[Nodes, Nodes, Nodes, Nodes]], np.ndarray]:
    """Every way to part mechanism and purview in two, neither part wholly empty, each once: (mechanism, purview) of
    either part, as nodes and as bits."""
    m, z = len(mechanism), len(purview)
    out = []
    for mask in range(1, 2 ** (m + z - 1)):  # the last node of the purview always stays in the first part
        second = [(mask >> k) & 1 for k in range(m + z)]
        sides = [tuple(x for x, s in zip((*mechanism, *purview), second, strict=True) if s == part) for part in (0, 1)]
        first_m, second_m = m - sum(second[:m]), sum(second[:m])
        out.append((sides[0][:first_m], sides[0][first_m:], sides[1][:second_m], sides[1][second_m:]))
    return out, np.array([[_bits(part) for part in four] for four in out])


def _bits(nodes: Nodes) -> int:
    return sum(1 << i for i in nodes)


def _nodes(bits: int) -> Nodes:
    return tuple(i for i in range(bits.bit_length()) if (bits >> i) & 1)


def _cuts(n: int) -> list[tuple[Nodes, Nodes]]:
    """(from, to): every part with the rest, in both directions; a single node is cut from itself."""
    if n == 1:
        return [((0,), (0,))]
    return [(s, tuple(i for i in range(n) if i not in s)) for s in subsets(range(n)) if len(s) < n]


def _null(network: Causal) -> Concept:
    free = _Repertoires(network)
    return Concept((), Core(0.0, (), free.over_all((), (), CAUSE)), Core(0.0, (), free.over_all((), (), EFFECT)))


def _apart(a: Concept, b: Concept) -> float:
    """The distance of two concepts: that of their causes plus that of their effects."""
    return float(earth_mover(a.cause.repertoire, b.cause.repertoire)) + float(
        earth_mover(a.effect.repertoire, b.effect.repertoire)
    )


def _same(a: Concept, b: Concept) -> bool:
    if a.mechanism != b.mechanism or abs(a.phi - b.phi) > TINY:
        return False
    apart = (
        np.abs(a.cause.repertoire - b.cause.repertoire).max(),
        np.abs(a.effect.repertoire - b.effect.repertoire).max(),
    )
    return bool(max(apart) < TINY) and (a.cause.purview, a.effect.purview) == (b.cause.purview, b.effect.purview)


def _moved(whole: Sequence[Concept], cut: Sequence[Concept], null: Concept) -> float:
    """The cost of making one constellation of the other: phi moves, and what is left over goes to the null concept."""
    first = [c for c in whole if not any(_same(c, d) for d in cut)]
    second = [d for d in cut if not any(_same(c, d) for c in whole)]
    if not first or not second:
        return float(sum(c.phi * _apart(c, null) for c in (*first, *second)))
    have, want = sum(c.phi for c in first), sum(c.phi for c in second)
    supply = np.array([*(c.phi for c in first), max(0.0, want - have)])
    demand = np.array([*(c.phi for c in second), max(0.0, have - want)])
    cost = np.array([[_apart(a, b) for b in (*second, null)] for a in (*first, null)])
    cost[-1, -1] = 0.0
    return _transport(supply, demand, cost)


def _transport(supply: np.ndarray, demand: np.ndarray, cost: np.ndarray) -> float:
    optimize = package("scipy.optimize", "sklearn", "integrated information 3.0")
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    found = optimize.linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.r_[supply, demand], method="highs")
    return float(found.fun)
