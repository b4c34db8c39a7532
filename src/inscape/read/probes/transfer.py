"""Does what was learned in one place hold in another? Probes scored on the rows of other layers, data and models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.interval import Interval
from inscape.core.progress import Progress, tell
from inscape.core.readout import Labels, Rows, units_of


@dataclass(frozen=True, eq=False)
class Transfer:
    """Scores of probes [probe] on rows [place] that they were not fitted on: `value[i, j]` of probe i at place j.

    low, high: ends of the intervals. null: the same probes at places whose labels are in another order.
    """

    probes: tuple[str, ...]
    places: tuple[str, ...]
    value: Float[Tensor, "probe place"]
    low: Float[Tensor, "probe place"]
    high: Float[Tensor, "probe place"]
    null: Float[Tensor, "probe place"] | None

    def __str__(self) -> str:
        width = max(map(len, self.probes))
        head = " " * width + "  " + "  ".join(f"{p:>8.8}" for p in self.places)
        rows = [
            f"{p:<{width}}  " + "  ".join(f"{float(v):8.3f}" for v in row)
            for p, row in zip(self.probes, self.value, strict=True)
        ]
        return "\n".join([head, *rows])


def transfer(
    probes: Mapping[str, Any],
    rows: Mapping[str, Rows],
    labels: Labels | Mapping[str, Labels],
    *,
    through: Mapping[str, Any] | None = None,
    by: Labels | Mapping[str, Labels] | None = None,
    control: str | None = "shuffle",
    seed: int = 0,
    progress: Progress = None,
) -> Transfer:
    """Every probe's score at every place: layers of one model, data sets at one layer, or another model's rows.

    rows: by place, held-out rows (a layer's, a data set's). labels, by: for all places, or by place.
    through: by place, a fitted `RidgeProbe` from that place's rows to those that the probes were fitted on: between
        models (or layers of other width), fit it on rows of the same texts, other texts than these.
    control: "shuffle" scores the same on labels in another order, or None.
    Cost: one score a cell; rows sent through a map are held in memory.
    Raises: ShapeError for rows of another width and no map; InputError for labels that are missing.
    Source: transfer matrices as in Marks & Tegmark 2023, arXiv:2310.06824, section 4.
    """
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} is none of transfer; it can be 'shuffle' or None.")
    shape = (len(probes), len(rows))
    value, low, high, null = (torch.full(shape, float("nan"), dtype=torch.float64) for _ in range(4))
    for j, (place, x) in enumerate(rows.items()):
        tell(progress, f"scoring at {place}", j / len(rows))
        y, item = _of(labels, place, "labels"), None if by is None else _of(by, place, "by")
        x = through[place].transform(x) if through is not None and place in through else x
        for i, (name, probe) in enumerate(probes.items()):
            try:
                found = probe.score(x, y, interval=True, by=item)
            except ShapeError as error:
                raise ShapeError(
                    f"the probe {name!r} does not read the rows of {place!r} ({units_of(x):,} units): {error}\n"
                    "  between models or widths give through={place: RidgeProbe().fit(their rows, these rows)}."
                ) from None
            assert isinstance(found, Interval)
            value[i, j], low[i, j], high[i, j] = found.value, found.low, found.high
            if control is not None:
                null[i, j] = float(probe.score(x, _shuffled(y, seed)))
    return Transfer(tuple(probes), tuple(rows), value, low, high, null if control is not None else None)


def _of(values: Any, place: str, name: str) -> Any:
    if not isinstance(values, Mapping):
        return values
    if place not in values:
        raise InputError(f"{name} has nothing for {place!r}; there are {', '.join(values)}.")
    return values[place]


def _shuffled(y: Any, seed: int) -> Any:
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    return y[order] if isinstance(y, Tensor) else [y[int(i)] for i in order]
