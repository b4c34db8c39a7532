"""Does a probe read the rows, or learn the task by itself? Its accuracy beside that on labels that mean nothing.

The control task of Hewitt & Liang: every type (a word, an entity) has one label drawn at random, the same in training
and in test. A probe that can remember types scores well on it; what it scores above that on the real task is its
selectivity.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.nulls import bootstrap
from inscape.core.readout import Labels, Rows, labels_of


@dataclass(frozen=True)
class Selectivity:
    """Accuracy on held-out rows: of the task, of its control task, and the difference with its interval."""

    accuracy: float
    control: float
    value: Interval


def control_labels(types: Labels, y: Labels, *, seed: int = 0) -> np.ndarray:
    """A label for every row that depends on its type alone, drawn from the labels of the task, as often as they are.

    Rows of the training and of the test set go in together, so that a type has one label in both.
    Raises: ShapeError unless there is one type and one label a row.
    """
    y = labels_of(y, len(y))
    names, code = np.unique(labels_of(types, len(y), "types"), return_inverse=True)
    draw = np.random.default_rng(seed)
    return y[draw.integers(0, len(y), len(names))][code]


def selectivity(
    probe: Any,
    x: Rows,
    y: Labels,
    held_x: Rows,
    held_y: Labels,
    *,
    types: Labels,
    held_types: Labels,
    by: Labels | None = None,
    seed: int = 0,
) -> Selectivity:
    """How much better a kind of probe does on a task than on labels drawn at random for each type.

    probe: settings; it is copied and fitted twice. types: of each row, a word or an entity that comes again among the
    held-out rows; where none does the control is at chance and says nothing. by: item of each held-out row.
    Cost: two fits.
    Raises: InputError when no held-out row is of a type that was trained on, or all control labels are alike.
    Source: Hewitt & Liang 2019, arXiv:1909.03368.
    """
    n, held = len(x), len(held_x)
    every = np.concatenate([labels_of(types, n, "types"), labels_of(held_types, held, "types")])
    y, held_y = labels_of(y, n), labels_of(held_y, held)
    known = np.isin(every[n:], every[:n])
    if not known.any():
        raise InputError("no held-out row is of a type that was trained on: a control task cannot be learned at all.")
    control = control_labels(every, np.concatenate([y, held_y]), seed=seed)
    task = replace(probe).fit(x, y).predict(held_x)
    other = replace(probe).fit(x, control[:n]).predict(held_x)
    right, chance = (torch.from_numpy(np.asarray(a) == b).double() for a, b in ((task, held_y), (other, control[n:])))
    return Selectivity(float(right.mean()), float(chance.mean()), bootstrap(right - chance, by=by))
