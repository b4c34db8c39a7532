"""Cheaper measures of a binary sequence beside integrated information: what its nodes share, pass on and repeat."""

from itertools import permutations

import numpy as np
from jaxtyping import Float, Int

from inscape.core.errors import InputError
from inscape.read.integrated.causal import states_of
from inscape.read.integrated.network import BinaryNetwork


def multi_information(network: BinaryNetwork) -> float:
    """How much the nodes tell about each other at one time: sum of entropies minus the joint entropy, in bits."""
    seen = np.concatenate(network.sequences)
    joint = np.bincount(seen, minlength=2**network.n)
    single = [np.bincount((seen >> i) & 1, minlength=2) for i in range(network.n)]
    return float(sum(_entropy(s) for s in single)) - _entropy(joint)


def transfer_entropy(network: BinaryNetwork) -> float:
    """Mean over ordered pairs of nodes of I(next of one; now of the other | now of the one), in bits.

    Biased upwards by about 1 / (n_transitions ln 2) a pair: compare with a shuffle of equal length.
    Source: Schreiber 2000, 10.1103/PhysRevLett.85.461, with a history of one step.
    """
    if network.n < 2:
        raise InputError("transfer entropy is between nodes; this network has one.")
    now = np.concatenate([s[:-1] for s in network.sequences])
    then = np.concatenate([s[1:] for s in network.sequences])
    total = 0.0
    for source, target in permutations(range(network.n), 2):
        a, b, c = (then >> target) & 1, (now >> target) & 1, (now >> source) & 1
        total += _entropy(_joint(a, b)) + _entropy(_joint(b, c)) - _entropy(_joint(b)) - _entropy(_joint(a, b, c))
    return total / (network.n * (network.n - 1))


def lempel_ziv(network: BinaryNetwork) -> float:
    """Lempel-Ziv complexity (1976) of the nodes' on and off, node after node, over that of coin flips: c log2(L) / L.

    1 for coin flips of great length (more for short ones), near 0 for what repeats.
    """
    bits = np.concatenate([states_of(network.n)[s].T.reshape(-1) for s in network.sequences])
    text = "".join(map(str, bits.tolist()))
    phrases, start, length = 0, 0, 1
    while start + length <= len(text):
        if text[start : start + length] in text[: start + length - 1]:
            length += 1
        else:
            phrases, start, length = phrases + 1, start + length, 1
    phrases += start < len(text)
    return phrases * float(np.log2(len(text))) / len(text)


def _joint(*bits: Int[np.ndarray, " time"]) -> Int[np.ndarray, " value"]:
    number = sum(b << i for i, b in enumerate(bits))
    return np.bincount(np.asarray(number), minlength=2 ** len(bits))


def _entropy(counts: Int[np.ndarray, " value"]) -> float:
    p: Float[np.ndarray, " value"] = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())
