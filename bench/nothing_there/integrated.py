"""Networks whose nodes do not feed back, and sequences without order or relations."""

from collections.abc import Callable

import numpy as np
import torch

from bench.nothing_there.case import Case, above, found
from inscape.core import nulls
from inscape.read.integrated import (
    BinaryNetwork,
    lempel_ziv,
    mean_over_states,
    multi_information,
    network_of,
    phi,
    simulated,
    transfer_entropy,
)  # fmt: skip

Measure = Callable[[BinaryNetwork], float]


def feed_forward(seed: int, effect: float, n: int = 3) -> np.ndarray:
    """Random transition probabilities in which node i sees nodes before it alone; planted: the first sees the last."""
    rng = np.random.default_rng(seed)
    weight = np.triu(rng.normal(size=(n, n)), 1)
    weight[n - 1, 0] = 3 * effect * rng.choice([-1, 1])
    weight += 3 * effect * np.eye(n, k=1)
    states = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    return 1 / (1 + np.exp(-(2 * states - 1) @ weight))


def of_phi(version: str) -> Case:
    """Phi of a network in which nothing comes back is 0."""

    def case(seed: int, effect: float) -> float:
        return found(phi(feed_forward(seed, effect), (1, 0, 1), version=version).phi > 1e-6)

    return case


def of_sequence(measure: Measure, kind: str, alternative: str) -> Case:
    """A measure of eighty steps of three binary nodes among those of 39 surrogates; planted: they drive each other."""

    def case(seed: int, effect: float) -> float:
        tpm = feed_forward(seed, 1) if effect else np.full((8, 3), 0.5)
        states = simulated(tpm, 80, seed=seed)
        if effect and kind == "units":  # at one time: node 1 is mostly what node 0 is
            same = np.random.default_rng(seed).random(80) < 0.9
            states = (states & ~2) | np.where(same, (states & 1) << 1, states & 2)
        bits = torch.from_numpy((states[:, None] >> np.arange(3)) & 1).double()

        def of(x: torch.Tensor) -> float:
            return measure(network_of([x.numpy().astype(np.int64) @ 2 ** np.arange(3)], 3))

        null = [of(nulls.surrogate(bits, kind, seed=100 * seed + i)) for i in range(39)]
        return above(of(bits), null, alternative)

    return case


def mean_phi(seed: int, effect: float) -> float:
    """The mean Phi (4.0) of two nodes over eighty steps, among that of 19 other orders."""
    tpm = feed_forward(seed, 1, 2) if effect else np.full((4, 2), 0.5)
    states = simulated(tpm, 80, seed=seed)
    rng = np.random.default_rng(seed)
    of = lambda s: mean_over_states(network_of([s], 2), version="4.0").phi  # noqa: E731
    return above(of(states), [of(rng.permutation(states)) for _ in range(19)])


CASES: dict[str, Case] = {
    "phi 3.0 of a network without feedback": of_phi("3.0"),
    "phi 4.0 of a network without feedback": of_phi("4.0"),
    "mean_over_states, Phi among 19 other orders": mean_phi,
    "transfer_entropy, among 39 other orders": of_sequence(transfer_entropy, "time", "greater"),
    "multi_information, among 39 shifts of units": of_sequence(multi_information, "units", "greater"),
    "lempel_ziv, below 39 other orders": of_sequence(lempel_ziv, "time", "less"),
}
