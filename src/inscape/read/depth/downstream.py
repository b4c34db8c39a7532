"""Which later layers mind when one layer is skipped.

How it is measured, one input at a time:
1. A clean run gives every layer's update u_l = h_{l+1} - h_l.
2. One edited run a layer s, all of them together from where they part: the stream passes s as if it were not there, at
   all tokens but the first, or (`tokens="future"`) at those before a drawn token t.
3. E[s, l] = |u_l - u'_l| / |u_l| at each later layer l and each measured token: all but the first, or those from t on.
With `direct`, every later block is given its clean input with the change of s alone, and its output goes nowhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import Edit, make_edit
from inscape.core.edits.skip import skip
from inscape.core.errors import EditError, InputError, ModelError
from inscape.core.nulls import Intervals, bootstrap_each
from inscape.core.progress import Progress, tell
from inscape.core.step import Step
from inscape.engine.cells import Cell, run_cells
from inscape.engine.forward import run
from inscape.engine.unembed import predicts_next
from inscape.models.model import Model
from inscape.read.geometry.updates import EPS, stream_layers

PARTS = ("layer", "attn", "mlp")
TOKENS = ("all", "future")
BYTES = 256 * 2**20  # of streams held at once


@dataclass(frozen=True, eq=False)
class DownstreamEffects:
    """Relative change of every layer's update when another is skipped; axes [skipped, layer], and one more for inputs.

    mean: over tokens, then over inputs. max: over both, the number of the source; a few tokens decide it. per_input:
    means over tokens, for intervals. Layers before the skipped one hold zero: nothing reaches them. stream, per input:
    |final state - clean| / |clean|, None with `direct`. control: the same with noise in place of the skip.
    """

    layers: tuple[str, ...]
    part: str
    tokens: str
    direct: bool
    mean: Float[Tensor, "skipped layer"]
    max: Float[Tensor, "skipped layer"]
    per_input: Float[Tensor, "input skipped layer"]
    stream: Float[Tensor, "input skipped"] | None
    control: "DownstreamEffects | None"
    n_tokens: int

    def reach(self, *, seed: int = 0) -> Intervals:
        """How much a skip changes the layers after it: the mean of E over them, [skipped]; the last has none."""
        return bootstrap_each(self.reach_per_input, seed=seed)

    @property
    def reach_per_input(self) -> Float[Tensor, "input skipped"]:
        """The same for each input: [input, all skipped layers but the last]."""
        later = torch.ones_like(self.mean).triu(1)
        return ((self.per_input * later).sum(-1) / later.sum(-1).clamp(min=1))[:, :-1]


def downstream_effects(
    model: Model,
    inputs: Sequence[Any],
    part: str = "layer",
    *,
    tokens: str = "all",
    direct: bool = False,
    control: str | None = "noise",
    splits: int = 4,
    skip_first: bool | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> DownstreamEffects:
    """Skip each layer in turn and measure how much the update of every later layer changes.

    `E[s, l] = |u_l - u'_l| / |u_l|`, u_l what layer l adds to the stream. Choose it to see who uses what a layer
    writes; `circuits.skipping.skip_effects` measures what the prediction loses.
    inputs: one entry a run (texts, lists of ids), of three tokens or more. part: "layer", "attn" or "mlp".
    tokens: "future" skips before a drawn token and measures from it on: what later tokens take from earlier ones.
        `splits` tokens an input are drawn, without the first two. Only for causal models.
    direct: the change of s reaches each later layer by itself, not through those between.
    control: "noise" leaves the layer in and adds a random vector as long as its update: any change of that size.
    skip_first: leave the first token alone and out of the means; it carries the attention sink of decoders. On for
        causal models when left out.
    Cost: one forward, and for each of layers x (1 + control) x splits the layers above the skipped one (all later
    blocks with `direct`); memory: 256 MB of streams at a time.
    Raises: ModelError without a residual stream, EditError for unknown words, InputError for inputs that are too short.
    Source: Csordas et al. 2025, arXiv:2505.13898; ours adds the mean (the maximum hangs on single tokens) and the
    control, draws t anywhere and not at multiples of 8.
    """
    words = (("part", part, PARTS), ("tokens", tokens, TOKENS), ("control", control, (None, "noise")))
    for name, value, known in words:
        if value not in known:
            raise EditError(f"{name}={value!r} is none of downstream_effects; it is {', '.join(map(repr, known))}.")
    layers = stream_layers(model)
    layers = [x for x in layers if part == "layer" or f"{x}.{part}_out" in model.sites]
    if len(layers) < 2:
        raise ModelError(f"{type(model.module).__name__} has {len(layers)} layers with a {part} that can be skipped.")
    causal = predicts_next(model)
    if tokens == "future" and not causal:
        raise InputError(
            f"tokens='future' needs a causal model; in {type(model.module).__name__} every token sees all."
        )
    first = 1 if (causal if skip_first is None else skip_first) else 0
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {"skip": [], "noise": []}
    n_tokens = 0
    for number, one in enumerate(inputs):
        tell(progress, f"skipping layers on input {number + 1} of {len(inputs)}", number / len(inputs))
        clean = _Clean.of(model, one, layers, part)
        if clean.length < first + 2:
            raise InputError(
                f"input {number} has {clean.length} tokens; {first + 2} are needed to skip and to measure."
            )
        cuts = _cuts(clean.length, first, splits, generator) if tokens == "future" else [None]
        n_tokens += sum(clean.length - (first if t is None else t) for t in cuts)
        for job in ("skip", *([control] if control else [])):
            noise = torch.randn(clean.part.shape, generator=generator) if job == "noise" else None
            found = [_one(model, one, clean, layers, part, direct, noise, first, t) for t in cuts]
            mean, highest, stream = (torch.stack(x) for x in zip(*found, strict=True))
            made[job].append((mean.mean(0), highest.amax(0), stream.mean(0)))
    if not made["skip"]:
        raise InputError("there are no inputs to measure.")

    def gathered(job: str, beside: DownstreamEffects | None) -> DownstreamEffects:
        mean, highest, stream = (torch.stack(x) for x in zip(*made[job], strict=True))
        return DownstreamEffects(
            tuple(layers), part, tokens, direct, mean.mean(0), highest.amax(0), mean, None if direct else stream,
            beside, n_tokens,
        )  # fmt: skip

    return gathered("skip", gathered("noise", None) if control else None)


@dataclass(frozen=True, eq=False)
class _Clean:
    """One input's unedited streams: before every layer, after the last, and what the skipped part of each adds."""

    pre: Float[Tensor, "layer pos d_model"]
    update: Float[Tensor, "layer pos d_model"]
    part: Float[Tensor, "layer pos d_model"]
    end: Float[Tensor, "pos d_model"]

    @property
    def length(self) -> int:
        return self.pre.shape[1]

    @classmethod
    def of(cls, model: Model, one: Any, layers: Sequence[str], part: str) -> "_Clean":
        wanted = [f"{x}.{s}" for x in layers for s in ("resid_pre", "resid_post")]
        wanted += [f"{x}.{part}_out" for x in layers if part != "layer"]
        trace = run(model, one, read=wanted)
        states = trace[f"{layers[0]}.resid_pre"]
        if states.ndim != 3 or states.shape[0] != 1:
            raise InputError(f"an input is one run of one row; this one gives streams of shape {tuple(states.shape)}.")
        pre, post = (torch.stack([trace[f"{x}.{s}"][0] for x in layers]) for s in ("resid_pre", "resid_post"))
        update = post - pre
        added = update if part == "layer" else torch.stack([trace[f"{x}.{part}_out"][0] for x in layers])
        return cls(pre, update, added, post[-1])


