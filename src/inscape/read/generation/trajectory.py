"""How the stream drifts over the tokens of a rationale: how far, how long a way, and how straight.

The tokens of a trace are cut into N segments; z_n is the mean state of segment n at one layer.
1. net         NC = |z_N - z_1|
2. cumulative  CC = sum_n |z_{n+1} - z_n|
3. aligned     AC = mean_n cos(z_{n+1} - z_n, z_N - z_1)
Each is a mean over layers. Normalised: NC / m and CC / ((N - 1) m), with m the mean |z_n|. The source leaves open which
it uses, so both are kept. Nothing here is about language: rows may be tokens, frames of a film or steps of training.
"""

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError, ShapeError

SIGNALS = ("net", "cumulative", "aligned")
SIGNS = {"net": 1.0, "cumulative": -1.0, "aligned": 1.0}  # of a good trace, by the source
NULLS = ("shuffle", "random")


@dataclass(frozen=True, eq=False)
class Signals:
    """The three signals of some traces, by layer. norm: mean length of the segments' means.

    aligned is NaN below three segments (two are always aligned) and where start and end are one place; cumulative and
    net are of raw lengths. n_segments, n_tokens: of each trace.
    """

    net: Float[Tensor, "trace layer"]
    cumulative: Float[Tensor, "trace layer"]
    aligned: Float[Tensor, "trace layer"]
    norm: Float[Tensor, "trace layer"]
    n_segments: Int[Tensor, " trace"]
    n_tokens: Int[Tensor, " trace"]

    def table(self, normalize: bool = False) -> Float[Tensor, "trace signal"]:
        """One row a trace: net, cumulative and aligned, means over the layers at which they are known."""
        net, cumulative = self.net, self.cumulative
        if normalize:
            net = net / self.norm
            cumulative = cumulative / (self.norm * (self.n_segments - 1).clamp(min=1)[:, None])
        return torch.stack([net.mean(1), cumulative.mean(1), self.aligned.nanmean(1)], 1)

    def __len__(self) -> int:
        return len(self.n_segments)

    @classmethod
    def of(cls, made: "Sequence[Signals]") -> "Signals":
        """Several sets of traces as one."""
        names = ("net", "cumulative", "aligned", "norm", "n_segments", "n_tokens")
        return cls(*(torch.cat([getattr(one, name) for one in made]) for name in names))


