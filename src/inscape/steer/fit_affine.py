"""LinEAS: an affine map a unit, trained through the frozen model until source samples look like the target's inside.

1. The target's activations are taken once, from the model as it is: one vector a sample and site.
2. The source runs under all maps; the loss is the squared transport of every unit to the target's, over its variance.
3. Gradients reach every map through the layers behind it, so that an early map knows what a later one is left to do.
4. The proximal step of a sparse group lasso comes last: what it sets to zero leaves its unit exactly as it was.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from inscape.core.edit import Edit
from inscape.core.edits.affine import affine
from inscape.core.errors import InputError, NotFiniteError, ShapeError
from inscape.core.progress import Progress, tell
from inscape.core.transport import squared_transport
from inscape.models.model import Model
from inscape.steer.affine_steer import AffineSteer
from inscape.steer.pooled import Pooled, sites_of
from inscape.steer.targets import frozen
from inscape.steer.unit_maps import MAPS
from inscape.train.history import History
from inscape.train.loop import fit
from inscape.train.proximal import ProximalAdam
from inscape.train.schedule import cosine

METHODS = ("end_to_end", *MAPS)


def fit_affine(
    model: Model,
    source: Any,
    target: Any,
    sites: Any = "layers.*.mlp.in",
    *,
    method: str = "end_to_end",
    pool: str = "mean",
    in_order: bool | None = None,
    steps: int = 200,
    lr: float = 0.05,
    sparsity: float = 0.0,
    group_sparsity: float = 0.0,
    units: Mapping[str, Tensor] | None = None,
    start: AffineSteer | None = None,
    scaled: bool = True,
    batch_rows: int = 64,
    at: Any = None,
    control: str | None = None,
    seed: int = 0,
    batch_tokens: int = 4096,
    max_length: int | None = None,
    progress: Progress = None,
) -> AffineSteer:
    """Fit one scale and one shift a unit that make the activations of source samples distributed as the target's.

    Samples need not be pairs; some thirty of each do. method:
      "end_to_end"  all maps together, through the model, on `sum over sites and units of squared_transport / variance`
      "linear"      Lin-AcT: least squares of sorted target on sorted source
      "gaussian"    mean and standard deviation
      "mean"        mean alone, w = 1
      "probe"       a shift along the logistic probe of the site, as far as the means lie apart on it
    Take "end_to_end" where a forward and backward of the samples some hundred times is not too much, "linear" else.

    pool: a sample as one vector, "mean" over its real tokens, "last" or "max". in_order: closed forms site after site,
    each seeing what the maps before it leave (default: for "linear"); costs a forward a site.
    steps, lr: lr is in standard deviations of a unit, and falls as a cosine. batch_rows: source samples a step; the
    target's are all there. sparsity, group_sparsity: the lasso's penalties as shares of the smallest that would leave
    every unit, every site as it is (0.3 is much). start: maps that the training begins at, those of "linear" say, which
    takes far fewer steps; the identity when left out. units: which may be changed at all, by site. scaled: False for
    the paper's loss, which is in squared activations, so that a few loud units are most of it. at: where the maps act
    in the fit; give `edits` the same. control: "shuffle" deals the samples to both sides anew.

    Coordinates of the training and of its penalties are (w - 1) and the shift at the source's mean over its standard
    deviation, both 0 at the start; ours: the paper penalises (w - 1, b) as they are. Units that do not vary keep w = 1.
    Cost: `steps` forwards and backwards up to the last site; a closed form one forward of each side.
    Raises: InputError for unknown words, fewer than two samples, a loss no map can change; ShapeError for `units` that
    do not fit; NotFiniteError. Source: Rodriguez et al. 2025, arXiv:2503.10679.
    """
    _check(method, control, steps, lr, sparsity, group_sparsity, batch_rows)
    names = sites_of(model, sites)
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "max_length": max_length}
    sides = [Pooled.of(model, x, names, pool, name, **options) for x, name in ((source, "source"), (target, "target"))]
    if control == "shuffle":
        sides = _dealt(sides, seed)
    here, there = sides
    wanted = there.states()
    about = f"{f'{control} control of ' if control else ''}{method} maps of {len(here)} samples to {len(there)}"
    if method != "end_to_end":
        in_order = method == "linear" if in_order is None else in_order
        maps = _closed(here, wanted, method, in_order, at, progress)
        maps = {site: _only(w, b, _mask(units, site, w)) for site, (w, b) in maps.items()}
        weight, bias = ({site: pair[i].cpu() for site, pair in maps.items()} for i in (0, 1))
        return AffineSteer(weight, bias, about, model.fingerprint, method, pool)
    began = here.states()
    masks = {site: _mask(units, site, began[site].new_zeros(here.shapes[site])) for site in names}
    learned = Maps({s: Standard.of(began[s], wanted[s]) for s in names}, here.shapes, masks, at, model.device)
    boost = 1024.0 if model.dtype == torch.float16 else 1.0  # gradients below float16's smallest number would be lost
    part = min(batch_rows, len(here))

    def loss(maps: Maps, rows: list[int]) -> tuple[Tensor, dict[str, float]]:
        states = here.states(maps.edits(), rows=rows, grad=True)
        total = maps.distance(states, wanted, scaled)
        return boost * total, {"loss": float(total.detach()), "changed": maps.changed()}

    with frozen(model):
        l1, group = _penalties(learned, loss(learned, list(range(part)))[0], names, sparsity, group_sparsity)
        if start is not None:
            learned.begin_at(start)
        history = fit(
            learned, partial(_drawn, len(here), part, seed), loss, steps=steps, lr=lr, schedule=cosine, clip=None,
            optimizer=partial(ProximalAdam, l1=l1, group=group), seed=seed, progress=progress,
        )  # fmt: skip
    weight, bias = learned.maps()
    return AffineSteer(
        weight, bias, about, model.fingerprint, method, pool, _plain(history), (l1 / boost, group / boost)
    )


@dataclass(frozen=True, eq=False)
class Standard:
    """What makes one unit as good as another: the source's mean, and the spread within both samples."""

    mean: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]
    varies: Bool[Tensor, " d"]

    @classmethod
    def of(cls, z: Float[Tensor, "n d"], v: Float[Tensor, "m d"]) -> "Standard":
        """The spread is held above a thousandth of the site's median one, so that dead units do not rule the loss."""
        spread = ((z.double().var(0) + v.double().var(0)) / 2).sqrt()
        least = max(1e-3 * float(spread.median()), 1e-6 * float(v.double().square().mean().sqrt()), 1e-12)
        return cls(z.mean(0), spread.clamp(min=least).to(z), z.double().std(0).to(z) > least)


