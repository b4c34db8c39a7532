"""What probes of every site say of rows they were not fitted on, for several labellings of the same rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.progress import Progress, tell
from inscape.core.readout import Rows, picked
from inscape.read.probes.batched import held_out_values
from inscape.read.probes.logistic import LogisticProbe


def held_out(
    sites: Mapping[str, Rows],
    columns: Sequence[Tensor],
    classes: np.ndarray,
    folds: Int[Tensor, " n"],
    probe: Any,
    *,
    progress: Progress = None,
) -> list[Float[Tensor, "site n k"]]:
    """Values of every row from the probe that has not seen it, one tensor a labelling.

    columns: class numbers of `classes`, or numbers. Logistic probes are solved together, others fitted one by one.
    """
    n = len(folds)
    splits = [((folds != k).nonzero()[:, 0], (folds == k).nonzero()[:, 0]) for k in range(int(folds.max()) + 1)]
    if isinstance(probe, LogisticProbe) and len(classes):
        made = held_out_values(sites, probe, columns, classes, splits, torch.arange(n), progress)
        return [torch.stack([v[c] for v in made.values]) for c in range(len(columns))]
    out = []
    for number, y in enumerate(columns):
        rows = []
        for place, x in enumerate(sites.values()):
            tell(progress, "fitting probes", (number + place / len(sites)) / len(columns))
            parts = [(test, replace(probe).fit(picked(x, train), y[train]).transform(picked(x, test)))
                     for train, test in splits]  # fmt: skip
            values = torch.cat([torch.as_tensor(z).double().cpu().reshape(len(test), -1) for test, z in parts])
            back = torch.empty(n, dtype=torch.long)
            back[torch.cat([test for test, _ in parts])] = torch.arange(n)
            rows.append(values[back])
        out.append(torch.stack(rows))
    return out
