"""Which layers did next to nothing for which token: voids, from the length of the residual stream alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.edits.voids import Deciding, Decision, void_edit
from inscape.core.errors import InputError, ModelError, ShapeError
from inscape.core.step import Step
from inscape.engine.forward import run
from inscape.engine.planning import names_of
from inscape.models.model import Model

PHASES = ("prompt", "response")


@dataclass(frozen=True, eq=False)
class VoidMap:
    """Voids of every token: layers whose change of length stayed below the threshold.

    void: false at padding, too. change: D, what a layer added to the length of the stream, signed. norm: n, the length
    before the first layer and after each, as it went on. threshold: tau. size: length of each layer's update, NaN
    where only lengths were seen. mask: real tokens. prompt: columns of the prompt; those behind are the response.
    layers: names of the rows. mode: "trace", nothing was skipped; "true" or "carry", voids were.
    """

    void: Bool[Tensor, "layer batch pos"]
    change: Float[Tensor, "layer batch pos"]
    norm: Float[Tensor, "stream batch pos"]
    threshold: Float[Tensor, "layer batch pos"]
    size: Float[Tensor, "layer batch pos"]
    mask: Bool[Tensor, "batch pos"]
    prompt: int
    alpha: float
    mode: str
    layers: tuple[str, ...]

    @property
    def active(self) -> Bool[Tensor, "layer batch pos"]:
        """Real tokens that the layer is not void for."""
        return ~self.void & self.mask

    def of(self, phase: str | None) -> Bool[Tensor, "batch pos"]:
        """Real tokens of a phase, "prompt" or "response"; all of them for None."""
        if phase is None:
            return self.mask
        if phase not in PHASES:
            raise InputError(f"phase={phase!r}: it is 'prompt' or 'response', or None for both.")
        columns = torch.arange(self.mask.shape[1])
        return self.mask & ((columns < self.prompt) if phase == "prompt" else (columns >= self.prompt))

    def usage(self, phase: str | None = None) -> Float[Tensor, " layer"]:
        """Share of the phase's tokens that each layer is active for. NaN when the phase has no token."""
        here = self.of(phase)
        return self.active[:, here].float().mean(1)

    def used(self, phase: str | None = None) -> float:
        """Share of layers that are active, mean over the phase's tokens."""
        return float(self.usage(phase).mean())

    @property
    def summary(self) -> tuple["PhaseUsage", ...]:
        """What is used in each phase that has tokens."""
        return tuple(
            PhaseUsage(phase, int(self.of(phase).sum()), self.used(phase), self.usage(phase))
            for phase in PHASES
            if bool(self.of(phase).any())
        )

    @property
    def cost(self) -> "SkipCost":
        """Blocks that ran, and blocks whose output is part of the result, were these voids skipped."""
        return SkipCost.of(self.void, self.mask, self.mode)


@dataclass(frozen=True, eq=False)
class PhaseUsage:
    """How much of the model one phase used: share of layers active for a token, and share of tokens by layer."""

    phase: str
    n_tokens: int
    used: float
    by_layer: Float[Tensor, " layer"]


@dataclass(frozen=True)
class SkipCost:
    """What skipping voids costs and saves, counted in blocks times tokens.

    total: layers x tokens. used: blocks whose own output is part of what came out. saved: blocks that did not run,
    which is none in "carry" and "true": a block has to run before its change of length is known. Under "carry" the
    result is that of the last active layer, which every layer below it is part of; `leading` counts the blocks above
    it, which an early exit that knew the layer beforehand would not have run.
    """

    total: int
    used: int
    leading: int
    saved: int = 0

    @classmethod
    def of(cls, void: Bool[Tensor, "layer batch pos"], mask: Bool[Tensor, "batch pos"], mode: str) -> "SkipCost":
        active = ~void[:, mask]
        n_layers, n = active.shape
        last = torch.where(active.any(0), n_layers - 1 - active.flip(0).long().argmax(0), -1)
        above = int((n_layers - 1 - last).sum())
        total = n_layers * n
        return cls(total, int(active.sum()) if mode != "carry" else total - above, above)


def voids_of_norms(
    norm: Float[Tensor, "stream *places"], alpha: float = 0.8
) -> tuple[Bool[Tensor, "layer *places"], Float[Tensor, "layer *places"], Float[Tensor, "layer *places"]]:
    """Voids, changes D and thresholds tau from lengths of the stream: before the first layer, then after each.

    D_l = n_{l+1} - n_l; tau_l = alpha (max_{j<l} D_j - min_{j<l} D_j), tau_0 = tau_1 = 0; void when D_l < tau_l.
    Raises: InputError for alpha below 0; ShapeError for fewer than two lengths.
    """
    if not alpha >= 0:
        raise InputError(f"alpha={alpha}: it is a share of a range, 0 or more.\n  0.8 is the source's own.")
    if norm.ndim < 1 or len(norm) < 2:
        raise ShapeError(f"lengths of shape {tuple(norm.shape)}: give the one before the first layer and one a layer.")
    change = norm.diff(dim=0)
    spread = change.cummax(0).values - change.cummin(0).values
    threshold = torch.cat([torch.zeros_like(change[:1]), alpha * spread[:-1]])
    return change < threshold, change, threshold