class Maps(nn.Module):
    """The trained coordinates, one tensor [2, units] a site, and the edits they are."""

    def __init__(
        self, standards: Mapping[str, Standard], shapes: Mapping[str, tuple[int, ...]], masks: Mapping[str, Tensor],
        at: Any, device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__()
        self.standards, self.shapes, self.at = standards, shapes, at
        self.free: dict[str, Tensor] = {}
        for site, x in standards.items():
            may = masks[site].flatten().to(x.varies.device)
            self.free[site] = torch.stack([may & x.varies, may])
        self.u = nn.ParameterList(
            [nn.Parameter(torch.zeros(2, len(x.mean), device=device)) for x in standards.values()]
        )

    @torch.no_grad()
    def begin_at(self, start: AffineSteer) -> None:
        """Take over maps; sites they do not have begin at the identity. Raises: ShapeError."""
        for u, (site, x) in zip(self.u, self.standards.items(), strict=True):
            if site not in start.weight:
                continue
            if start.weight[site].shape != self.shapes[site]:
                raise ShapeError(
                    f"start has maps of {tuple(start.weight[site].shape)} units at {site}; it has {self.shapes[site]}."
                )
            w, b = (t[site].flatten().to(u) for t in (start.weight, start.bias))
            u.copy_(torch.stack([w - 1, (b + (w - 1) * x.mean.to(u)) / x.spread.to(u)]) * self.free[site].to(u))

    def both(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(w, b) of every site."""
        out = {}
        for u, (site, x) in zip(self.u, self.standards.items(), strict=True):
            slope, shift = (u * self.free[site].to(u)).unbind(0)
            out[site] = (1 + slope, shift * x.spread.to(u) - slope * x.mean.to(u))
        return out

    def edits(self) -> list[Edit]:
        return [affine(site, w.reshape(self.shapes[site]), b.reshape(self.shapes[site]), at=self.at)
                for site, (w, b) in self.both().items()]  # fmt: skip

    def maps(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        found = self.both()
        return tuple(  # type: ignore[return-value]
            {site: pair[i].detach().cpu().float().reshape(self.shapes[site]) for site, pair in found.items()}
            for i in (0, 1)
        )

    def distance(self, states: Mapping[str, Tensor], wanted: Mapping[str, Tensor], scaled: bool) -> Tensor:
        """The loss, in float32."""
        total: Any = 0.0
        for site, x in self.standards.items():
            found = squared_transport(states[site].float(), wanted[site].to(states[site].device).float())
            total = total + (found / x.spread.to(found).square() if scaled else found).sum().to(self.u[0].device)
        return total

    def changed(self) -> float:
        """Share of units that are not left alone."""
        return float(torch.cat([(u.detach() != 0).any(0) for u in self.u]).double().mean())


def _check(method: str, control: str | None, steps: int, lr: float, l1: float, group: float, rows: int) -> None:
    if method not in METHODS:
        raise InputError(f"method={method!r} is none of {', '.join(map(repr, METHODS))}.")
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} can be 'shuffle' or None.")
    if not (0 <= l1 < 1 and 0 <= group < 1):
        raise InputError(
            f"sparsity={l1}, group_sparsity={group}: shares of the penalty that leaves everything as it is, from 0 to "
            "below 1."
        )
    if steps < 1 or rows < 2 or not lr > 0:
        raise InputError(f"{steps=}, batch_rows={rows}, {lr=}: a step, two rows and a rate above 0 at least.")
    if method != "end_to_end" and (l1 or group):
        raise InputError(f"method={method!r} is a closed form: only 'end_to_end' has penalties.")


def _closed(
    here: Pooled, wanted: Mapping[str, Tensor], method: str, in_order: bool, at: Any, progress: Progress
) -> dict[str, tuple[Tensor, Tensor]]:
    """The maps of a closed form; in order: each from what the maps before it leave of the source."""
    states = {} if in_order else here.states()
    found: dict[str, tuple[Tensor, Tensor]] = {}
    edits: list[Edit] = []
    for i, site in enumerate(here.sites):
        tell(progress, f"map at {site}", i / len(here.sites))
        z = here.states(edits, sites=[site])[site] if in_order else states[site]
        w, b = (x.float().reshape(here.shapes[site]) for x in MAPS[method](z.double(), wanted[site].double()))
        if not bool(torch.isfinite(w).all() and torch.isfinite(b).all()):
            raise NotFiniteError(f"the {method} map at {site} is not finite: its activations are too large or too few.")
        found[site] = (w, b)
        edits.append(affine(site, w, b, at=at))
    return found


def _only(w: Tensor, b: Tensor, mask: Bool[Tensor, "*units"]) -> tuple[Tensor, Tensor]:
    mask = mask.to(w.device)
    return torch.where(mask, w, 1), torch.where(mask, b, 0)


def _mask(units: Mapping[str, Tensor] | None, site: str, like: Tensor) -> Bool[Tensor, "*units"]:
    """Which units of a site may be changed: all, or those that were given; none at a site that was left out."""
    if units is None:
        return torch.ones(like.shape, dtype=torch.bool)
    given = units.get(site)
    if given is None:
        return torch.zeros(like.shape, dtype=torch.bool)
    if given.dtype != torch.bool or given.shape != like.shape:
        raise ShapeError(
            f"units at {site} are a bool mask of shape {tuple(like.shape)}; got {given.dtype} {tuple(given.shape)}."
        )
    return given.cpu()


def _dealt(sides: list[Pooled], seed: int) -> list[Pooled]:
    """The samples of both sides dealt anew, as many to each as before."""
    items = [item for side in sides for item in side.items]
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed)).tolist()
    cut = len(sides[0])
    parts = ([items[i] for i in order[:cut]], [items[i] for i in order[cut:]])
    return [
        Pooled(s.model, part, s.sites, s.pool, s.name, s.batch_tokens) for s, part in zip(sides, parts, strict=True)
    ]


def _penalties(maps: Maps, loss: Tensor, names: tuple[str, ...], l1: float, group: float) -> tuple[float, float]:
    """The penalties in units of the loss. Refuses what cannot be trained, and warns of maps behind the loss."""
    if not bool(torch.isfinite(loss)):
        raise NotFiniteError(
            f"the loss is {float(loss.detach())} before the first step: the pooled activations are too far apart for "
            "float32.\n  leave out the site that is not finite, or take scaled=True."
        )
    grads = torch.autograd.grad(loss, list(maps.u), allow_unused=True) if loss.requires_grad else [None] * len(names)
    dead = [site for site, g in zip(names, grads, strict=True) if g is None or not bool((g != 0).any())]
    if len(dead) == len(names):
        raise InputError(
            f"no map changes the loss: {', '.join(names[:3])} at at={maps.at!r} act behind the tokens that are pooled, "
            "or source and target are the same.\n  let the maps act at earlier tokens, or pool over later ones."
        )
    if dead and bool(torch.stack([maps.free[site].any() for site in dead]).all()):
        warnings.warn(
            f"the loss does not depend on the maps at {', '.join(dead[:5])}: they stay as they are.", stacklevel=4
        )
    there = [g for g in grads if g is not None]
    largest = max(float(g.abs().max()) for g in there)
    longest = max(float(g.norm()) / g.numel() ** 0.5 for g in there)
    return l1 * largest, group * longest


def _drawn(n: int, size: int, seed: int, step: int) -> list[int]:
    """The samples of a step: every one once, in a new order every time round; all of them where they fit."""
    if size == n:
        return list(range(n))
    each = n // size
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 104729 * (step // each))).tolist()
    return order[(step % each) * size : (step % each + 1) * size]


def _plain(history: History) -> History:
    """The loss without what float16 had it multiplied by."""
    history.loss = history.extra.pop("loss")
    return history
