"""Laws fitted to curves: power laws of data, growth and decay over training, with intervals and a closed-form peak.

| law | y(t) | of what |
|---|---|---|
| "power" | y0 - c t^-alpha | losses and shares that approach y0 |
| "logspace_power" | exp(b - c t^alpha) + y0 | activation ratios of rectified nets over data |
| "sigmoid" | low + height / (1 + exp(-(t - t0) / width)) | a skill that appears |
| "explog" | A exp(-lam x) ln(x) + K, x = gamma t + t0 | massive activations over training |
| a function f(t, *params) | | yours, of tensors |

Least squares in float64 by Levenberg and Marquardt's method, in torch, on all starts and all resamples in one batch:
scipy's solver takes one start at a time and is no dependency of the core (the tests compare with it).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, NotConvergedError, NotFiniteError
from inscape.core.interval import Interval
from inscape.core.least_squares import least_squares

Function = Callable[..., Tensor]
Bounds = Mapping[str, tuple[int | float, int | float]]


@dataclass(frozen=True)
class Law:
    """A law with the names of its parameters, where they may lie and where starts are drawn.

    starts(t, y): bounds of the box that starts are drawn from, on the scale of the data.
    """

    name: str
    fn: Function
    names: tuple[str, ...]
    limits: Bounds
    starts: Callable[[Tensor, Tensor], Mapping[str, tuple[float, float]]]


@dataclass(frozen=True, eq=False)
class Curve:
    """A fitted law. params: by name, each with its interval. r2: share of the variance of y explained, 1 is all of it.

    aic: n ln(SSE / n) + 2 (k + 1): smaller is better among laws of the same points, k parameters. rmse: root mean
    square residual. covariance: of the parameters, from the Jacobian; NaN where the points do not determine them.
    agreed: share of the starts that ended at (nearly) the best fit.
    """

    law: str
    params: dict[str, Interval]
    r2: float
    aic: float
    rmse: float
    n: int
    covariance: Float[Tensor, "param param"]
    residuals: Float[Tensor, " n"]
    agreed: float
    fn: Function
    resampled: Float[Tensor, "resample param"] | None = None

    def predict(self, t: Any) -> Float[Tensor, " n"]:
        """The law at other points."""
        return self.fn(_vector(t, "t"), *(torch.tensor(float(p), dtype=torch.float64) for p in self.params.values()))

    def band(self, t: Any, level: float = 0.95) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Ends of the interval of the law at other points, from the resamples. Raises InputError without them."""
        if self.resampled is None:
            raise InputError("this curve was fitted without resamples.\n  fit(..., interval='bootstrap') has a band.")
        at = _vector(t, "t")
        values = self.fn(at, *(p[:, None] for p in self.resampled.T))
        low, high = values.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2]).double(), dim=0)
        return low, high

    def peak(self) -> tuple[float, float]:
        """(t, y) where an "explog" is largest, in closed form: x ln x = 1 / lam, so x = exp(W(1 / lam)).

        The other laws rise or fall all the way. Raises: InputError for them, and where the curve has a trough (A < 0).
        """
        if self.law != "explog":
            raise InputError(f"{self.law} rises or falls all the way, so it has no peak; look at predict().")
        amplitude, lam, gamma, t0, level = (float(p) for p in self.params.values())
        if amplitude <= 0 or lam <= 0 or gamma <= 0:
            raise InputError(
                f"this explog has no peak (A = {amplitude:.3g}, lam = {lam:.3g}, gamma = {gamma:.3g}): it falls, or "
                "grows without an end."
            )
        x = math.exp(lambert_w(1 / lam))
        return (x - t0) / gamma, amplitude * math.exp(-lam * x) * math.log(x) + level


