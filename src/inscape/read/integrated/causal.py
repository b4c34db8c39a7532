"""A small binary network with its transition probabilities: what its parts say about what comes before or after.

States are numbered little-endian: bit i of a state's number is node i (state 1 has node 0 on). Probabilities are
`[state, node]`: P(node is on at t + 1 | state at t); nodes are independent given the past.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int

from inscape.core.errors import InputError, ShapeError

MOST_NODES = 5
Nodes = tuple[int, ...]
Tpm = Float[np.ndarray, "state node"]


def states_of(n: int) -> Int[np.ndarray, "state node"]:
    """Every state of n nodes, row k is the state of number k."""
    return (np.arange(2**n)[:, None] >> np.arange(n)) & 1


def number_of_state(state: Sequence[int]) -> int:
    """The number of a state: bit i is node i."""
    return sum(int(bool(on)) << i for i, on in enumerate(state))


def subsets(nodes: Iterable[int], at_least: int = 1) -> list[Nodes]:
    """Subsets of these nodes, by size and then in order."""
    nodes = tuple(nodes)
    held = [
        tuple(n for n, keep in zip(nodes, mask, strict=True) if keep) for mask in product((0, 1), repeat=len(nodes))
    ]
    return sorted((s for s in held if len(s) >= at_least), key=lambda s: (len(s), s))


class NoCauseError(InputError):
    """The network cannot have come to this state."""


@dataclass(frozen=True, eq=False)
class Causal:
    """A network of n nodes in a state, possibly with connections cut; `on(i, given)` is all that is asked of it.

    tpm: [2^n, n], see the module. state: 0 or 1 a node.
    """

    tpm: Tpm
    state: tuple[int, ...]
    _known: dict[tuple[int, Nodes], np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def n(self) -> int:
        return self.tpm.shape[1]

    def on(self, node: int, given: Nodes) -> Float[np.ndarray, "*given"]:
        """P(node on at t + 1 | the given nodes at t), the others uniform: an axis of two for every given node."""
        known = self._known.get((node, given))
        if known is None:
            cube = _cube(self.tpm[:, node], self.n)
            known = np.asarray(cube.mean(tuple(i for i in range(self.n) if i not in given)))
            self._known[node, given] = known
        return known

    def chance(self, node: int, given: Nodes, at: Sequence[int], value: int) -> float:
        """P(node has this value at t + 1 | these nodes have these values at t)."""
        on = float(self.on(node, given)[tuple(at)])
        return on if value else 1 - on

    def cut(self, severed: Bool[np.ndarray, "source target"]) -> "Causal":
        """The network whose severed inputs are noise: node i no longer sees those j with severed[j, i]."""
        parts = []
        for node in range(self.n):
            gone = tuple(np.flatnonzero(severed[:, node]))
            cube = _cube(self.tpm[:, node], self.n)
            parts.append(np.broadcast_to(cube.mean(gone, keepdims=True) if gone else cube, cube.shape))
        return Causal(np.stack([_flat(p) for p in parts], 1), self.state)

    def wired(self, tolerance: float = 1e-10) -> Bool[np.ndarray, "source target"]:
        """Which node changes the probability of which, in any state of the others."""
        out = np.zeros((self.n, self.n), bool)
        for node in range(self.n):
            cube = _cube(self.tpm[:, node], self.n)
            for source in range(self.n):
                out[source, node] = np.abs(np.diff(cube, axis=source)).max() > tolerance
        return out

    def is_strongly_connected(self) -> bool:
        """Is every node reached from every other? A single node has to reach itself."""
        wired = self.wired()
        if self.n == 1:
            return bool(wired[0, 0])
        reach = wired | np.eye(self.n, dtype=bool)
        for _ in range(self.n):
            reach = (reach.astype(int) @ reach.astype(int)) > 0
        return bool(reach.all())


def causal_of(tpm: object, state: Sequence[int], nodes: Sequence[int] | None = None) -> Causal:
    """A candidate set of nodes, checked: those outside of it are held at the current state.

    tpm: [2^n, n] or, state by state, [2^n, 2^n] (which must then be the product of its nodes). state: of all n nodes.
    Raises: ShapeError, InputError (not probabilities; nodes that are not independent given the past; a state nothing
    leads to, as NoCauseError), InputError above 5 nodes with what it would cost.
    """
    table = checked_tpm(tpm)
    n = table.shape[1]
    if len(state) != n or any(int(x) not in (0, 1) for x in state):
        raise InputError(f"the state of {n} nodes is {n} times 0 or 1; got {tuple(state)}.")
    chosen = tuple(range(n)) if nodes is None else tuple(sorted({int(i) for i in nodes}))
    if not chosen or chosen[0] < 0 or chosen[-1] >= n:
        raise InputError(f"nodes {tuple(nodes or ())} are no set of the {n} nodes 0 to {n - 1}.")
    if len(chosen) > MOST_NODES:
        raise InputError(
            f"{len(chosen)} nodes: an exact search goes up to {MOST_NODES}, where one state takes minutes.\n"
            f"  every further node takes a hundred times as long: choose at most {MOST_NODES} (nodes=)."
        )
    now = tuple(int(x) for x in state)
    outside = [i for i in range(n) if i not in chosen]
    rows = [k for k in range(2**n) if all((k >> i) & 1 == now[i] for i in outside)]
    inside = table[rows][:, chosen]
    found = Causal(np.ascontiguousarray(inside), tuple(now[i] for i in chosen))
    ahead = np.where(np.array(found.state) == 1, found.tpm, 1 - found.tpm).prod(1)
    if ahead.max() <= 0:
        raise NoCauseError(
            f"no state leads to {found.state}: it has no cause, and integrated information is not defined there.\n"
            "  take a state that occurs; mean_over_states weighs those that do."
        )
    return found


def checked_tpm(tpm: object) -> Tpm:
    """Transition probabilities as [state, node], from either form."""
    table = np.asarray(tpm.detach().cpu().numpy() if hasattr(tpm, "detach") else tpm, dtype=float)  # type: ignore[union-attr]  # a tensor
    if table.ndim != 2 or table.shape[0] < 2 or 2 ** int(np.log2(table.shape[0])) != table.shape[0]:
        raise ShapeError(
            f"transition probabilities are [2^n, n] (each node on) or [2^n, 2^n] (each state); got {table.shape}."
        )
    n = int(np.log2(table.shape[0]))
    if not np.isfinite(table).all() or table.min() < -1e-9 or table.max() > 1 + 1e-9:
        raise InputError("transition probabilities lie between 0 and 1; these do not.")
    if table.shape[1] == n and table.shape[0] != table.shape[1]:
        return np.clip(table, 0, 1)
    if table.shape != (2**n, 2**n):
        raise ShapeError(
            f"{table.shape[0]} states are {n} nodes: give [{2**n}, {n}] or [{2**n}, {2**n}], not {table.shape}."
        )
    if np.abs(table.sum(1) - 1).max() > 1e-6:
        raise InputError("every row of a state-by-state table sums to 1; these do not.")
    by_node = table @ states_of(n)
    error = factorisation_error(table, by_node)
    if error > 1e-6:
        raise InputError(
            f"the nodes are not independent given the past: the product of their probabilities is off by {error:.2g}.\n"
            "  integrated information takes nodes that are; give [2^n, n] to go on with their marginals."
        )
    return np.clip(by_node, 0, 1)


def factorisation_error(by_state: Float[np.ndarray, "state next"], by_node: Tpm) -> float:
    """The largest difference between a state-by-state table and the product of its nodes."""
    return float(np.abs(by_state - joint_of(by_node)).max())


def joint_of(by_node: Tpm) -> Float[np.ndarray, "state next"]:
    """P(next state | state) of nodes that are independent given the past."""
    nexts = states_of(by_node.shape[1]).astype(bool)
    return np.where(nexts[None], by_node[:, None], 1 - by_node[:, None]).prod(2)


def _cube(values: Float[np.ndarray, " state"], n: int) -> np.ndarray:
    """Values by state as an axis of two for every node; node 0 is the first axis."""
    return values.reshape((2,) * n).transpose(tuple(range(n))[::-1])


def _flat(cube: np.ndarray) -> Float[np.ndarray, " state"]:
    n = cube.ndim
    return np.ascontiguousarray(cube.transpose(tuple(range(n))[::-1])).reshape(-1)
