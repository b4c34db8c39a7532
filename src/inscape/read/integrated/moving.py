"""The earth mover's distance between distributions over the states of a few nodes, exactly and for many at once.

Moving probability from one state to another costs the number of nodes that differ. By Kantorovich's duality
    EMD(p, q) = max_f  sum_x f(x) (p(x) - q(x)),   |f(x) - f(y)| <= 1 for neighbouring x, y,
and the largest value is at a corner of that polytope. At a corner the tight edges connect all states; a cube has no odd
cycles, so an edge between two of them would have an odd difference of at most 1: every edge is tight, and the corners
are just the functions that go up or down by 1 along every edge. With f(0) = 0 there are 2, 6, 38, 990 and 395,094 of
them for 1 to 5 nodes: a matrix product in place of a linear program for each pair.
"""

from functools import cache

import numpy as np
from jaxtyping import Float, Int

CORNERS_AT_ONCE = 1 << 15


@cache
def corners(n: int) -> Int[np.ndarray, "corner state"]:
    """All f on the states of n nodes with f(0) = 0 that change by 1 along every edge of the cube.

    Built by halves: f on the states without node n - 1, and f + d on those with it, where d is 1 or -1 everywhere and
    the second half is a corner function again (shifted). Checked by their number in the tests.
    """
    if n == 0:
        return np.zeros((1, 1), np.int8)
    half = corners(n - 1)
    out = []
    for first in half:
        for shift in (-1, 1):
            out.append(np.concatenate([np.tile(first, (len(half), 1)), half + shift], 1))
    every = np.concatenate(out)
    size = half.shape[1]
    return np.ascontiguousarray(every[(np.abs(every[:, :size] - every[:, size:]) == 1).all(1)])


def earth_mover(
    p: Float[np.ndarray, "*#many state"], q: Float[np.ndarray, "*#many state"]
) -> Float[np.ndarray, "*_many"]:
    """EMD of pairs of distributions over the 2^n states, with the number of differing nodes as the cost.

    Cost: for n up to 4 a product with 990 functions; 395,094 of them for n = 5, in pieces.
    """
    moved = np.atleast_2d(p - q)
    f = corners(int(moved.shape[-1]).bit_length() - 1)
    best = np.full(moved.shape[:-1], -np.inf)
    for start in range(0, len(f), CORNERS_AT_ONCE):
        best = np.maximum(best, (moved @ f[start : start + CORNERS_AT_ONCE].T.astype(float)).max(-1))
    return np.maximum(best, 0.0).reshape((p - q).shape[:-1])
