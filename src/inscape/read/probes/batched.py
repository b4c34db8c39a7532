"""Logistic probes of many sites, folds and columns of labels as one batch of problems."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import NotConvergedError
from inscape.core.logistic.design import Design
from inscape.core.logistic.minimise import DENSE, Columns, minimise
from inscape.core.progress import Progress
from inscape.core.readout import Rows, origin, picked, units_of
from inscape.read.probes.linear import decided
from inscape.read.probes.logistic import LogisticProbe, check_penalty

FACTORS = 1 << 30  # bytes of Hessians and remembered steps that are held at once


@dataclass(frozen=True, eq=False)
class HeldOut:
    """values: of every site, column and held-out row; probes of the first column; the largest gradient of each site."""

    values: list[Float[Tensor, "column held k"]]
    probes: dict[str, LogisticProbe]
    gradient: Float[Tensor, " site"]


def held_out_values(
    sites: Mapping[str, Rows],
    probe: LogisticProbe,
    columns: Sequence[Int[Tensor, " n"]],
    classes: np.ndarray,
    splits: Sequence[tuple[Tensor, Tensor]],
    held: Int[Tensor, " held"],
    progress: Progress = None,
) -> HeldOut:
    """Fit every site on every split and column of labels, sites of one width in as few batches as memory allows."""
    check_penalty(probe.C, probe.tol)
    d = units_of(next(iter(sites.values())))
    problems = len(columns) * len(splits) + (len(splits) > 1)
    outputs = 1 if len(classes) == 2 else len(classes)
    bytes_ = problems * (4 * (d + 1) ** 2 * (d < DENSE) + 2 * 8 * 8 * (d + 1) * outputs)
    step = max(1, FACTORS // max(1, bytes_))
    names = list(sites)
    made = [
        _of_one_batch({n: sites[n] for n in names[i : i + step]}, probe, columns, classes, splits, held, progress)
        for i in range(0, len(names), step)
    ]
    return HeldOut(
        [v for m in made for v in m.values],
        {name: p for m in made for name, p in m.probes.items()},
        torch.cat([m.gradient for m in made]),
    )


def _of_one_batch(
    sites: Mapping[str, Rows],
    probe: LogisticProbe,
    columns: Sequence[Tensor],
    classes: np.ndarray,
    splits: Sequence[tuple[Tensor, Tensor]],
    held: Tensor,
    progress: Progress,
) -> HeldOut:
    n = len(columns[0])
    is_one = len(splits) == 1
    kept = splits[0][0] if is_one else torch.arange(n)  # of one split only the training rows are in the products
    used = {name: picked(x, kept) for name, x in sites.items()} if is_one else dict(sites)
    groups = torch.zeros(len(splits) + (not is_one), len(kept), dtype=torch.bool)
    for k, (train, _) in enumerate(splits):
        groups[k] = True if is_one else torch.isin(kept, train)
    if not is_one:
        groups[-1] = True  # the probe that is given back has seen everything
    order = [(c, k) for c in range(len(columns)) for k in range(len(splits))] + ([] if is_one else [(0, len(splits))])
    labels = torch.stack([columns[c][kept] for c, _ in order], 1)
    design = Design(used, groups, standardise=probe.standardise, memory=probe.memory)
    found = minimise(
        design,
        Columns(labels, groups, tuple(k for _, k in order), len(classes)),
        C=probe.C,
        tol=probe.tol,
        max_rounds=probe.max_rounds,
        progress=progress,
    )
    worst = found.gradient.amax(1)
    if bool((worst > probe.tol).any()):
        s = int(worst.argmax())
        raise NotConvergedError(
            f"{design.names[s]}: a probe ended at a gradient of {float(worst[s]):.1e} after "
            f"{int(found.rounds[s].max())} rounds; it was asked to reach {probe.tol:g}.\n"
            "  lower C, or raise max_rounds or tol."
        )
    design.release()
    place = torch.full((n,), -1)
    place[held] = torch.arange(len(held))
    values, probes = [], {}
    for s, (name, x) in enumerate(sites.items()):
        folded = [design.folded(s, found.weight[s, j]) for j in range(len(order))]
        z = torch.zeros(len(columns), len(held), found.weight.shape[2], dtype=torch.float64)
        weight, bias = torch.cat([w for w, _ in folded]), torch.cat([b for _, b in folded])
        tested = splits[0][1] if is_one else torch.arange(n)
        every = decided(picked(x, tested) if is_one else x, weight, bias).reshape(len(tested), len(order), -1)
        for j, (c, k) in enumerate(order):
            if k < len(splits):
                rows = splits[k][1]
                z[c, place[rows]] = every[:, j] if is_one else every[rows, j]
        values.append(z)
        last = 0 if is_one else len(order) - 1
        own = replace(probe)
        own.weight_, own.bias_ = (t.clone() for t in folded[last])
        own.classes_ = tuple(classes.tolist())
        own.gradient_, own.objective_ = float(found.gradient[s, last]), float(found.objective[s, last])
        own.rounds_ = int(found.rounds[s, last])
        own.site_, own.model_ = origin(x)
        own.site_ = own.site_ or name
        probes[name] = own
    return HeldOut(values, probes, worst)