def fit(
    t: Any,
    y: Any,
    law: str | Function = "power",
    *,
    names: Sequence[str] | None = None,
    bounds: Bounds | None = None,
    starts: Bounds | None = None,
    restarts: int = 32,
    interval: str = "jacobian",
    n: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> Curve:
    """Fit a law to points by least squares from many starts, and say how well its parameters are known.

    law: a name of the table above, or f(t, *params) of tensors that broadcast, with names= and starts= (a box each).
    bounds: of parameters, {name: (low, high)}, inside those that the law has anyway. restarts: starts drawn from the
    box; the law's own box follows the data.
    interval: "jacobian", from the curvature, with Student's t: for errors of equal size that are independent, and laws
    nearly linear in their parameters around the fit; "bootstrap", percentiles of n refits to resampled residuals, which
    follow skew and valleys ("explog" trades A, lam and gamma: compare peaks and K, not these).
    Cost: tens of milliseconds; with resamples a second. Deterministic from `seed`.
    Raises: InputError for fewer points than parameters + 1, unequal lengths or an unknown law; NotFiniteError for NaN;
    NotConvergedError when no start ends at a finite fit.
    Source: explog from arXiv:2508.03616 (placement of offset and gamma ours), power laws from arXiv:2411.02335.
    """
    at, values = _vector(t, "t"), _vector(y, "y")
    if len(at) != len(values):
        raise InputError(f"{len(at)} times and {len(values)} values: give one value a time.")
    known = law_of(law, names, starts)
    k = len(known.names)
    if len(at) <= k:
        raise InputError(f"{known.name} has {k} parameters and there are {len(at)} points.\n  give {k + 1} or more.")
    low, high = _limits(known, bounds)
    box = {**known.starts(at, values), **(starts or {})}
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(restarts, k, generator=generator, dtype=torch.float64)
    ends = torch.tensor([[float(e) for e in box[name]] for name in known.names], dtype=torch.float64)
    first = (ends[:, 0] + drawn * (ends[:, 1] - ends[:, 0])).clamp(low, high)
    found = least_squares(known.fn, at, values.expand(restarts, -1), first, low, high)
    order = found.cost.nan_to_num(nan=torch.inf, posinf=torch.inf)
    best = int(order.argmin())
    if not math.isfinite(float(order[best])):
        raise NotConvergedError(f"no start of {restarts} led {known.name} to a finite fit.\n  give starts= or bounds=.")
    p, sse = found.params[best], float(found.cost[best])
    residuals = values - known.fn(at, *p)
    spread = float((values - values.mean()).square().sum())
    covariance = _covariance(found.jacobian[best], sse / max(1, len(at) - k), p, low, high)
    resampled = None
    if interval == "bootstrap":
        resampled = _refitted(known.fn, at, values, residuals, p, low, high, n, k, generator)
        edges = resampled.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2]).double(), dim=0)
    elif interval == "jacobian":
        half = student_t(0.5 + level / 2, len(at) - k) * covariance.diagonal().clamp(min=0).sqrt()
        edges = torch.stack([p - half, p + half])
    else:
        raise InputError(f"interval={interval!r}: it can be 'jacobian' or 'bootstrap'.")
    params = {
        name: Interval(float(p[i]), float(edges[0, i]), float(edges[1, i]), level, len(at))
        for i, name in enumerate(known.names)
    }
    agreed = float((order <= sse * 1.01 + 1e-12 * max(spread, 1e-300)).double().mean())
    aic = len(at) * math.log(max(sse, 1e-300) / len(at)) + 2 * (k + 1)
    r2 = 1 - sse / spread if spread > 0 else float("nan")
    return Curve(
        known.name, params, r2, aic, math.sqrt(sse / len(at)), len(at), covariance, residuals, agreed, known.fn,
        resampled,
    )  # fmt: skip


