"""Any measure of two sites, for one pair or for all pairs, beside shuffled pairing: what is prepared once a site stays.

A measure is settings and two steps: `prepare` turns the rows of a site into what is compared, and `compare` gives its
value for two prepared sites, with the items of the second in any orders. So each null costs comparisons alone.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.nulls.permutation import permutation_p
from inscape.core.nulls.values import check_draws, generator, shuffles
from inscape.core.progress import Progress, tell
from inscape.core.readout import Rows, check_control
from inscape.read.similarity.cka import BUDGET, cka_matrix
from inscape.read.similarity.columns import columns_of, held_rows, same_rows
from inscape.read.similarity.result import Similarity, SimilarityMatrix

HELD = 1 << 23  # numbers held at once while items are shuffled


@runtime_checkable
class Measure(Protocol):
    """What compares sites. name: in results. prepare(x [n, d], float64): whatever is kept of a site. items: of that.
    compare(a, b, orders [c, items]): c values, the items of b in those orders. is_distance: small means alike.
    width(a, b): numbers that a comparison holds, for how many orders fit. symmetric: compare(a, b) is compare(b, a).
    """

    @property
    def name(self) -> str: ...
    @property
    def is_distance(self) -> bool: ...
    @property
    def symmetric(self) -> bool: ...
    def prepare(self, x: Float[Tensor, "n d"]) -> Any: ...
    def items(self, a: Any) -> int: ...
    def width(self, a: Any, b: Any) -> int: ...
    def compare(self, a: Any, b: Any, orders: Int[Tensor, "c items"]) -> Float[Tensor, " c"]: ...


def similarity(
    x: Rows,
    y: Rows,
    measure: Measure,
    *,
    control: str | None = "shuffle",
    n: int = 200,
    budget_bytes: int = BUDGET,
    seed: int = 0,
) -> Similarity:
    """One pair of sites by any measure (`RSA()`, `Procrustes()`, `CCA()`, `MutualKNN()`), beside n shuffled pairings.

    For CKA take `cka`, whose null needs no draws. Raises: as `similarity_matrix`.
    """
    found = similarity_matrix(
        {"x": x}, {"y": y}, measure=measure, control=control, n=n, budget_bytes=budget_bytes, seed=seed
    )
    return found["x", "y"]


def similarity_matrix(
    sites: Any,
    against: Any = None,
    *,
    measure: Measure | str = "cka",
    names: str | list[str] | None = None,
    control: str | None = "shuffle",
    n: int = 100,
    budget_bytes: int = BUDGET,
    seed: int = 0,
    progress: Progress = None,
) -> SimilarityMatrix:
    """All pairs of sites by one measure, each beside n shuffled pairings of the items.

    "cka" is `cka_matrix` with its defaults: all pairs in one read of a store, whatever its length. Others hold what
    they prepared of every site and compare pair by pair; what does not fit budget_bytes is refused.
    sites, against: a store, a trace, {name: rows}, a list, [layer, n, d]. p counts the shuffles that are as alike (as
    near, for a distance): rows must be independent items, not tokens of one prompt.
    Raises: ShapeError for sites of different items; InputError for too many rows, and as the measure says.
    """
    if isinstance(measure, str):
        if measure != "cka":
            raise InputError(f"measure={measure!r}: give 'cka', or RSA(), Procrustes(), CCA(), MutualKNN().")
        return cka_matrix(
            sites, against, names=names, control=control, budget_bytes=budget_bytes, seed=seed, progress=progress
        )
    check_control(control, name="a similarity")
    check_draws(n)
    mine = columns_of(sites, names)
    theirs = columns_of(against) if against is not None else mine
    rows = same_rows(mine, theirs)
    left = {name: measure.prepare(held_rows(x, name, budget_bytes)) for name, x in mine.items()}
    right = left if against is None else {k: measure.prepare(held_rows(x, k, budget_bytes)) for k, x in theirs.items()}
    items = measure.items(next(iter(left.values())))
    orders = torch.cat([torch.from_numpy(o) for o in shuffles(n, np.zeros(items, dtype=int), generator(seed))])
    as_is, shape = torch.arange(items)[None], (len(left), len(right))
    values = torch.full(shape, float("nan"), dtype=torch.float64)
    null = torch.full((n, *shape), float("nan"), dtype=torch.float64)
    done = 0
    for i, a in enumerate(left.values()):
        for j, b in enumerate(right.values()):
            if against is None and measure.symmetric and j < i:
                values[i, j], null[:, i, j] = values[j, i], null[:, j, i]
                continue
            values[i, j] = measure.compare(a, b, as_is)[0]
            if control is not None:
                null[:, i, j] = torch.cat([measure.compare(a, b, part) for part in _parts(orders, measure.width(a, b))])
            done += 1
            tell(progress, f"{measure.name} of {done} pairs", done / (shape[0] * shape[1]))
    expected = deviation = p = None
    if control is not None:
        expected, deviation = null.mean(0), null.std(0, correction=0)
        p = permutation_p(values, null, "less" if measure.is_distance else "greater")
    return SimilarityMatrix(values, tuple(left), tuple(right), measure.name, rows, expected, deviation, p)


def _parts(orders: Tensor, width: int) -> Iterator[Tensor]:
    yield from orders.split(max(1, HELD // max(1, width)))
