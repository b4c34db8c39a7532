"""How integrated a network is on average over the states it goes through, and over all sets of its nodes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from inscape.core.errors import InputError
from inscape.read.integrated.causal import NoCauseError, Nodes, checked_tpm, states_of, subsets
from inscape.read.integrated.iit3 import Integrated3, phi3
from inscape.read.integrated.iit4 import Integrated4, phi4
from inscape.read.integrated.network import BinaryNetwork

VERSIONS = ("3.0", "4.0")


@dataclass(frozen=True, eq=False)
class MeanPhi:
    """Averages over the states a sequence entered, weighted by how often.

    phi: of Phi (3.0) or phi_s (4.0). structure: of the conceptual information (3.0) or the sum of the distinctions' phi
    (4.0). by_state: phi of each state, NaN for those never entered.
    """

    phi: float
    structure: float
    by_state: Float[np.ndarray, " state"]
    version: str


def phi(
    tpm: object, state: Sequence[int], *, version: str = "3.0", nodes: Sequence[int] | None = None
) -> Integrated3 | Integrated4:
    """Integrated information of a small network in a state, by either version: see `phi3` and `phi4`."""
    if version not in VERSIONS:
        raise InputError(f"version={version!r} is none; there are '3.0' and '4.0'.")
    return phi3(tpm, state, nodes) if version == "3.0" else phi4(tpm, state, nodes)


def mean_over_states(network: BinaryNetwork, *, version: str = "3.0") -> MeanPhi:
    """The average of phi over the states of a network, weighted by how often each was entered.

    A short sequence of noise gives a positive average as well, for its few transitions look lawful: compare it with
    surrogates of equal length. Cost: one `phi` for each state that was entered.
    """
    values, structures = np.full(len(network.tpm), np.nan), np.zeros(len(network.tpm))
    for number in np.flatnonzero(network.came):
        found = phi(network.tpm, states_of(network.n)[number].tolist(), version=version)
        values[number] = found.phi
        structures[number] = found.information if isinstance(found, Integrated3) else found.distinctions_phi
    weights = network.came / network.came.sum()
    mean = float((np.nan_to_num(values) * weights).sum())
    return MeanPhi(mean, float((structures * weights).sum()), values, version)


def phi_max(tpm: object, state: Sequence[int], *, version: str = "3.0") -> Integrated3 | Integrated4:
    """The set of nodes with the largest phi: sets of two and more, and single nodes that act on themselves.

    Of equal ones the larger set. Sets that cannot have come to their state are left out.
    Cost: `phi` for each of the 2^n - 1 sets.
    """
    best: Integrated3 | Integrated4 | None = None
    sets: list[Nodes] = subsets(range(checked_tpm(tpm).shape[1]))
    for nodes in reversed(sets):
        try:
            found = phi(tpm, state, version=version, nodes=nodes)
        except NoCauseError:
            if len(nodes) == len(state):
                raise
            continue  # with the others held as they are, nothing leads to this part's state
        if best is None or found.phi > best.phi + 1e-9:
            best = found
    assert best is not None
    return best
