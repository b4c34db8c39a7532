"""CETT: how much of an MLP's output is lost when its quiet neurons are left out, and which thresholds lose how much."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.edits.sparsify import threshold_activation
from inscape.core.errors import InputError, ModelError
from inscape.core.progress import Progress, tell
from inscape.engine.forward import run
from inscape.engine.inputs import prepare
from inscape.models.model import Model
from inscape.read.sparsity.profile import neurons_of

ROWS = 256  # tokens through the down projection at once


@dataclass(frozen=True, eq=False)
class Cett:
    """What thresholds cost, layer by layer: neuron i of a token is cut where |x_i| ||W_d[:, i]|| < threshold.

    error: mean over tokens of ||W_d x_cut|| / ||W_d x||, from 0 to about 1. kept: share of neurons that are not cut (an
    exact zero is cut by any threshold above 0). norms: ||W_d[:, i]|| of every site.
    """

    sites: tuple[str, ...]
    thresholds: Float[Tensor, "site point"]
    error: Float[Tensor, "site point"]
    kept: Float[Tensor, "site point"]
    norms: tuple[Float[Tensor, " _"], ...]
    n_tokens: int

    def thresholds_at(self, cett: float) -> Float[Tensor, " site"]:
        """The largest threshold of each layer with at most this error, linear between the points measured."""
        return torch.stack([_inverse(e, t, cett) for e, t in zip(self.error, self.thresholds, strict=True)])

    def kept_at(self, cett: float) -> Float[Tensor, " site"]:
        """The share of neurons kept there."""
        return torch.stack([_inverse(e, k, cett) for e, k in zip(self.error, self.kept, strict=True)])

    def edits(self, cett: float) -> list[Edit]:
        """Edits that cut every layer at one error; they can be saved, and work in a forward, generate and training."""
        return cuts(self.sites, self.thresholds_at(cett), self.norms)


def cuts(sites: Sequence[str], thresholds: Float[Tensor, " site"], norms: Sequence[Tensor]) -> list[Edit]:
    """One edit a layer that cuts neurons by what they write: |x_i| < threshold / ||W_d[:, i]||."""
    return [
        threshold_activation(site, (float(t) / n.clamp(min=1e-30)).float())
        for site, t, n in zip(sites, thresholds, norms, strict=True)
    ]


def cett_curves(
    model: Model,
    inputs: Sequence[Any],
    sites: Any = None,
    *,
    points: int = 24,
    max_tokens: int = 512,
    seed: int = 0,
    progress: Progress = None,
) -> Cett:
    """The error and the share kept of every MLP, over thresholds from 0 to its largest output magnitude.

    The points are quantiles of the magnitudes |x_i| ||W_d[:, i]|| that are not 0. Between them `Cett.thresholds_at` is
    linear; `cett` measures any thresholds exactly, `cett_thresholds` finds them to 1/65536 of the largest magnitude.
    max_tokens: a sample of the tokens, the same for all layers; an error is a mean over them.
    Cost: two forwards without head, and `points` times the down projections for max_tokens; no layer's neurons are kept
    beyond a sample. Raises: ModelError without mlp.act, or where a down projection has no plain matrix.
    Source: Luo et al. 2024, arXiv:2411.02335 (CETT as in arXiv:2402.03804); a bias of W_d is left out of the ratio.
    """
    names = neurons_of(model, sites)
    chosen = _sampled(model, inputs, max_tokens, seed)
    samples: dict[str, list[Tensor]] = {name: [] for name in names}
    downs = {name: down_projection(model, name) for name in names}
    norms = {name: w.float().norm(dim=0) for name, w in downs.items()}

    def see(name: str, x: Tensor) -> None:
        size = (x.abs() * norms[name].to(x.device)).reshape(-1)
        size = size[size > 0]
        step = max(1, len(size) // 20_000)
        samples[name].append(size[::step].cpu())

    _visit(model, chosen, names, see)
    grids = {}
    for name in names:
        size = torch.cat(samples[name]) if samples[name] else torch.zeros(0)
        at = torch.linspace(0, 1, points, dtype=torch.float64).float()
        grid = size.quantile(at) if len(size) else torch.arange(1, points + 1).float()
        grids[name] = torch.cat([torch.zeros(1), grid[:-1], grid[-1:] * 1.001])
    tell(progress, "errors of thresholds", 0.5)
    return _measured(model, chosen, grids, downs, norms)


def cett(model: Model, inputs: Sequence[Any], thresholds: Mapping[str, Any]) -> Cett:
    """The error and the share kept at given thresholds, {site: one, or several in rising order}, over all tokens."""
    grids = {name: torch.as_tensor(t).float().reshape(-1) for name, t in thresholds.items()}
    wrong = next((n for n, g in grids.items() if bool((g.diff() < 0).any()) or bool((g < 0).any())), None)
    if wrong is not None or len({len(g) for g in grids.values()}) != 1:
        raise InputError("cett: thresholds are at least 0, in rising order, equally many a site.")
    downs = {name: down_projection(model, name) for name in grids}
    norms = {name: w.float().norm(dim=0) for name, w in downs.items()}
    return _measured(model, _sampled(model, inputs, None, 0), grids, downs, norms)


def cett_thresholds(model: Model, inputs: Sequence[Any], target: float, sites: Any = None) -> Cett:
    """The largest threshold of every layer whose error is at most `target`: [site, 1], measured over all tokens.

    Four rounds of 16 candidates between the last two, which is 65,536 linear candidates up to the largest magnitude,
    as the source has them; five forwards. Raises: InputError for a target outside 0 to 1.
    """
    if not 0 <= target < 1:
        raise InputError(f"cett_thresholds(target={target}): a share of the output's norm, from 0 to below 1.")
    names = neurons_of(model, sites)
    norms = {n: down_projection(model, n).float().norm(dim=0) for n in names}
    top = dict.fromkeys(names, 0.0)

    def see(name: str, x: Tensor) -> None:
        top[name] = max(top[name], float((x.abs() * norms[name].to(x.device)).max()))

    _visit(model, _sampled(model, inputs, None, 0), names, see)
    low, width = dict.fromkeys(names, 0.0), {n: max(t, 1e-30) for n, t in top.items()}
    for _ in range(4):
        steps = torch.arange(17, dtype=torch.float64) / 16
        found = cett(model, inputs, {n: low[n] + width[n] * steps for n in names})
        for i, n in enumerate(names):
            under = int((found.error[i] <= target + 1e-12).sum()) - 1
            low[n], width[n] = low[n] + width[n] * max(0, min(under, 15)) / 16, width[n] / 16
    return cett(model, inputs, low)


def down_projection(model: Model, site: str) -> Float[Tensor, "d_model d_mlp"]:
    """The matrix that reads the neurons of a site. Raises ModelError where it is no plain matrix."""
    point = model.points[site]
    weight: Any = getattr(point.module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point() or point.side != "in":
        raise ModelError(f"{site} is not read by a plain matrix ({point.path}), so its neurons have no output norm.")
    return (weight.T if type(point.module).__name__ == "Conv1D" else weight).detach()


def _sampled(model: Model, inputs: Sequence[Any], max_tokens: int | None, seed: int) -> list[tuple[Any, Tensor]]:
    """Every input prepared, with which of its columns count: [batch, pos]."""
    ready = [prepare(model, one) for one in inputs]
    masks = []
    for r in ready:
        given = r.mask if r.mask is not None else (torch.ones_like(r.tokens) if r.tokens is not None else None)
        masks.append(given.bool().cpu() if given is not None else torch.ones(0, 0, dtype=torch.bool))
    total = sum(int(m.sum()) for m in masks)
    if max_tokens is not None and total > max_tokens:
        keep = torch.zeros(total, dtype=torch.bool)
        keep[torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:max_tokens]] = True
        for m in masks:
            n = int(m.sum())
            m[m.clone()] = keep[:n]
            keep = keep[n:]
    return list(zip(ready, masks, strict=True))


def _visit(model: Model, chosen: list[tuple[Any, Tensor]], names: Sequence[str], see: Any) -> None:
    """Call see(site, rows [n, d_mlp]) for the chosen tokens of every input, where the site is met."""
    for ready, mask in chosen:
        if mask.numel() and not bool(mask.any()):
            continue

        def rows(x: Tensor, name: str, mask: Tensor = mask) -> Tensor:
            taken = x[mask.to(x.device)] if mask.shape == x.shape[:2] else x.reshape(-1, x.shape[-1])
            see(name, taken.float())
            return x.new_zeros(0)

        run(model, ready, read={n: (n, lambda x, n=n, rows=rows: rows(x, n)) for n in names})


def _measured(
    model: Model,
    chosen: list[tuple[Any, Tensor]],
    grids: Mapping[str, Tensor],
    downs: Mapping[str, Tensor],
    norms: Mapping[str, Tensor],
) -> Cett:
    names = list(grids)
    sums = {n: torch.zeros(2, len(grids[n]), dtype=torch.float64) for n in names}
    seen = dict.fromkeys(names, 0)

    def see(name: str, x: Tensor) -> None:
        for part in x.split(ROWS):
            sums[name] += _errors(part, downs[name].to(part), norms[name].to(part), grids[name].to(part)).cpu()
        seen[name] += len(x)

    _visit(model, chosen, names, see)
    mean = torch.stack([sums[n] / max(1, seen[n]) for n in names])
    grid = torch.stack([grids[n] for n in names]).double()
    return Cett(tuple(names), grid, mean[:, 0], mean[:, 1], tuple(norms[n] for n in names), seen[names[0]])


def _errors(x: Tensor, down: Tensor, norm: Tensor, grid: Tensor) -> Float[Tensor, "2 point"]:
    """Sums over rows of ||W_d x_cut|| / ||W_d x|| and of the share kept, at rising thresholds.

    What is cut between two thresholds is projected and added to what was cut before, so each neuron is projected once.
    """
    size = x.abs() * norm
    whole = (x @ down.T).norm(dim=-1).clamp(min=1e-20)
    lost = torch.zeros(len(x), down.shape[0], dtype=x.dtype, device=x.device)
    found, before = [], torch.zeros_like(size, dtype=torch.bool)
    for t in grid:
        cut = size < t
        if bool((cut & ~before).any()):
            lost = lost + torch.where(cut & ~before, x, torch.zeros((), device=x.device, dtype=x.dtype)) @ down.T
        found.append(torch.stack([(lost.norm(dim=-1) / whole).double().sum(), (1 - cut.double().mean(-1)).sum()]))
        before = cut
    return torch.stack(found, 1)


def _inverse(error: Tensor, values: Tensor, target: float) -> Tensor:
    """The value where a curve that rises reaches the target; its ends outside."""
    rising = error.cummax(0).values
    i = int((rising <= target).sum())
    if i == 0:
        return values[0]
    if i == len(error):
        return values[-1]
    share = (target - rising[i - 1]) / (rising[i] - rising[i - 1])
    return values[i - 1] + share * (values[i] - values[i - 1])
