"""What the model's answer loses when a layer is skipped.

How it is measured:
1. Positions are drawn once (seeded) among those with a next token; only they pass the head.
2. One clean run keeps their final states; then one run a layer with that layer skipped, and one a layer and control.
3. At the drawn positions: KL(clean || skipped) of the scores, and the change of the loss on the token that follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.effect import Measure
from inscape.core.edit import Edit, make_edit
from inscape.core.edits.skip import skip
from inscape.core.errors import EditError, ModelError
from inscape.core.progress import Progress, tell
from inscape.core.step import Step
from inscape.engine.unembed import predicts_next
from inscape.models.model import Model

CONTROLS = ("replace", "noise", "shuffle")


@dataclass(frozen=True, eq=False)
class SkipEffects:
    """Effect of skipping each layer, per input and as the mean over them.

    kl: KL(clean || skipped) in nats, mean over positions. loss: change of the next-token loss in nats; None where the
    model does not predict next tokens. stream: |final state - clean| / |clean|. control: the same three by the name of
    each control. per_input: kl, [layer, input], for intervals.
    """

    layers: tuple[str, ...]
    kl: Float[Tensor, " layer"] | None
    loss: Float[Tensor, " layer"] | None
    stream: Float[Tensor, " layer"]
    per_input: Float[Tensor, "layer input"] | None
    control: "dict[str, SkipEffects]"
    clean_loss: float | None
    n_positions: int


def skip_effects(
    model: Model,
    inputs: Any,
    part: str = "layer",
    *,
    control: str | Sequence[str] | None = ("replace", "noise"),
    positions: int = 128,
    skip_first: bool | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> SkipEffects:
    """Skip each layer in turn and measure how far the prediction moves.

    inputs: one batch. part: "layer", "attn" or "mlp". positions: how many positions are measured (the head is the dear
    part where vocabularies are large). skip_first: leave the first token alone; it carries the attention sink of
    decoders, and skipping it breaks everything at once. On for causal models, off for others, when left out.
    control: "replace" puts a random update of the same length in place of the layer's (what if it said something else);
        "noise" keeps the update and adds a random one of the same length (the stream moves as far as by the skip, in
        no particular direction); "shuffle" puts in the layer's own update at another position (wrong, but of its kind).
    Cost: (1 + layers x (1 + controls)) forwards without the head, and `positions` head rows for each.
    Raises: ModelError without a residual stream; EditError for an unknown part or control.
    Source: Csordas et al. 2025, arXiv:2505.13898, output effect; KL here, a norm of softmax differences there.
    """
    controls = [control] if isinstance(control, str) else list(control or ())
    for name in controls:
        if name not in CONTROLS:
            raise EditError(f"control={name!r} is none of skip_effects; there are {', '.join(CONTROLS)}.")
    if part not in ("layer", "attn", "mlp"):
        raise EditError(f"part={part!r} cannot be skipped; it is 'layer', 'attn' or 'mlp'.")
    layers = [b.name for b in model.blocks if _offers(model, b.name, part)]
    if not layers:
        raise ModelError(f"no layer of {type(model.module).__name__} has a {part} that could be skipped.")
    causal = predicts_next(model)
    first = causal if skip_first is None else skip_first
    at = slice(1, None) if first else None
    clean = Measure.of(model, inputs, positions, causal, seed)
    jobs = ["skip", *controls]
    rows = {job: [] for job in jobs}
    for index, layer in enumerate(layers):
        for job in jobs:
            tell(
                progress, f"skipping {layer} ({job})", (index * len(jobs) + jobs.index(job)) / (len(layers) * len(jobs))
            )
            rows[job].append(clean.against(_edit(layer, part, job, at, seed + index)))
    made = {job: _effects(layers, rows[job], clean) for job in jobs}
    first_made = made.pop("skip")
    return SkipEffects(
        first_made.layers,
        first_made.kl,
        first_made.loss,
        first_made.stream,
        first_made.per_input,
        made,
        clean.mean_loss,
        clean.n,
    )


def _offers(model: Model, layer: str, part: str) -> bool:
    sites = model.sites
    if part == "layer":
        return f"{layer}.resid_pre" in sites and f"{layer}.resid_post" in sites
    return f"{layer}.{part}_out" in sites


def _edit(layer: str, part: str, job: str, at: Any, seed: int) -> Edit:
    if job == "skip":
        return skip(layer if part == "layer" else f"{layer}.{part}", at=at)
    generator = torch.Generator().manual_seed(seed)
    keep = 1.0 if job == "noise" else 0.0

    def like(update: Tensor, step: Step) -> Tensor:
        if job == "shuffle":
            order = _moved(step, update.shape[1], generator).to(update.device)
            return update[torch.arange(len(update), device=update.device)[:, None], order]
        drawn = torch.randn(update.shape, generator=generator).to(update)
        return drawn / drawn.norm(dim=-1, keepdim=True) * update.norm(dim=-1, keepdim=True)

    def on_stream(x: Tensor, step: Step) -> Tensor:
        before = step.held["resid_pre"]
        return before + keep * (x - before) + like(x - before, step)

    def on_part(x: Tensor, step: Step) -> Tensor:
        return keep * x + like(x, step)

    label = f"{job} {layer}" if part == "layer" else f"{job} {layer}.{part}"
    if part == "layer":
        return make_edit(f"{layer}.resid_post", on_stream, label, at=at, contextual=True, needs=("resid_pre",))
    return make_edit(f"{layer}.{part}_out", on_part, label, at=at, contextual=True)


def _moved(step: Step, columns: int, generator: torch.Generator) -> Tensor:
    """For every row one cycle over its real columns but the first, whose update is of another kind in decoders."""
    order = torch.arange(columns).repeat(step.batch, 1)
    for row, real in enumerate(step.real[:, step.start :]):
        there = (real > 0).nonzero().flatten()
        cycle = there[torch.randperm(len(there), generator=generator)]
        order[row, cycle] = cycle.roll(1)
    return order


def _effects(layers: list[str], rows: list[tuple[Tensor | None, Tensor | None, Tensor]], clean: Measure) -> SkipEffects:
    def stacked(values: list[Tensor | None]) -> Tensor | None:
        known = [v for v in values if v is not None]
        return torch.stack(known) if known else None

    kl, loss = stacked([r[0] for r in rows]), stacked([r[1] for r in rows])
    moved = torch.stack([r[2] for r in rows])
    per_input = None
    if kl is not None and kl.shape[1] == clean.n:
        row_of = clean.places[0]  # type: ignore[index]
        per_input = torch.stack([kl[:, row_of == r].mean(1) for r in range(clean.rows)], 1)
    return SkipEffects(
        tuple(layers),
        kl.mean(1) if kl is not None else None,
        loss.mean(1) if loss is not None else None,
        moved.mean(1),
        per_input,
        {},
        clean.mean_loss,
        clean.n,
    )
