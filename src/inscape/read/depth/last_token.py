"""What the prediction after the last token loses when a layer is skipped: whether hard questions use later layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edits.skip import skip
from inscape.core.errors import EditError, InputError
from inscape.core.interval import Interval
from inscape.core.nulls.values import Values
from inscape.core.progress import Progress, tell
from inscape.engine.cells import Cell, run_cells
from inscape.engine.forward import run
from inscape.engine.unembed import predicts_next
from inscape.models.model import Model
from inscape.read.depth.downstream import PARTS
from inscape.read.depth.settling import depth_score
from inscape.read.geometry.updates import stream_layers


@dataclass(frozen=True, eq=False)
class LastEffects:
    """KL(clean || skipped) of the prediction after the last token, nats, [input, layer]."""

    layers: tuple[str, ...]
    kl: Float[Tensor, "input layer"]

    def score(self, *, by: Values | None = None, n: int = 2000, seed: int = 0) -> Interval:
        """The mean layer of the effects, from 0, with its interval by input; see `depth_score`."""
        return depth_score(self.kl, by=by, n=n, seed=seed)


def last_effects(
    model: Model, inputs: Sequence[Any], part: str = "layer", *, at: str = "last", progress: Progress = None
) -> LastEffects:
    """Skip each layer and measure what the prediction after the last token of every input loses.

    at: "last" skips at the last token alone, where the answer starts: what is worked out there; "all" skips at every
    token but the first. Compare the scores of inputs of different difficulty. `circuits.skipping.skip_effects` measures
    predictions all over a text, beside controls; `downstream_effects` what other layers do.
    Cost: for each layer, the layers from it on, at the tokens from the first skipped one on.
    Raises: EditError for unknown words; InputError for a model that predicts no next token, or no inputs.
    Source: Csordas et al. 2025, arXiv:2505.13898 (depth and problem difficulty); KL here.
    """
    if part not in PARTS or at not in ("last", "all"):
        raise EditError(f"part={part!r}, at={at!r}: parts are {', '.join(PARTS)}; at is 'last' or 'all'.")
    if not predicts_next(model):
        raise InputError(f"{type(model.module).__name__} predicts no next token, so there is no prediction to lose.")
    if not len(inputs):
        raise InputError("there are no inputs to measure.")
    layers = [x for x in stream_layers(model) if part == "layer" or f"{x}.{part}_out" in model.sites]
    edits = [skip(x if part == "layer" else f"{x}.{part}", at=-1 if at == "last" else slice(1, None)) for x in layers]
    rows = []
    for number, one in enumerate(inputs):
        tell(progress, f"skipping layers on input {number + 1} of {len(inputs)}", number / len(inputs))
        lost = lost_from(run(model, one, output="last").output.logits[0, -1])
        found = run_cells(model, one, [Cell((e,)) for e in edits], measure=lost)
        assert found.measured is not None
        rows.append(found.measured.clamp(min=0))
    return LastEffects(tuple(layers), torch.stack(rows).double())


def lost_from(clean: Float[Tensor, " vocab"]) -> Callable[..., Tensor]:
    """KL of these scores from those of a run, as `run_cells` measures it."""
    clean = torch.log_softmax(clean.float(), -1)

    def lost(logits: Tensor, rows: Any) -> Tensor:
        logp = torch.log_softmax(logits.float(), -1)
        return (clean.exp() * (clean - logp).clamp(-1e4, 1e4)).sum(-1)

    return lost
