"""The whole battery on one model: what layers add, who minds their absence, when the prediction stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.interval import Interval
from inscape.core.nulls import Intervals, bootstrap, bootstrap_each
from inscape.core.progress import Progress, tell
from inscape.engine.unembed import predicts_next
from inscape.models.model import Model
from inscape.read.depth.downstream import DownstreamEffects, downstream_effects
from inscape.read.depth.lens_profile import LensProfile, lens_profile
from inscape.read.depth.settling import effective_depth
from inscape.read.geometry.updates import contributions

THRESHOLDS = {"kl": 0.5, "overlap": 0.5, "reach": 0.1}  # nats; share of the top k; relative change of later updates


@dataclass(frozen=True, eq=False)
class DepthReport:
    """Everything per input, so that any mean has its interval.

    relative, cosine: of whole layers, [input, layer], as in `contributions`. present, future: effects of skipping each
    layer on the layers after it, at the skipped tokens and at later ones (None where the model is not causal). lens:
    None without a language head. thresholds: those that `effective` uses.
    """

    layers: tuple[str, ...]
    relative: Float[Tensor, "input layer"]
    cosine: Float[Tensor, "input layer"]
    present: DownstreamEffects
    future: DownstreamEffects | None
    lens: LensProfile | None
    thresholds: dict[str, float]

    @property
    def effective(self) -> dict[str, int | None]:
        """The layer from which on each mean curve has settled: "kl", "overlap", "reach" and "future reach"."""
        found: dict[str, int | None] = {}
        if self.lens is not None:
            found["kl"] = effective_depth(self.lens.kl.mean(0), self.thresholds["kl"])
            found["overlap"] = effective_depth(self.lens.overlap.mean(0), self.thresholds["overlap"], "above")
        for name, made in (("reach", self.present), ("future reach", self.future)):
            if made is not None:
                found[name] = effective_depth(made.reach_per_input.mean(0), self.thresholds["reach"])
        return found

    def curves(self, *, seed: int = 0) -> dict[str, Intervals]:
        """Means over inputs with 95 % intervals, by layer: what is added, its cosine, and both reaches."""
        curves = {"relative": self.relative, "cosine": self.cosine, "reach": self.present.reach_per_input}
        if self.future is not None:
            curves["future reach"] = self.future.reach_per_input
        if self.lens is not None:
            curves |= {"kl": self.lens.kl, "overlap": self.lens.overlap}
        return {name: bootstrap_each(x, seed=seed) for name, x in curves.items()}

    def halves(self, *, seed: int = 0) -> dict[str, Interval]:
        """First half of the layers minus the second, paired over inputs, of each curve."""
        out = {}
        for name, x in (
            ("relative", self.relative),
            ("reach", self.present.reach_per_input),
            ("future reach", self.future.reach_per_input if self.future is not None else None),
        ):
            if x is not None:
                out[name] = bootstrap(half_difference(x), seed=seed)
        return out


def half_difference(values: Float[Tensor, "input layer"]) -> Float[Tensor, " input"]:
    """Mean over the first half of the layers minus that over the second, which has the middle one of an odd number."""
    half = values.shape[-1] // 2
    return values[:, :half].mean(1) - values[:, half:].mean(1)


def depth_report(
    model: Model,
    prompts: Sequence[Any],
    *,
    lens: bool = True,
    thresholds: dict[str, float] | None = None,
    control: str | None = "noise",
    seed: int = 0,
    progress: Progress = None,
) -> DepthReport:
    """Contributions, effects of skipping on present and future tokens, lens and effective depths of some prompts.

    prompts: two or more, one entry a run. lens: also read every layer through the head, the dear part where the
    vocabulary is large. thresholds: of `THRESHOLDS`, those to change. control: as in `downstream_effects`.
    Choose the single functions to measure one thing on many prompts.
    Cost: about 2 x layers x (1 + control) x 5 half forwards a prompt, and one head row a layer and token with `lens`.
    Raises: InputError for one prompt or an unknown threshold; as the functions it calls.
    Source: Csordas et al. 2025, arXiv:2505.13898.
    """
    if len(prompts) < 2:
        raise InputError(f"{len(prompts)} prompts: an interval over prompts needs two or more.")
    unknown = sorted(set(thresholds or {}) - THRESHOLDS.keys())
    if unknown:
        raise InputError(f"thresholds={unknown}: there are {', '.join(THRESHOLDS)}.")
    causal = predicts_next(model)
    tell(progress, "what every layer adds", 0.0)
    each = [contributions(model, [one], skip_first=causal, control=None) for one in prompts]
    present = downstream_effects(model, prompts, control=control, seed=seed, progress=progress)
    future = None
    if causal:
        future = downstream_effects(model, prompts, tokens="future", control=control, seed=seed, progress=progress)
    read = lens_profile(model, prompts, seed=seed, progress=progress) if lens and causal else None
    return DepthReport(
        each[0].layers,
        torch.stack([c.relative["layer"] for c in each]),
        torch.stack([c.cosine["layer"] for c in each]),
        present,
        future,
        read,
        THRESHOLDS | (thresholds or {}),
    )
