"""How few neurons of each MLP are at work for a token: of a model on texts, of a store, and while a net trains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ModelError
from inscape.core.progress import Progress, tell
from inscape.engine.forward import run
from inscape.engine.inputs import prepare
from inscape.models.model import Model
from inscape.read.sparsity.activity import Activity
from inscape.store.statistics import one_pass
from inscape.store.store import Store

DRAWN = 256  # Gaussian rows of the control; its numbers vary little between rows


@dataclass(frozen=True, eq=False)
class Profile:
    """How many units of each site are at work, over real tokens; `control` is the same of Gaussian values.

    eps: a unit is active where |a| > eps * rms of its token (|a| > eps where not relative); `counted` has the counts.
    nonzero, active: mean shares of a token's units. hoyer: 0 for equal sizes, 1 for a single unit. effective: the
    effective number of units, (sum a^2)^2 / sum a^4. dead, always: shares of units that are active at no token, at all.
    """

    sites: tuple[str, ...]
    counted: tuple[Activity, ...]
    controls: tuple[Activity, ...]
    n_tokens: int
    eps: float
    relative: bool

    @property
    def n_units(self) -> tuple[int, ...]:
        return tuple(len(c.active_) for c in self.counted)

    @property
    def nonzero(self) -> Float[Tensor, " site"]:
        return _over(self.counted, lambda c: float(c.nonzero_.double().mean()) / c.n)

    @property
    def active(self) -> Float[Tensor, " site"]:
        return _over(self.counted, _active)

    @property
    def effective(self) -> Float[Tensor, " site"]:
        return _over(self.counted, lambda c: c.participation_)

    @property
    def hoyer(self) -> Float[Tensor, " site"]:
        return _over(self.counted, lambda c: c.hoyer_)

    @property
    def dead(self) -> Float[Tensor, " site"]:
        return _over(self.counted, lambda c: float((c.active_ == 0).double().mean()))

    @property
    def always(self) -> Float[Tensor, " site"]:
        return _over(self.counted, lambda c: float((c.active_ == c.n).double().mean()))

    @property
    def control(self) -> dict[str, Float[Tensor, " site"]]:
        """active, effective and hoyer of Gaussian values in as many units; empty without a control."""
        if not self.controls:
            return {}
        return {
            "active": _over(self.controls, _active),
            "effective": _over(self.controls, lambda c: c.participation_),
            "hoyer": _over(self.controls, lambda c: c.hoyer_),
        }

    def rates(self, site: str, *, exact: bool = False) -> Float[Tensor, " unit"]:
        """At which share of the tokens each unit is active (exact: not 0)."""
        found = self.counted[self._at(site)]
        return (found.nonzero_ if exact else found.active_).double() / found.n

    def per_token(self, q: Sequence[float], *, exact: bool = False) -> Float[Tensor, "site q"]:
        """Quantiles over tokens of the share of units that are active (exact: not 0), from the exact counts."""
        return torch.stack([_quantiles(c.nonzero_rows_ if exact else c.active_rows_, q) for c in self.counted])

    def per_unit(self, q: Sequence[float], *, exact: bool = False) -> Float[Tensor, "site q"]:
        """Quantiles over units of the share of tokens at which they are active (exact: not 0)."""
        at = torch.tensor(list(q), dtype=torch.float64)
        return torch.stack([self.rates(s, exact=exact).quantile(at, interpolation="lower") for s in self.sites])

    def _at(self, site: str) -> int:
        if site not in self.sites:
            raise InputError(f"this profile has no {site!r}: its sites are {', '.join(self.sites)}.")
        return self.sites.index(site)


def profile(
    model: Model,
    inputs: Sequence[Any],
    sites: Any = None,
    *,
    eps: float = 0.1,
    relative: bool = True,
    edits: Sequence[Any] = (),
    control: str | None = "gaussian",
    seed: int = 0,
    progress: Progress = None,
) -> Profile:
    """Nonzero and active shares, Hoyer sparsity, effective number and firing rates of every MLP's neurons.

    inputs: one entry a run (a text, a batch); padding does not count. sites: a pattern; every mlp.act of the main stack
    without it. eps, relative: see `Profile`; smooth activations (GELU, SiLU) are never exactly 0, so compare them by
    `active`, `effective` or `read.sparsity.cett`, not by `nonzero`.
    control: "gaussian", values of a Gaussian in as many units: active is 1 - erf(eps / sqrt 2), effective about a third
    of the units, Hoyer about 0.2; a dense code looks like that.
    Cost: one forward an input, without the head; each site is counted where it is met and never kept.
    Raises: ModelError for a model without mlp.act (a mixture of experts keeps its neurons inside the experts).
    Source: Li et al. 2022, arXiv:2210.06313 (nonzero shares and firing rates); the thresholds and the control are ours.
    """
    names = neurons_of(model, sites)
    counted = {name: Activity(eps, relative) for name in names}
    each = list(inputs)
    for index, one in enumerate(each):
        tell(progress, "counting neurons at work", index / len(each))
        ready = prepare(model, one)

        def count(x: Tensor, name: str, mask: Tensor | None = ready.mask) -> Tensor:
            real = mask is not None and mask.shape == x.shape[:2]
            rows = x[mask.to(x.device).bool()] if real and mask is not None else x
            counted[name].update(rows.reshape(-1, x.shape[-1]))
            return x.new_zeros(0)

        read = {name: (name, lambda x, name=name, count=count: count(x, name)) for name in names}
        run(model, ready, read=read, edits=edits)
    return _made(names, [counted[n] for n in names], control, seed)


def store_profile(
    store: Store,
    columns: Sequence[str] | None = None,
    *,
    eps: float = 0.1,
    relative: bool = True,
    control: str | None = "gaussian",
    seed: int = 0,
    progress: Progress = None,
) -> Profile:
    """The same of recorded columns, in one pass over the store. columns: every mlp.act of it when left out.

    Cost: each column read once. Raises: InputError for a store without such columns.
    """
    names = list(columns or [c.name for c in store.about.columns if c.name.endswith("mlp.act")])
    if not names:
        there = ", ".join(c.name for c in store.about.columns if c.site)
        raise InputError(f"{store.path} has no column of neurons (mlp.act): it has {there}.\n  name columns=.")
    counted = [Activity(eps, relative) for _ in names]
    one_pass(store, {name: [c] for name, c in zip(names, counted, strict=True)}, progress=progress)
    return _made(names, counted, control, seed)


def sparsity_meter(
    model: Model, inputs: Sequence[Any], sites: Any = None, *, eps: float = 0.1, edits: Sequence[Any] = ()
) -> Callable[[Any], Mapping[str, float]]:
    """A meter for `train.fit(meters=)`: nonzero, active and effective shares of the opened module, now, on `inputs`.

    "nonzero", "active", "effective" (of the units), "dead": means over sites; "nonzero.layers.3" and so on: one each.
    """

    def meter(module: Any) -> Mapping[str, float]:
        found = profile(model, inputs, sites, eps=eps, edits=edits, control=None)
        parts = {"nonzero": found.nonzero, "active": found.active, "dead": found.dead}
        parts["effective"] = found.effective / torch.tensor(found.n_units)
        each = {f"{k}.{s.removesuffix('.mlp.act')}": float(x) for k, v in parts.items() for s, x in zip(found.sites, v)}  # noqa: B905
        return {k: float(v.mean()) for k, v in parts.items()} | each

    return meter


def active_map(
    model: Model, inputs: Any, sites: Any = None, *, eps: float = 0.1
) -> tuple[tuple[str, ...], Float[Tensor, "site batch pos"]]:
    """The share of neurons active (|a| > eps * rms) at every site and token of one batch; NaN at padding."""
    names = neurons_of(model, sites)

    def share(x: Tensor) -> Tensor:
        size = x.float().abs()
        return (size > eps * size.square().mean(-1, keepdim=True).sqrt()).float().mean(-1)

    trace = run(model, inputs, read={name: (name, share) for name in names})
    found = torch.stack([trace[name].cpu() for name in names])
    if trace.mask is not None and trace.mask.shape == found.shape[1:]:
        found = found.masked_fill(~trace.mask.bool().cpu(), torch.nan)
    return tuple(names), found


def neurons_of(model: Model, sites: Any = None) -> list[str]:
    """The sites of neurons: those that match, or every mlp.act of the main stack. Raises ModelError for none."""
    if sites is not None:
        return model.sites(*([sites] if isinstance(sites, str) else sites)).names
    names = [f"{b.name}.mlp.act" for b in model.blocks if f"{b.name}.mlp.act" in model.sites]
    if not names:
        raise ModelError(f"{type(model.module).__name__} offers no mlp.act: no layer has neurons that its table names.")
    return names


def _made(names: Sequence[str], counted: Sequence[Activity], control: str | None, seed: int) -> Profile:
    if control not in (None, "gaussian"):
        raise InputError(f"control={control!r} is none of a sparsity profile; it can be 'gaussian' or None.")
    controls: list[Activity] = []
    known: dict[int, Activity] = {}
    for c in counted if control else ():
        d = len(c.active_)
        if d not in known:  # Gaussian rows of unit variance: only relative shares can be compared
            drawn = torch.randn(DRAWN, d, generator=torch.Generator().manual_seed(seed))
            known[d] = Activity(c.eps, True).update(drawn)
        controls.append(known[d])
    return Profile(
        tuple(names), tuple(counted), tuple(controls), counted[0].n, counted[0].eps, counted[0].relative
    )  # fmt: skip


def _active(c: Activity) -> float:
    return float(c.active_.double().mean()) / c.n


def _over(counted: Sequence[Activity], number: Callable[[Activity], float]) -> Float[Tensor, " site"]:
    return torch.tensor([number(c) for c in counted], dtype=torch.float64)


def _quantiles(histogram: Tensor, q: Sequence[float]) -> Float[Tensor, " q"]:
    """Lower quantiles of a count that was seen histogram[count] times, as shares of the largest count."""
    below = histogram.cumsum(0)
    rank = (torch.tensor(list(q), dtype=torch.float64) * (below[-1] - 1)).floor().long() + 1
    return torch.searchsorted(below, rank).double() / (len(histogram) - 1)