def law_of(law: str | Function, names: Sequence[str] | None = None, starts: Bounds | None = None) -> Law:
    """The law of a name, or a function as one. Raises InputError for a name that is none, a function without names."""
    if isinstance(law, str):
        if law not in LAWS:
            raise InputError(f"law={law!r} is none of {', '.join(LAWS)}.\n  or give a function f(t, *params).")
        return LAWS[law]
    if not callable(law) or names is None or starts is None or set(names) != set(starts):
        raise InputError(
            "a law of your own is f(t, *params), with names=('a', 'b') and starts={'a': (0, 1), 'b': (-2, 2)}."
        )
    return Law(getattr(law, "__name__", "function"), law, tuple(names), {}, lambda t, y: {})


def _power(t: Tensor, y0: Tensor, c: Tensor, alpha: Tensor) -> Tensor:
    return y0 - c * t.clamp(min=1e-300) ** -alpha


def _logspace_power(t: Tensor, b: Tensor, c: Tensor, alpha: Tensor, y0: Tensor) -> Tensor:
    return (b - c * t.clamp(min=0) ** alpha).clamp(max=700).exp() + y0


def _sigmoid(t: Tensor, low: Tensor, height: Tensor, t0: Tensor, width: Tensor) -> Tensor:
    return low + height * ((t - t0) / width).sigmoid()


def _explog(t: Tensor, amplitude: Tensor, lam: Tensor, gamma: Tensor, t0: Tensor, level: Tensor) -> Tensor:
    x = (gamma * t + t0).clamp(min=1e-9)  # bounds keep x > 0 for t >= 0
    return amplitude * (-lam * x).exp() * x.log() + level


def _range(y: Tensor) -> tuple[float, float, float]:
    low, high = float(y.min()), float(y.max())
    return low, high, max(high - low, 1e-12)


def _power_starts(t: Tensor, y: Tensor) -> dict[str, tuple[float, float]]:
    low, high, span = _range(y)
    return {"y0": (low - span, high + span), "c": (-2 * span, 2 * span), "alpha": (0.05, 2.0)}


def _logspace_starts(t: Tensor, y: Tensor) -> dict[str, tuple[float, float]]:
    low, _high, span = _range(y)
    middle = math.log(span)
    scale = 1 / max(float(t.median()), 1e-12) ** 0.5
    return {"b": (middle - 1, middle + 2), "c": (0.1 * scale, 4 * scale), "alpha": (0.1, 1.2), "y0": (low - span, low)}


def _sigmoid_starts(t: Tensor, y: Tensor) -> dict[str, tuple[float, float]]:
    low, _, span = _range(y)
    first, last, wide = _range(t)
    return {"low": (low - span, low + span), "height": (-2 * span, 2 * span), "t0": (first, last),
            "width": (wide / 50, wide / 2)}  # fmt: skip


def _explog_starts(t: Tensor, y: Tensor) -> dict[str, tuple[float, float]]:
    low, high, span = _range(y)
    _, last, _ = _range(t)
    return {"A": (-3 * span, 6 * span), "lam": (0.0, 2.0), "gamma": (0.5 / last, 20 / last), "t0": (0.2, 3.0),
            "K": (low - span, high + span)}  # fmt: skip


LAWS = {
    "power": Law("power", _power, ("y0", "c", "alpha"), {"alpha": (1e-4, 20.0)}, _power_starts),
    "logspace_power": Law("logspace_power", _logspace_power, ("b", "c", "alpha", "y0"),
                          {"c": (0.0, math.inf), "alpha": (1e-3, 10.0)}, _logspace_starts),
    "sigmoid": Law("sigmoid", _sigmoid, ("low", "height", "t0", "width"), {"width": (1e-9, math.inf)},
                   _sigmoid_starts),
    "explog": Law("explog", _explog, ("A", "lam", "gamma", "t0", "K"),
                  {"lam": (0.0, math.inf), "gamma": (1e-9, math.inf), "t0": (1e-6, math.inf)}, _explog_starts),
}  # fmt: skip