def void_map(
    model: Model,
    inputs: Any,
    alpha: float = 0.8,
    mode: str = "trace",
    *,
    layers: str = "layers.*",
    edits: Sequence[Edit] = (),
    **run_kwargs: Any,
) -> VoidMap:
    """Which layers are void for which token of one batch of inputs, in one forward without the head.

    mode: "trace" watches the untouched stream; "true" drops void updates as it goes, so that later layers are judged
    on what they get then. layers: a pattern of all layers of one stack. edits: in force meanwhile.
    Choose `VoidStream` to watch a generation, and `skip_layers(found.void)` to skip what was found.
    Cost: the blocks, and three norms a layer. Memory: five numbers a layer and token.
    Raises: EditError for alpha below 0; ModelError without a residual stream; InputError for an unknown mode.
    Source: arXiv:2505.14467; thresholds of one token each, where the code has a range over the batch at layer 0.
    """
    if mode not in ("trace", "true"):
        raise InputError(f"mode={mode!r}: a map is made by 'trace' or by 'true' skipping.")
    names = stack_of(model, layers)
    log = VoidLog(alpha, mode)
    edit = void_edit(alpha, mode, layers, log)
    trace = run(model, inputs, edits=[*edits, edit], output=False, **run_kwargs)
    return log.map(names, trace.mask)


def stack_of(model: Model, layers: str = "layers.*") -> tuple[str, ...]:
    """Names of the layers of a stack. Raises: ModelError when they are not a residual stream."""
    ends = [s for s in map(str, model.sites) if s.endswith(".resid_post")] if len(model.blocks) else []
    if not ends:
        raise ModelError(
            f"{type(model.module).__name__} has no residual stream, so its layers have no change of length.\n"
            "  voids are for models of blocks that read and write one stream."
        )
    names = tuple(site.removesuffix(".resid_post") for site in names_of(model, f"{layers}.resid_post"))
    missing = [name for name in names if f"{name}.resid_pre" not in model.sites]
    if missing:
        raise ModelError(f"{missing[0]} has no stream before it on this model: its change of length is unknown.")
    return names


class VoidLog:
    """The decisions of `skip_voids(log=...)`, forward after forward.

    >>> log = VoidLog(0.8, "true")
    >>> out = ins.generate(model, prompts, edits=[ins.skip_voids(0.8, "true", log=log)])
    >>> log.map(mask=out.trace.mask)
    """

    def __init__(self, alpha: float = 0.8, mode: str = "carry") -> None:
        self.alpha, self.mode = alpha, mode
        self.steps: list[Step] = []
        self.rows: list[list[Decision]] = []

    def __call__(self, layer: int, made: Decision, step: Step) -> None:
        if layer == 0:
            self.rows.append([])
            self.steps.append(step)
        self.rows[-1].append(made)

    def map(self, layers: Sequence[str] = (), mask: Tensor | None = None) -> VoidMap:
        """All columns that were seen. mask: real tokens; of a generation, that of its trace. Raises: InputError."""
        if not self.rows:
            raise InputError("no layer was judged yet.\n  pass this log to skip_voids and run the model.")
        new = _new_columns(self.steps)
        # fmt: off
        out = {name: torch.cat([torch.stack([getattr(d, name).cpu() for d in row])[..., cut:]
                                for row, cut in zip(self.rows, new, strict=True) if cut is not None], -1)
               for name in ("norm_in", "norm_out", "threshold", "size", "void")}
        # fmt: on
        void, first = out["void"], out["norm_in"]
        went = torch.where(void, first, out["norm_out"]) if self.mode == "true" else out["norm_out"]
        width, batch = void.shape[2], void.shape[1]
        real = self.steps[-1].real >= 0 if mask is None else mask.cpu()[:, :width]
        real = real.expand(batch, -1)
        names = tuple(layers) or tuple(f"layers.{i}" for i in range(len(void)))
        norm = torch.cat([first[:1], went])
        prompt = min(self.steps[0].prompt or width, width)
        return VoidMap(
            void & real, out["norm_out"] - first, norm, out["threshold"], out["size"], real, prompt, self.alpha,
            self.mode, names,
        )  # fmt: skip


def _new_columns(steps: Sequence[Step]) -> list[int | None]:
    """Where each forward's new columns begin; without a cache it also has those of the forwards before."""
    done, out = 0, []
    for step in steps:
        out.append(done - step.start if step.stop > done else None)
        done = max(done, step.stop)
    return out


__all__ = [
    "Deciding",
    "PhaseUsage",
    "SkipCost",
    "VoidLog",
    "VoidMap",
    "stack_of",
    "void_map",
    "voids_of_norms",
]
