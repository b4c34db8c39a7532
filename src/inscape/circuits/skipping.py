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

from inscape.core.edit import Edit, make_edit
from inscape.core.edits.skip import skip
from inscape.core.errors import EditError, InputError, ModelError
from inscape.core.progress import Progress, tell
from inscape.core.step import Step
from inscape.engine.forward import run
from inscape.engine.unembed import Unembedding, in_chunks, reads_as_the_model_does, unembedding
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
    clean = _Measure.of(model, inputs, positions, causal, seed)
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


def predicts_next(model: Model) -> bool:
    """Does this model score the next token at every position? True for decoders that can generate."""
    can = getattr(model.module, "can_generate", None)
    config = model.config
    return bool(can and can() and "logits" in model.sites and not getattr(config, "is_encoder_decoder", False))


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


class _Measure:
    """The clean run's scores at the measured positions, and how far an edited run is from them."""

    def __init__(self, model: Model, inputs: Any, site: str, unembed: Unembedding | None) -> None:
        self.model, self.inputs, self.site, self.unembed = model, inputs, site, unembed
        self.places: tuple[Tensor, Tensor] | None = None
        self.next: Tensor | None = None
        self.losses: Tensor | None = None
        self.kept: Tensor | None = None

    @classmethod
    def of(cls, model: Model, inputs: Any, positions: int, causal: bool, seed: int) -> "_Measure":
        blocks = model.blocks
        last = f"{blocks[-1].name}.resid_post"
        prefix = blocks[0].name.rsplit("layers.", 1)[0]
        unembed = None
        if "logits" in model.sites:
            try:
                unembed = unembedding(model)
                if reads_as_the_model_does(model, unembed, inputs if not causal else _short(inputs)) > 5e-2:
                    unembed = None
            except ModelError:
                unembed = None
        site = (
            f"{prefix}final_norm"
            if unembed is not None and unembed.norm is not None and f"{prefix}final_norm" in model.sites
            else last
        )
        self = cls(model, inputs, site, unembed)
        trace = run(model, inputs, read=site, output=True if unembed is None and "logits" in model.sites else None)
        self.state = trace[site].float()
        self.whole = _log_scores(trace) if unembed is None else None
        self._choose(trace.mask, trace.tokens, positions, causal, seed)
        self.state = self._at(self.state)
        if unembed is not None:
            self.losses = self._loss(self.state)
        return self

    def _choose(self, mask: Tensor | None, tokens: Tensor | None, positions: int, causal: bool, seed: int) -> None:
        shape = self.state.shape[:2]
        real = mask.cpu().bool() if mask is not None and mask.shape == shape else torch.ones(shape, dtype=torch.bool)
        if causal:  # a position counts when a real token follows it
            real = real & torch.cat([real[:, 1:], torch.zeros_like(real[:, :1])], 1)
            real = real & (real.long().cumsum(1) > 1) if bool((real.sum(1) > 1).all()) else real
        where = real.nonzero()
        if not len(where):
            raise InputError("there is no position to measure: every input needs at least two tokens.")
        if len(where) > positions:
            chosen = torch.randperm(len(where), generator=torch.Generator().manual_seed(seed))[:positions]
            where = where[chosen.sort().values]
        self.places = (where[:, 0], where[:, 1])
        self.n = len(where)
        self.rows = shape[0]
        if causal and tokens is not None:
            self.next = tokens.cpu()[where[:, 0], where[:, 1] + 1]

    def _at(self, state: Tensor) -> Tensor:
        rows, columns = self.places  # type: ignore[misc]
        return state[rows.to(state.device), columns.to(state.device)]

    def _loss(self, state: Tensor) -> Tensor | None:
        if self.next is None or self.unembed is None:
            return None
        out = torch.zeros(len(state))

        def use(scores: Tensor, here: slice) -> None:
            wanted = self.next[here].to(scores.device)  # type: ignore[index]
            out[here] = (scores.logsumexp(-1) - scores.gather(-1, wanted[:, None])[:, 0]).cpu()

        in_chunks(self.unembed, state, use, normed=self.normed)
        return out

    @property
    def normed(self) -> bool:
        """Are the states those after the final norm?"""
        return self.site.endswith("final_norm")

    def _clean_scores(self, here: slice, keep: bool) -> Tensor:
        """Log probabilities of the clean run; made once where they fit in one chunk."""
        if self.kept is not None:
            return self.kept
        scores = torch.log_softmax(self.unembed(self.state[here], self.normed), -1)  # type: ignore[misc]
        if keep:
            self.kept = scores
        return scores

    @property
    def mean_loss(self) -> float | None:
        return float(self.losses.mean()) if self.losses is not None else None

    def against(self, edit: Edit) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """(kl, loss change, relative change of the final state) at every measured position."""
        whole = self.whole is not None
        trace = run(self.model, self.inputs, read=self.site, edits=[edit], output=True if whole else None)
        state = self._at(trace[self.site].float())
        moved = ((state - self.state).norm(dim=-1) / self.state.norm(dim=-1).clamp(min=1e-6)).cpu()
        if whole:
            return _kl(self.whole, _log_scores(trace)), None, moved  # type: ignore[arg-type]
        if self.unembed is None:
            return None, None, moved
        kl, loss = torch.zeros(len(state)), torch.zeros(len(state))
        step = max(1, self.unembed.rows_at_once() // 2)
        for start in range(0, len(state), step):
            here = slice(start, start + step)
            clean = self._clean_scores(here, len(state) <= step)
            edited = torch.log_softmax(self.unembed(state[here], self.normed), -1)
            kl[here] = _kl(clean, edited)
            if self.next is not None:
                loss[here] = -edited.gather(-1, self.next[here].to(edited.device)[:, None])[:, 0].cpu()
        return kl, loss - self.losses if self.losses is not None else None, moved


def _short(inputs: Any) -> Any:
    """One short row is enough to see whether head and stream fit."""
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], list):
        return [inputs[0][:12]]
    return inputs


def _log_scores(trace: Any) -> Tensor | None:
    scores = getattr(trace.output, "logits", None) if trace.has_output else None
    return torch.log_softmax(scores.detach().float(), -1) if isinstance(scores, Tensor) and scores.ndim >= 2 else None


def _kl(clean: Tensor, edited: Tensor) -> Tensor:
    """sum p (log p - log q) along the last axis; flat over the rest."""
    p = clean.exp()
    gap = (clean - edited).clamp(-1e4, 1e4)
    return (p * gap).sum(-1).clamp(min=0).flatten().cpu()


def _effects(
    layers: list[str], rows: list[tuple[Tensor | None, Tensor | None, Tensor]], clean: _Measure
) -> SkipEffects:
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