def _one(
    model: Model, one: Any, clean: _Clean, layers: Sequence[str], part: str, direct: bool, noise: Tensor | None,
    first: int, cut: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Mean and largest E over the measured tokens, [skipped, layer], and the change of the final state, [skipped]."""
    n, at = len(layers), slice(first, cut)
    measured = slice(first if cut is None else cut, None)
    changes = -clean.part
    if noise is not None:
        noise = noise.to(clean.part)
        changes = noise / noise.norm(dim=-1, keepdim=True) * clean.part.norm(dim=-1, keepdim=True)
    cells = [Cell(tuple(_edits(s, clean, layers, part, direct, changes, noise is not None, at))) for s in range(n)]
    if direct:
        cells = cells[:-1]  # nothing is above the last layer
    reads = [f"{x}.{s}" for x in layers for s in ("resid_pre", "resid_post")]
    size = max(1, BYTES // (2 * clean.pre.numel() * clean.pre.element_size()))
    mean, highest, stream = torch.zeros(n, n), torch.zeros(n, n), torch.zeros(n)
    length = clean.update[:, measured].float().norm(dim=-1).clamp(min=EPS)
    for start in range(0, len(cells), size):
        made = run_cells(model, one, cells[start : start + size], read=reads)
        end = made[f"{layers[-1]}.resid_post"]
        for place in range(len(end)):
            s = start + place
            for layer in range(s, n):  # the layers before s cannot know
                update = made[f"{layers[layer]}.resid_post"][place] - made[f"{layers[layer]}.resid_pre"][place]
                if direct and layer == s:
                    continue
                gap = (clean.update[layer] - update)[measured].float().norm(dim=-1) / length[layer]
                mean[s, layer], highest[s, layer] = gap.mean(), gap.max()
            away = (clean.end - end[place])[measured].float().norm(dim=-1)
            stream[s] = (away / clean.end[measured].float().norm(dim=-1).clamp(min=EPS)).mean()
    return mean, highest, stream


def _edits(
    s: int, clean: _Clean, layers: Sequence[str], part: str, direct: bool, changes: Tensor, noisy: bool, at: slice
) -> Iterator[Edit]:
    """Layer s skipped, or its change put into every later layer's clean input."""
    if direct:
        for layer in range(s + 1, len(layers)):
            held = clean.pre[layer].clone()
            held[at] += changes[s][at]
            yield make_edit(f"{layers[layer]}.resid_pre", _put(held), f"{layers[layer]} sees {layers[s]} gone",
                            contextual=True, at=slice(at.start, None))  # fmt: skip
    elif noisy:
        site = f"{layers[s]}.resid_post" if part == "layer" else f"{layers[s]}.{part}_out"
        yield make_edit(site, _added(changes[s]), f"noise at {site}", contextual=True, at=at)
    else:
        yield skip(layers[s] if part == "layer" else f"{layers[s]}.{part}", at=at)


def _put(value: Tensor) -> Any:
    def fn(x: Tensor, step: Step) -> Tensor:
        return value[step.start : step.start + x.shape[1]].to(x).expand_as(x)

    return fn


def _added(value: Tensor) -> Any:
    def fn(x: Tensor, step: Step) -> Tensor:
        return x + value[step.start : step.start + x.shape[1]].to(x)

    return fn


def _cuts(length: int, first: int, splits: int, generator: torch.Generator) -> list[int]:
    """Tokens between what is skipped and what is measured: one token or more on either side."""
    possible = torch.arange(first + 1, length)
    order = torch.randperm(len(possible), generator=generator)[:splits]
    return sorted(possible[order].tolist())
