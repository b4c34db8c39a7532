"""Channels: the few directions of the stream along which some heads write and later ones read.

A channel is the span of what chosen components write. Its coordinates say what is being told; setting them tells
something else, and a sweep over a grid of points shows what each point would make the model do.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.circuits.weights.head import HeadWeights
from inscape.core.direction import Direction
from inscape.core.edit import Edit
from inscape.core.edits.add import add
from inscape.core.edits.directions import clamp, project_out
from inscape.core.errors import InputError, ShapeError
from inscape.core.metrics import Metric, metric_of
from inscape.core.progress import Progress
from inscape.engine.cells import Cell, run_cells
from inscape.engine.forward import run
from inscape.models.model import Model

SAME = 1e-3  # of the largest singular value: a direction this far inside the span of the others adds nothing


@dataclass(frozen=True, eq=False)
class Channel:
    """A subspace of the stream at a site: orthonormal rows, and what they came from.

    Signs and the order of the rows are arbitrary; points are given in their coordinates.
    """

    site: str
    basis: Float[Tensor, "k d_model"]
    source: str = ""
    model: str = ""

    def __len__(self) -> int:
        return len(self.basis)

    def coordinates(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows k"]:
        """What the stream says along the channel."""
        return x.to(self.basis) @ self.basis.T

    def directions(self) -> tuple[Direction, ...]:
        """Its axes, for steering, probes and files."""
        return tuple(Direction(self.site, v, f"{self.source} axis {i}", self.model) for i, v in enumerate(self.basis))

    def point(self, point: Float[Tensor, " k"] | Sequence[float], **places: Any) -> tuple[Edit, ...]:
        """Edits that set the coordinates to this point and leave everything else: one clamp an axis."""
        wanted = torch.as_tensor(point, dtype=torch.float32).flatten().tolist()
        if len(wanted) != len(self):
            raise ShapeError(f"a point of this channel has {len(self)} coordinates; got {len(wanted)}.")
        return tuple(clamp(d, c, c, **places) for d, c in zip(self.directions(), wanted, strict=True))

    def removed(self, **places: Any) -> tuple[Edit, ...]:
        """Edits that take out what lies along the channel."""
        return tuple(project_out(d, **places) for d in self.directions())


def channel(components: Sequence[tuple[HeadWeights, int]], site: str, *, model: str = "", source: str = "") -> Channel:
    """The span of what components write, orthonormalised, at the site where it is to be read or changed.

    components: (head, number of the component), as `composition(..., level="component").top()` names them. Directions
    that add nothing to the span of the others are dropped, so that it may have fewer dimensions than components.
    site: where in the stream, such as the `resid_pre` of the reader. model: fingerprint, for files.
    Raises: InputError without components.
    """
    if not components:
        raise InputError("a channel needs at least one (head, component) pair.")
    written = torch.stack([head.OV.components.write[i] for head, i in components]).double()
    _, strength, axes = torch.linalg.svd(written, full_matrices=False)
    kept = axes[strength > SAME * strength[0]]
    names = ", ".join(f"{head.name} component {i}" for head, i in components)
    return Channel(site, kept.float(), source or names, model)


def grid(low: Sequence[float], high: Sequence[float], steps: int = 5) -> Float[Tensor, "point k"]:
    """Points of a regular grid: `steps` values an axis, from low to high."""
    axes = [torch.linspace(a, b, steps).tolist() for a, b in zip(low, high, strict=True)]
    return torch.tensor(list(itertools.product(*axes)))


def reach(coordinates: Float[Tensor, "n k"], steps: int = 5, times: float = 1.5) -> Float[Tensor, "point k"]:
    """A grid around the coordinates met in data: their middle, and `times` their largest distance from it, an axis."""
    low, high = coordinates.amin(0), coordinates.amax(0)
    middle, half = (low + high) / 2, (high - low) / 2 * times
    return grid((middle - half).tolist(), (middle + half).tolist(), steps)


@dataclass(frozen=True, eq=False)
class ChannelSweep:
    """The metric on every prompt at every point of a channel, beside an equally large push elsewhere.

    values: [row, point]. base: without a change. control: [row, point], a random direction outside the channel pushed
    as far as this point moved this prompt; None without. points, coordinates: of the grid, and of the prompts as they
    are. moved: how far each point moved each prompt, in the stream's units.
    """

    values: Float[Tensor, "row point"]
    base: Float[Tensor, " row"]
    control: Float[Tensor, "row point"] | None
    points: Float[Tensor, "point k"]
    coordinates: Float[Tensor, "row k"]
    moved: Float[Tensor, "row point"]
    how: str

    def best(self, rows: Tensor | None = None) -> int:
        """The point with the highest mean over these rows. Judge it on other rows than it was chosen on."""
        values = self.values if rows is None else self.values[rows]
        return int(values.mean(0).argmax())


def channel_sweep(
    model: Model,
    inputs: Any,
    channel: Channel,
    points: Float[Tensor, "point k"],
    *,
    metric: Metric | Any,
    at: int | Int[Tensor, " row"] = -1,
    control: str | None = "random",
    seed: int = 0,
    progress: Progress = None,
) -> ChannelSweep:
    """Set the channel to every point of a grid at one position of every prompt, and measure.

    metric: `ins.logit_diff`, `ins.accuracy`, ... or a function of the logits at the last real token. at: one position
        for all prompts, or one each.
    control: "random" also pushes every prompt along one random direction orthogonal to the channel, as far as the
        point moved it: what a change of this size does wherever it points. None leaves it out.
    Cost: prompts x points edited runs (twice with the control), sharing what is equal: see `engine.cells`.
    Raises: ShapeError for points of another dimension; what `run_cells` raises.
    Source: Merullo et al. 2024, arXiv:2406.09519; the control is added here.
    """
    if control not in (None, "random"):
        raise InputError(f"control={control!r} is none of channel_sweep; it can be 'random' or None.")
    if points.ndim != 2 or points.shape[1] != len(channel):
        raise ShapeError(f"points have shape {tuple(points.shape)}; this channel has {len(channel)} coordinates.")
    here, places = _here(model, inputs, channel.site, at)
    now = channel.coordinates(here)
    moved = (points[None] - now[:, None]).norm(dim=-1)
    n_rows = len(here)
    text = getattr(model.config, "get_text_config", lambda: model.config)()
    bound = metric_of(metric).bound(model.tokenizer, n_rows, getattr(text, "vocab_size", None))
    cells = [Cell(channel.point(point, at=places[row]), row) for row in range(n_rows) for point in points]
    if control is not None:
        away = _outside(channel, n_rows, seed)
        cells += [
            Cell((add(Direction(channel.site, away[row], "random"), float(moved[row, p]), at=places[row]),), row)
            for row in range(n_rows)
            for p in range(len(points))
        ]
    measure = bound.of_logits if bound.tokens is None else bound.of_columns
    made = run_cells(model, inputs, cells, measure=measure, tokens=bound.tokens, progress=progress)
    assert made.measured is not None
    assert made.base_measured is not None
    both = made.measured.float().cpu().reshape(-1, n_rows, len(points))
    return ChannelSweep(
        both[0], made.base_measured.float().cpu(), both[1] if control is not None else None, points, now, moved,
        f"{channel.source} at {channel.site}, {len(points)} points; {made.how}",
    )  # fmt: skip


def _here(model: Model, inputs: Any, site: str, at: int | Tensor) -> tuple[Float[Tensor, "row d"], list[int]]:
    """The stream at each prompt's position, and the positions."""
    trace = run(model, inputs, read=site)
    x = trace[site].float().cpu()
    places = [at] * len(x) if isinstance(at, int) else [int(p) for p in at]
    real = trace.mask.bool().cpu() if trace.mask is not None else torch.ones(x.shape[:2], dtype=torch.bool)
    if len(places) != len(x):
        raise InputError(f"at= names {len(places)} positions for {len(x)} prompts; give one, or one each.")
    return torch.stack([x[i][real[i]][p] for i, p in enumerate(places)]), places


def _outside(channel: Channel, n: int, seed: int) -> Tensor:
    """Random unit directions orthogonal to the channel, one a prompt."""
    basis = channel.basis.cpu().double()
    drawn = torch.randn(n, basis.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn = drawn - drawn @ basis.T @ basis
    return (drawn / drawn.norm(dim=1, keepdim=True)).float()