def lambert_w(x: float) -> float:
    """The principal branch of Lambert's W for x >= 0: w e^w = x, by Halley's method."""
    if not 0 <= x < math.inf:
        raise InputError(f"lambert_w({x}): here for numbers of at least 0.")
    w = math.log1p(x) if x < 3 else math.log(x) - math.log(math.log(x))
    for _ in range(50):
        e = math.exp(w)
        step = (w * e - x) / (e * (w + 1) - (w + 2) * (w * e - x) / (2 * w + 2))
        w -= step
        if abs(step) <= 1e-15 * (1 + abs(w)):
            break
    return w


def student_t(p: float, df: int) -> float:
    """The quantile of Student's t with df degrees of freedom, by bisection of its numerically integrated density."""
    if p < 0.5:
        return -student_t(1 - p, df)
    log_scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2)
    theta = torch.linspace(0, math.pi / 2, 20_001, dtype=torch.float64)[:-1]  # t = sqrt(df) tan(theta)
    density = theta.cos() ** (df - 1)
    step = float(theta[1])
    below = torch.cat([torch.zeros(1).double(), ((density[1:] + density[:-1]) / 2).cumsum(0) * step])
    below = 0.5 + below * math.exp(log_scale) / math.sqrt(math.pi)
    i = int((below < p).sum().clamp(1, len(below) - 1))
    share = (p - float(below[i - 1])) / max(float(below[i] - below[i - 1]), 1e-300)
    return math.sqrt(df) * math.tan(float(theta[i - 1]) + share * step)


def _covariance(jacobian: Tensor, variance: float, p: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """variance (J'J)^-1 of the parameters that are free; NaN for those at a bound or not determined."""
    out = torch.full((len(p), len(p)), torch.nan, dtype=torch.float64)
    free = ((p > low) & (p < high)).nonzero()[:, 0]
    scale = jacobian[:, free].norm(dim=0).clamp(min=1e-300)
    unit = jacobian[:, free] / scale
    if not len(free) or not bool(torch.isfinite(unit).all()) or int(torch.linalg.matrix_rank(unit)) < len(free):
        return out
    inverse = torch.linalg.inv(unit.T @ unit) / (scale[:, None] * scale)
    out[free[:, None], free] = variance * inverse
    return out


def _refitted(
    fn: Function, t: Tensor, y: Tensor, residuals: Tensor, p: Tensor, low: Tensor, high: Tensor, n: int, k: int,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Parameters of fits to the law plus resampled residuals, widened for the k parameters they were fitted with."""
    wide = (residuals - residuals.mean()) * math.sqrt(len(y) / (len(y) - k))
    drawn = wide[torch.randint(len(y), (n, len(y)), generator=generator)]
    found = least_squares(fn, t, (y - residuals) + drawn, p.expand(n, -1), low, high, steps=60)
    return found.params[torch.isfinite(found.cost)]


def _limits(law: Law, bounds: Bounds | None) -> tuple[Tensor, Tensor]:
    unknown = set(bounds or {}) - set(law.names)
    if unknown:
        raise InputError(f"bounds= of {', '.join(sorted(unknown))}: {law.name} has {', '.join(law.names)}.")
    given = {**dict.fromkeys(law.names, (-math.inf, math.inf)), **law.limits}
    for name, (low, high) in (bounds or {}).items():
        given[name] = (max(low, given[name][0]), min(high, given[name][1]))
    if any(low > high for low, high in given.values()):
        raise InputError(f"bounds= leave nothing: {given}.")
    ends = torch.tensor([given[name] for name in law.names], dtype=torch.float64)
    return ends[:, 0], ends[:, 1]


def _vector(values: Any, name: str) -> Float[Tensor, " n"]:
    x = torch.as_tensor(values, dtype=torch.float64).detach().cpu().reshape(-1)
    if not bool(torch.isfinite(x).all()):
        raise NotFiniteError(f"{name} holds NaN or infinity at {int((~torch.isfinite(x)).nonzero()[0])}.")
    return x