def bounds(n_tokens: int, *, block: int | None = None, segments: int | None = None) -> list[int]:
    """Where segments begin and the last one ends: blocks of so many tokens, or so many segments of about equal length.

    A last block that is shorter is part of the one before it. Raises: InputError unless one of both is given, or for no
    tokens, or fewer tokens than segments.
    """
    if (block is None) == (segments is None):
        raise InputError("give block=, tokens a segment, or segments=, how many there are; one of both.")
    if n_tokens < 1:
        raise InputError("a trace without tokens has no segments.")
    if segments is not None:
        if not 1 <= segments <= n_tokens:
            raise InputError(f"{n_tokens} tokens cannot be cut into segments={segments}.")
        return [round(i * n_tokens / segments) for i in range(segments + 1)]
    if block is None or block < 1:
        raise InputError(f"block={block}: a segment has one token at least.")
    return [*range(0, max(n_tokens // block, 1) * block, block), n_tokens]


def segment_means(
    states: Float[Tensor, "token layer d"], *, block: int | None = None, segments: int | None = None
) -> Float[Tensor, "segment layer d"]:
    """Mean state of each segment, float64. See `bounds` for how segments are cut."""
    cuts = bounds(len(states), block=block, segments=segments)
    return torch.stack([states[a:b].double().mean(0) for a, b in itertools.pairwise(cuts)])


def signals_of_means(
    means: Float[Tensor, "segment layer d"], n_tokens: int | None = None, *, warn: bool = True
) -> Signals:
    """The signals of one trace from the means of its segments (or of any path, one point a segment).

    n_tokens: behind the means; as many as segments when left out. Warns below three segments, unless told not to.
    """
    means = means.double()
    n = len(means)
    if n < 3 and warn:
        warnings.warn(f"{n} segments: with fewer than 3 the aligned change is not defined.", stacklevel=2)
    steps, way = means.diff(dim=0), means[-1] - means[0]
    length, net = steps.norm(dim=-1), way.norm(dim=-1)
    unit = torch.where(length[..., None] > 0, steps / length[..., None], 0.0)
    counted = (length > 0).sum(0)
    aligned = (unit.sum(0) * way).sum(-1) / (net * counted)
    aligned = torch.where((net > 0) & (counted > 0) & (n >= 3), aligned, torch.nan)
    one = torch.tensor([n]), torch.tensor([n if n_tokens is None else n_tokens])
    return Signals(net[None], length.sum(0)[None], aligned[None], means.norm(dim=-1).mean(0)[None], *one)


def trajectory_signals(
    states: Sequence[Float[Tensor, "_token layer d"]] | Float[Tensor, "token layer d"],
    *,
    block: int | None = None,
    segments: int | None = None,
    center: bool = False,
    control: str | None = None,
    seed: int = 0,
) -> Signals:
    """Net, cumulative and aligned change of traces whose states are at hand.

    states: one tensor a trace, the span of the rationale alone: neither prompt nor answer. block, segments: see
    `bounds`. center: take away the mean path of all traces (segment by segment, while at least two traces have one):
    the drift that every trace shares, of positions and of massive dimensions, says nothing about a single one.
    control: "shuffle" puts each trace's segments in another order; "random" keeps the start and the length of every
        step and turns each in a direction of its own, so that nothing heads anywhere.
    Choose `TrajectoryStream` while generating: the same numbers without keeping states.
    Cost: one pass; memory: the means. Raises: InputError, ShapeError for states of other axes. Warns: fewer than three
    segments. Source: arXiv:2510.10494.
    """
    traces = [states] if isinstance(states, Tensor) else list(states)
    if not traces:
        raise InputError("there is no trace.")
    wrong = next((t for t in traces if t.ndim != 3), None)
    if wrong is not None:
        raise ShapeError(f"states of shape {tuple(wrong.shape)}: a trace is [token, layer, d].")
    means = [segment_means(t, block=block, segments=segments) for t in traces]
    if center:
        means = centered(means)
    if control is not None:
        means = [null_path(m, control, seed=seed + i) for i, m in enumerate(means)]
    return Signals.of([signals_of_means(m, len(t)) for m, t in zip(means, traces, strict=True)])


def centered(means: Sequence[Float[Tensor, "_segment layer d"]]) -> list[Float[Tensor, "_segment layer d"]]:
    """Paths without what they share: the mean over traces at each segment, where two or more have one."""
    longest = max(len(m) for m in means)
    shared = []
    for i in range(longest):
        there = [m[i] for m in means if len(m) > i]
        shared.append(torch.stack(there).mean(0) if len(there) > 1 else shared[-1] if shared else there[0] * 0)
    mean = torch.stack(shared)
    return [m - mean[: len(m)] for m in means]


def null_path(
    means: Float[Tensor, "segment layer d"], how: str = "shuffle", *, seed: int = 0
) -> Float[Tensor, "segment layer d"]:
    """A path to compare with: its own segments in another order, or steps of the same lengths in random directions."""
    generator = torch.Generator().manual_seed(seed)
    if how == "shuffle":
        return means[torch.randperm(len(means), generator=generator)]
    if how != "random":
        raise InputError(f"control={how!r} is none of trajectories; there are {', '.join(map(repr, NULLS))}.")
    steps = means.diff(dim=0)
    drawn = torch.randn(steps.shape, generator=generator, dtype=torch.float64).to(means)
    drawn = drawn / drawn.norm(dim=-1, keepdim=True) * steps.norm(dim=-1, keepdim=True)
    return torch.cat([means[:1], means[:1] + drawn.cumsum(0)])


def null_signals(paths: Sequence[Float[Tensor, "_segment layer d"]], how: str = "shuffle", *, seed: int = 0) -> Signals:
    """The signals of many paths' nulls, one row a path; short ones have no aligned change, and nobody is warned.

    Choose it for a pool of traces (`TrajectoryStream.means`); `trajectory_signals(control=)` for states at hand.
    """
    return Signals.of([signals_of_means(null_path(m, how, seed=seed + i), warn=False) for i, m in enumerate(paths)])
