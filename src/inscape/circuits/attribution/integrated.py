"""Integrated gradients at any set of entries: shares of an edit's whole effect that add up to it.

1. One run watches what the edits make of every value they meet: its baseline b, from its clean value x.
2. All touched entries together are set to b + a (x - b), for the nodes a of a quadrature rule on [0, 1]; the gradient
   of the metric is averaged over them with the rule's weights.
3. share = (x - b) . averaged gradient; their sum is m(x) - m(b) but for the rule's error, which is reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.attribution.first_order import Attribution, Moves, away, by_row, real_only
from inscape.circuits.attribution.objective import Objective
from inscape.core.edit import Edit, make_edit
from inscape.core.errors import InputError, NotConvergedError
from inscape.core.progress import Progress, tell
from inscape.core.step import Step
from inscape.engine.inputs import prepare
from inscape.engine.planning import Read, names_of, tasks_of
from inscape.models.model import Model

RULES = ("gauss", "midpoint", "left")
OTHERS = ("recomputed", "clean")
PLACES = ("batch", "pos", "query", "height", "width")  # axes of where; the others are of what
BATCH = 4096  # tokens of a batch of scaled copies


@dataclass(frozen=True, eq=False)
class Integrated(Attribution):
    """Shares of m(clean) - m(baseline); `entries` add up to it, `grads` are averaged along the path, `steps` is x - b.

    baseline: the metric with all touched entries at their baseline, [row]; `metric` is the clean run's. error: what is
    missing of each row's difference. gap: the mean |error| over the mean |difference|.
    """

    baseline: Float[Tensor, " row"] = field(kw_only=True)

    @property
    def error(self) -> Float[Tensor, " row"]:
        return self.metric - self.baseline - self.total()

    @property
    def gap(self) -> float:
        return float(self.error.abs().mean() / (self.metric - self.baseline).abs().mean().clamp(min=1e-12))


def integrated_gradients(
    model: Model,
    inputs: Any,
    metric: Any,
    sites: Read | Edit | Sequence[Edit],
    *,
    baseline: Any = None,
    steps: int = 16,
    rule: str = "gauss",
    others: str = "recomputed",
    tolerance: float | None = 0.05,
    batch_tokens: int = BATCH,
    progress: Progress = None,
    **places: Any,
) -> Integrated:
    """Integrated gradients, jointly over all given entries: `(x - b) . integral_0^1 dm/dx (b + a (x - b)) da`.

    All entries of all sites are scaled together, and the shares add up to m(clean) - m(all at baseline). For one site
    after another call it once a site. Choose it over `first_order` where the metric saturates and shares must add up.
    sites: names or patterns with baseline= ("zero", "mean", "resample", or another run's trace) and at=, heads=,
        units=; or edits, each of which says where it acts and what the baseline is.
    others: what the untouched entries of a touched site do: "recomputed", what the scaled entries below make of them;
        or "clean", held at their clean values at the touched positions, so that only the chosen ones carry the effect.
    rule: "gauss" (Gauss-Legendre, exact for polynomials of degree 2 steps - 1), "midpoint", or "left" (Riemann sum from
        the baseline, as much published code; its error falls as 1 / steps). tolerance: the largest `gap` accepted.
    Cost: `steps` forwards and backwards, run together up to batch_tokens, and two forwards.
    Raises: NotConvergedError when the gap is above `tolerance`; InputError for a site or metric without a gradient.
    Source: Sundararajan et al. 2017, arXiv:1703.01365; jointly over units of several layers as in Lu et al. 2021,
    arXiv:2012.13985. Ours takes any edit as the baseline.
    """
    if rule not in RULES or others not in OTHERS:
        raise InputError(f"rule={rule!r}, others={others!r}: rules are {', '.join(RULES)}, others {', '.join(OTHERS)}.")
    if steps < 1:
        raise InputError(f"steps={steps}: the path needs at least one point.")
    edits = _edits(model, sites, baseline, places)
    prepared = prepare(model, inputs)
    objective = Objective.of(model, prepared, metric)
    watch = Moves(tasks_of(model, {}, edits, prepared), objective.n_rows)
    clean = objective.measure(edits=watch.watching)
    path = Path(watch, others)
    n_rows = objective.n_rows
    total = averaged_gradients(objective, path, rule, steps, batch_tokens, progress)
    bottom = objective.measure(list(range(n_rows)), path.at(list(range(n_rows)), [0.0] * n_rows))
    way = {s: real_only((watch.clean[s] - watch.moved[s]).float(), prepared.mask, watch.axes[s]) for s in watch.sites}
    out = Integrated(
        {s: way[s] * total[s] for s in watch.sites}, way, total, clean, watch.axes, prepared.mask, baseline=bottom
    )
    if tolerance is not None and not out.gap <= tolerance:
        raise NotConvergedError(
            f"{steps} steps of {rule!r} leave {out.gap:.1%} of the difference unexplained, above "
            f"tolerance={tolerance:g} (the metric goes from {float(bottom.mean()):.4g} to {float(clean.mean()):.4g}).\n"
            "  take more steps or rule='gauss', a baseline that is nearer, or tolerance=None to see what there is."
        )
    return out


def _edits(model: Model, sites: Any, baseline: Any, places: dict[str, Any]) -> list[Edit]:
    given = [sites] if isinstance(sites, Edit) else list(sites) if isinstance(sites, (list, tuple)) else []
    if given and all(isinstance(e, Edit) for e in given):
        if baseline is not None or places:
            raise InputError(
                "edits say themselves where they act and what the baseline is; leave baseline= and at= out."
            )
        return given
    return away(names_of(model, sites), baseline, **places)


class Path:
    """The straight way from baseline to clean values of what was watched, as edits of repeated rows.

    touched: which entries go that way, site by site; all that the watched edits reach, when left out.
    """

    def __init__(self, watch: Moves, others: str, touched: Mapping[str, Tensor] | None = None) -> None:
        self.watch, self.others = watch, others
        self.touched = watch.touched if touched is None else touched
        self.sites = [s for s in watch.sites if s in self.touched]

    def at(self, rows: Sequence[int], points: Sequence[float]) -> list[Edit]:
        """Edits for a batch of these rows, each at its own point of the way: 0 the baseline, 1 the clean run."""
        return [self._edit(site, torch.tensor(rows), torch.tensor(points)) for site in self.sites]

    def _edit(self, site: str, rows: Tensor, points: Tensor) -> Edit:
        clean, moved = self.watch.clean[site], self.watch.moved[site]
        touched = torch.isfinite(clean) & self.touched[site]
        within = [i for i, name in enumerate(self.watch.axes[site]) if name not in PLACES]
        whole = touched.any(within, keepdim=True) if within else touched
        hold = self.others == "clean"

        def fn(x: Tensor, step: Step) -> Tensor:
            shape, index = x.shape, rows.to(x.device)
            x = by_row(x, len(rows), site)
            c, b, here = clean[index], moved[index], touched[index]
            a = points.to(x).reshape(-1, *[1] * (x.ndim - 1))
            if hold:
                x = torch.where(whole[index], c, x)
            return torch.where(here, (b + a * (c - b)).to(x.dtype), x).reshape(shape)

        return make_edit(site, fn, "on the way", contextual=True)


def averaged_gradients(
    objective: Objective, path: Path, rule: str, steps: int, batch_tokens: int = BATCH, progress: Progress = None
) -> dict[str, Tensor]:
    """Gradients of every row at the sites of a path, averaged along it with the weights of the rule."""
    n_rows, (nodes, weights) = objective.n_rows, quadrature(rule, steps)
    jobs = [(row, a, w) for a, w in zip(nodes, weights, strict=True) for row in range(n_rows)]
    size = max(1, batch_tokens // max(path.watch.clean[s].shape[1] for s in path.sites))
    total: dict[str, Tensor] = {}
    for start in range(0, len(jobs), size):
        tell(progress, "integrating along the path", start / len(jobs))
        rows, a, w = (list(x) for x in zip(*jobs[start : start + size], strict=True))
        made = objective.gradients(path.sites, rows, path.at(rows, a))
        for site in path.sites:
            grad = by_row(made.grads[site].float(), len(rows), site)
            weighed = grad * torch.tensor(w, device=grad.device).reshape(-1, *[1] * (grad.ndim - 1))
            held = total.setdefault(site, torch.zeros_like(path.watch.clean[site], dtype=torch.float32))
            held.index_add_(0, torch.tensor(rows, device=held.device), weighed)
    return total


def quadrature(rule: str, steps: int) -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1]."""
    if rule == "gauss":
        x, w = np.polynomial.legendre.leggauss(steps)
        return ((x + 1) / 2).tolist(), (w / 2).tolist()
    shift = 0.5 if rule == "midpoint" else 0.0
    return [(i + shift) / steps for i in range(steps)], [1 / steps] * steps
