"""How far classes lie apart among the rows: the share of the variance between them, and silhouettes."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.nulls.permutation import permutation_p
from inscape.core.nulls.values import check_draws, generator, shuffles
from inscape.core.readout import Labels, Rows, check_control, classes_of
from inscape.read.similarity.columns import held_rows

BLOCK = 1 << 24


@dataclass(frozen=True, eq=False)
class Separation:
    """between: the share of the variance that lies between class means. fisher: between over within, as variances:
    `(S_B / (classes - 1)) / (S_W / (n - classes))`; about 1 when labels mean nothing. silhouette: mean of
    `(b - a) / max(a, b)`, a the mean distance to the own class, b to the nearest other. expected: of `between` under
    shuffled labels, exactly `(classes - 1) / (n - 1)`; p: how often a shuffle gives as much of it.
    """

    between: float
    expected: float
    fisher: float
    silhouette: float | None
    p: float | None
    null: Float[Tensor, " draws"] | None
    classes: tuple[object, ...]
    n: int

    def __float__(self) -> float:
        return self.between


def class_separation(
    x: Rows,
    labels: Labels,
    *,
    silhouette: bool = True,
    control: str | None = "shuffle",
    n: int = 200,
    budget_bytes: int = 1 << 30,
    seed: int = 0,
) -> Separation:
    """How much of the rows' variance lies between classes, beside shuffled labels.

    A cheap look at a geometry, in all dimensions as they are: classes may be told apart perfectly by a direction that
    is a thousandth of the variance; whether they can be is asked of a probe. One massive unit is most of it.
    Cost: n d, and n_draws x rows x d for p; rows^2 d for silhouettes, in blocks.
    Raises: InputError for one class, or a class for every row.
    Source: Fisher 1936; Rousseeuw 1987 (agrees with scikit-learn's silhouette_score).
    """
    check_control(control, name="a separation")
    check_draws(n)
    rows = held_rows(x, "x", budget_bytes)
    classes, code = classes_of(labels, len(rows))
    count = torch.bincount(code).double()
    if len(classes) >= len(rows):
        raise InputError(f"{len(rows)} rows have {len(classes)} classes: nothing lies inside one.")
    rows = rows - rows.mean(0)
    total = float(rows.square().sum())
    if not total > 0:
        raise InputError("all rows are the same: there is nothing to separate.")
    one = torch.nn.functional.one_hot(code).double().to(rows.device)

    def between(order: Tensor) -> float:
        sums = one[order].T @ rows
        return float((sums.square().sum(1) / count.to(rows.device)).sum()) / total

    value = between(torch.arange(len(rows)))
    inside = (1 - value) / (len(rows) - len(classes))
    fisher = value / (len(classes) - 1) / inside if inside > 0 else float("inf")
    found = _silhouette(rows, code.to(rows.device), count.to(rows.device)) if silhouette else None
    null = p = None
    if control is not None:
        draws = [o for part in shuffles(n, np.zeros(len(rows), dtype=int), generator(seed)) for o in part]
        null = torch.tensor([between(torch.from_numpy(o)) for o in draws], dtype=torch.float64)
        p = float(permutation_p(value, null))
    names = tuple(c.item() if hasattr(c, "item") else c for c in classes)
    return Separation(value, (len(classes) - 1) / (len(rows) - 1), fisher, found, p, null, names, len(rows))


def _silhouette(rows: Tensor, code: Tensor, count: Tensor) -> float:
    """A row that is alone in its class counts 0, as in scikit-learn."""
    one = torch.nn.functional.one_hot(code).double()
    total = 0.0
    for start in range(0, len(rows), max(1, BLOCK // len(rows))):
        part = slice(start, start + max(1, BLOCK // len(rows)))
        sums = torch.cdist(rows[part], rows) @ one
        own = code[part, None]
        inside = sums.gather(1, own)[:, 0] / (count[own[:, 0]] - 1).clamp(min=1)
        away = (sums / count).scatter(1, own, torch.inf).min(1).values
        score = (away - inside) / torch.maximum(away, inside).clamp(min=1e-300)
        total += float(torch.where(count[own[:, 0]] > 1, score, 0.0).sum())
    return total / len(rows)
