"""From a sequence of activations to a small binary network: reduce, binarise, count the transitions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.read.integrated.causal import MOST_NODES, Tpm, joint_of, number_of_state, states_of

Threshold = str | Float[Tensor, " d"]


@dataclass(frozen=True, eq=False)
class BinaryNetwork:
    """A network of n nodes as a sequence showed it.

    tpm: P(node on next | state); 0.5 for states seen fewer than `min_visits` times. visits: how often each state was
    left. came: how often each was entered: what an average over states is weighted by. sequences: the states that were
    gone through, by number (bit i is node i). factorisation_error: how far the observed table of state by state is from
    the product of its nodes: mean over transitions of the total variation, 0 to 1.
    """

    tpm: Float[np.ndarray, "state node"]
    visits: Int[np.ndarray, " state"]
    came: Int[np.ndarray, " state"]
    sequences: tuple[Int[np.ndarray, " time"], ...]
    factorisation_error: float
    min_visits: int

    @property
    def n(self) -> int:
        return self.tpm.shape[1]

    @property
    def guessed(self) -> Bool[np.ndarray, " state"]:
        """States whose row says 0.5 because they were seen too rarely."""
        return self.visits < self.min_visits


def principal_basis(
    states: Tensor | Sequence[Tensor], d: int
) -> tuple[Float[Tensor, " full"], Float[Tensor, "full d"]]:
    """The mean and the leading d principal directions of rows: (x - mean) @ basis is the reduced sequence.

    Fit it once over all texts and give it to `binary_network`, so that a component is the same thing in each; signs are
    fixed by the largest entry. Raises: InputError for fewer rows or units than d.
    """
    rows = torch.cat(list(_parts(states))).double()
    if min(rows.shape) < d + 1:
        raise InputError(f"{d} principal components take more than {d} rows and units; these are {tuple(rows.shape)}.")
    mean = rows.mean(0)
    basis = torch.linalg.svd(rows - mean, full_matrices=False)[2][:d].T
    sign = basis.gather(0, basis.abs().argmax(0)[None]).sign()
    return mean, basis * sign


def binary_network(
    states: Float[Tensor, "time d"] | Sequence[Float[Tensor, "time d"]],
    n: int = 4,
    *,
    basis: tuple[Tensor, Tensor] | None = None,
    threshold: Threshold = "median",
    min_visits: int = 1,
    surrogate: Callable[[Tensor], Tensor] | None = None,
) -> BinaryNetwork:
    """The transition probabilities of n binarised components of a sequence (or of several, never across their ends).

    P(node on at t + 1 | state) = the share of transitions from that state after which it is on.
    basis: from `principal_basis`; of these rows alone when left out. threshold: "median" or "mean" of each component
    over the rows given, or one number a component. surrogate: what to do to each reduced sequence first (see
    `core.nulls.surrogates`), so that a null goes through everything that the sequence did.
    Raises: ShapeError, InputError for fewer than two rows, or more components than an exact search takes.
    Source: the procedure of arXiv:2506.22516; its threshold and rule for states never seen are not published in full.
    """
    if not 1 <= n <= MOST_NODES:
        raise InputError(f"n={n} nodes: an exact search takes 1 to {MOST_NODES}.")
    parts = _parts(states)
    mean, directions = basis if basis is not None else principal_basis(parts, n)
    if directions.shape[1] < n or directions.shape[0] != parts[0].shape[1]:
        raise ShapeError(f"a basis of {tuple(directions.shape)} gives no {n} components of {parts[0].shape[1]} units.")
    mean, directions = mean.double().cpu(), directions[:, :n].double().cpu()
    reduced = [(p.double().cpu() - mean) @ directions for p in parts]
    if surrogate is not None:
        reduced = [surrogate(p) for p in reduced]
    cut = _threshold(torch.cat(reduced), threshold)
    weights = 2 ** np.arange(n)
    sequences = tuple(((p > cut).numpy().astype(np.int64) @ weights) for p in reduced)
    return network_of(sequences, n, min_visits=min_visits)


def network_of(sequences: Sequence[Int[np.ndarray, " time"]], n: int, *, min_visits: int = 1) -> BinaryNetwork:
    """The network of sequences of state numbers (bit i is node i)."""
    pairs = np.zeros((2**n, 2**n), np.int64)
    for sequence in sequences:
        np.add.at(pairs, (sequence[:-1], sequence[1:]), 1)
    if not pairs.sum():
        raise InputError("a transition takes two rows one after the other; there are none.")
    visits = pairs.sum(1)
    observed = pairs / np.maximum(visits, 1)[:, None]
    tpm = np.where((visits >= max(1, min_visits))[:, None], observed @ states_of(n), 0.5)
    apart = np.abs(observed - joint_of(observed @ states_of(n))).sum(1) / 2
    error = float((apart * visits).sum() / visits.sum())
    return BinaryNetwork(tpm, visits, pairs.sum(0), tuple(sequences), error, max(1, min_visits))


def simulated(tpm: Tpm, steps: int, *, noise: float = 0.0, seed: int = 0) -> Int[np.ndarray, " time"]:
    """State numbers that a network goes through from a random one, each node flipped with a chance of `noise`."""
    rng, n = np.random.default_rng(seed), tpm.shape[1]
    bits = rng.random(n) < 0.5
    out = np.empty(steps, np.int64)
    for t in range(steps):
        out[t] = number_of_state(bits.tolist())
        bits = (rng.random(n) < tpm[out[t]]) ^ (rng.random(n) < noise)
    return out


def _parts(states: Tensor | Sequence[Tensor]) -> list[Tensor]:
    parts = [states] if isinstance(states, Tensor) else list(states)
    if not parts or any(p.ndim != 2 or len(p) < 2 for p in parts):
        raise ShapeError("a sequence is [time, d] with two rows or more; give one, or several.")
    if any(not bool(torch.isfinite(p).all()) for p in parts):
        raise InputError("the sequence holds NaN or infinity: it has no state there.")
    return [p.detach().float() if p.dtype in (torch.float16, torch.bfloat16) else p.detach() for p in parts]


def _threshold(rows: Float[Tensor, "time n"], threshold: Threshold) -> Float[Tensor, " n"]:
    if isinstance(threshold, Tensor):
        return threshold.double().cpu()
    if threshold not in ("median", "mean"):
        raise InputError(f"threshold={threshold!r} is none; it can be 'median', 'mean' or one number a component.")
    return rows.median(0).values if threshold == "median" else rows.mean(0)
