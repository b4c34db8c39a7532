"""Can the parameters of a curve be told from what is known beforehand? Regressions that hold out whole groups."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.nulls import Correlation, correlation


@dataclass(frozen=True, eq=False)
class Predicted:
    """How well one target is told for groups that were not seen, beside the mean of the others.

    skill: 1 - squared error / that of the mean of the other groups; 0 is no better than it. rank: Spearman's
    correlation of told and true, with interval and p value; None where one side is constant. importance: feature -> how
    much the squared error grows when it is shuffled among the held-out rows, over that of the mean predictor.
    """

    target: str
    predicted: Float[Tensor, " row"]
    true: Float[Tensor, " row"]
    skill: float
    rank: Correlation | None
    importance: dict[str, float]


def predict_params(
    table: Sequence[Mapping[str, Any]],
    features: Sequence[str],
    targets: Sequence[str],
    groups: str,
    *,
    regressor: Callable[[], Any] | None = None,
    penalty: float = 1.0,
    seed: int = 0,
) -> dict[str, Predicted]:
    """Leave one group out: tell each target of its rows from the features, learned from all other groups.

    Rows of one group (the layers of one model) are near duplicates, so a random split of rows would leak.
    table: one mapping a row. groups: the column that names the group. regressor: makes an object with fit(x, y) and
    predict(x), a tree ensemble of scikit-learn say; ridge on standardised features with this penalty when left out.
    Raises: InputError for fewer than three groups, a column that is not there or not finite.
    """
    names = list(dict.fromkeys(str(row[groups]) for row in _with(table, [groups])))
    if len(names) < 3:
        raise InputError(f"{len(names)} groups in {groups!r}: leaving one out takes three or more.")
    x, y = _matrix(table, features), _matrix(table, targets)
    group = np.array([names.index(str(row[groups])) for row in table])
    rng = np.random.default_rng(seed)
    told, mean = np.zeros_like(y), np.zeros_like(y)
    shuffled = np.zeros((len(features), *y.shape))
    for g in range(len(names)):
        out = group == g
        mean[out] = y[~out].mean(0)
        for j in range(y.shape[1]):
            fitted = _fitted(regressor, penalty, x[~out], y[~out, j])
            told[out, j] = fitted(x[out])
            for f in range(len(features)):
                moved = x[out].copy()
                moved[:, f] = rng.choice(x[:, f], out.sum())
                shuffled[f, out, j] = fitted(moved)
    found = {}
    for j, target in enumerate(targets):
        base = max(float(((y[:, j] - mean[:, j]) ** 2).sum()), 1e-300)
        error = float(((y[:, j] - told[:, j]) ** 2).sum())
        constant = np.ptp(told[:, j]) == 0 or np.ptp(y[:, j]) == 0
        importance = {
            name: (float(((y[:, j] - shuffled[f, :, j]) ** 2).sum()) - error) / base for f, name in enumerate(features)
        }
        rank = None if constant else correlation(told[:, j], y[:, j], seed=seed)
        found[target] = Predicted(
            target, torch.from_numpy(told[:, j].copy()), torch.from_numpy(y[:, j].copy()), 1 - error / base, rank,
            importance,
        )  # fmt: skip
    return found


def _fitted(
    regressor: Callable[[], Any] | None, penalty: float, x: np.ndarray, y: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    if regressor is not None:
        made = regressor()
        made.fit(x, y)
        return lambda new: np.asarray(made.predict(new), dtype=float)
    middle, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    unit = (x - middle) / spread
    weight = np.linalg.solve(unit.T @ unit + penalty * np.eye(x.shape[1]), unit.T @ (y - y.mean()))
    return lambda new: (new - middle) / spread @ weight + y.mean()


def _with(table: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Sequence[Mapping[str, Any]]:
    for i, row in enumerate(table):
        missing = [n for n in names if n not in row]
        if missing:
            raise InputError(f"row {i} of the table has no {missing[0]!r}: it has {', '.join(map(str, row))}.")
    return table


def _matrix(table: Sequence[Mapping[str, Any]], names: Sequence[str]) -> np.ndarray:
    values = np.array([[float(row[n]) for n in names] for row in _with(table, names)])
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise InputError(f"row {row} of the table has no finite {names[column]!r}.")
    return values
