"""What goes into a statistic: numbers, flags and groups from lists, arrays or tensors, checked once."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError, ShapeError

Values = Sequence[Any] | np.ndarray | Tensor
Seed = int | np.random.Generator
CHUNK = 1 << 24  # numbers held at once while resampling: 128 MB in float64


def array(values: Values, what: str) -> np.ndarray:
    """The values in float64.

    Raises: InputError for an empty list or one that holds NaN or infinity.
    """
    held = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=float)
    if held.size == 0:
        raise InputError(f"{what} is empty: there is nothing to compute from.")
    wrong = held.size - int(np.isfinite(held).sum())
    if wrong:
        raise InputError(
            f"{what} holds {wrong} of {held.size} values that are NaN or infinite.\n"
            f"  drop these items, or find out why."
        )
    return held


def vector(values: Values, what: str, length: int | None = None) -> Float[np.ndarray, " n"]:
    """One number an item."""
    held = array(values, what)
    if held.ndim != 1:
        raise ShapeError(
            f"{what} needs one number an item, and has shape {held.shape}.\n  reduce it first, e.g. .mean(1)."
        )
    if length is not None and len(held) != length:
        raise ShapeError(f"{what} has {len(held)} items where there are {length}.\n  give one number an item.")
    return held


def flags(values: Values, what: str, length: int | None = None) -> Float[np.ndarray, " n"]:
    """One yes or no an item, as 1.0 and 0.0."""
    held = vector(values, what, length)
    if not np.isin(held, (0.0, 1.0)).all():
        raise InputError(
            f"{what} must be yes or no (True and False, 1 and 0), and holds {held[~np.isin(held, (0, 1))][0]:g}."
        )
    return held


def groups(by: Values | None, what: str, length: int) -> Int[np.ndarray, " n"]:
    """The number of the group that each item belongs to, counted from 0; without `by` every item is its own."""
    if by is None:
        return np.arange(length)
    held = by.detach().cpu().numpy() if isinstance(by, Tensor) else np.asarray(by)
    if held.shape != (length,):
        raise ShapeError(f"{what} has shape {held.shape} where there are {length} items.\n  give one label an item.")
    return np.unique(held, return_inverse=True)[1]


def generator(seed: Seed) -> np.random.Generator:
    """The generator of a seed, or the one given."""
    return seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed)


def resamples(n_groups: int, n: int, rng: np.random.Generator) -> Iterator[Float[np.ndarray, "chunk groups"]]:
    """How often each group was drawn, in `n` resamples with replacement, a chunk at a time."""
    chunk = max(1, CHUNK // n_groups)
    for start in range(0, n, chunk):
        size = min(chunk, n - start)
        drawn = rng.integers(0, n_groups, (size, n_groups)) + np.arange(size)[:, None] * n_groups
        yield np.bincount(drawn.ravel(), minlength=size * n_groups).reshape(size, n_groups).astype(float)


def shuffles(n: int, within: Int[np.ndarray, " m"], rng: np.random.Generator) -> Iterator[Int[np.ndarray, "chunk m"]]:
    """`n` orders of the items in which each stays in its group, a chunk at a time. One group: every order."""
    chunk = max(1, CHUNK // len(within))
    members = [np.flatnonzero(within == g) for g in np.unique(within)]
    for start in range(0, n, chunk):
        order = np.tile(np.arange(len(within)), (min(chunk, n - start), 1))
        for group in members:
            order[:, group] = rng.permuted(order[:, group], axis=1)
        yield order


def check_draws(n: int, level: float | None = None) -> None:
    """Refuse numbers of resamples and levels that cannot give an answer."""
    if n < 1:
        raise InputError(f"n={n} resamples give no answer.\n  take 1000 or more.")
    if level is not None and not 0 < level < 1:
        raise InputError(f"level={level} is no share of intervals.\n  0.95 means that 95 in 100 hold the true value.")
