"""What each layer adds to the residual stream, exactly, and how large and in which direction it is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.errors import InputError, ModelError, SiteError
from inscape.engine.forward import run
from inscape.models.model import Model

PARTS = ("attn_out", "cross_out", "ssm_out", "mlp_out")
KINDS = {"attn_out": "attention", "cross_out": "cross-attention", "ssm_out": "state space", "mlp_out": "MLP"}
EPS = 1e-6  # a floor for lengths that divide: an all-zero state has no relative size


@dataclass(frozen=True, eq=False)
class Update:
    """One layer: the stream before and after it, and the parts as they were added (after any post-norm).

    error: the largest |post - pre - sum of parts| over the largest |post|; None where the layer's stream is not a plain
    sum (it is normalised after every addition, as in BERT).
    """

    layer: str
    pre: Float[Tensor, "batch pos d_model"]
    parts: dict[str, Float[Tensor, "batch pos d_model"]]
    post: Float[Tensor, "batch pos d_model"]
    error: float | None


@dataclass(frozen=True, eq=False)
class Updates:
    """Every layer's update on one batch, with the mask of real tokens."""

    layers: tuple[Update, ...]
    tokens: Int[Tensor, "batch pos"] | None
    mask: Bool[Tensor, "batch pos"]

    @property
    def error(self) -> float | None:
        """The worst identity error of the layers whose stream is a sum."""
        known = [u.error for u in self.layers if u.error is not None]
        return max(known) if known else None


@dataclass(frozen=True, eq=False)
class Contributions:
    """Per layer, means over real tokens. Keys of the dictionaries are parts ("attn_out", "mlp_out") and "layer".

    norm: |h_l| (mean, and the 10th and 90th percentile). relative: |part| / |stream it is added to|. cosine: with that
    stream; near 0 new directions, below 0 erasure, above 0 amplification. control: the cosine of the stream with the
    same part at another token. chance: 1 / sqrt(d_model), the spread of the cosine of random directions.
    """

    layers: tuple[str, ...]
    norm: Float[Tensor, " layer"]
    norm_low: Float[Tensor, " layer"]
    norm_high: Float[Tensor, " layer"]
    relative: dict[str, Float[Tensor, " layer"]]
    cosine: dict[str, Float[Tensor, " layer"]]
    control: dict[str, Float[Tensor, " layer"]]
    error: float | None
    n_tokens: int
    chance: float
    additive: bool
    missing: tuple[str, ...] = field(default=())


def updates(model: Model, inputs: Any) -> Updates:
    """What attention, MLP and their kin add to the stream in every layer, and the check that they are all there is.

    `h_{l+1} = h_l + sum of parts`, where a part is what enters the sum: after Gemma's post-norms, layer scales and
    multipliers. Choose `contributions` for the numbers; this keeps whole streams: 4 x layers x batch x pos x d_model.
    Raises: ModelError for a model without a residual stream.
    Source: Csordas et al. 2025, arXiv:2505.13898.
    """
    names = stream_layers(model)
    wanted = [f"{n}.{s}" for n in names for s in ("resid_pre", *PARTS, "resid_post") if f"{n}.{s}" in model.sites]
    trace = run(model, inputs, read=wanted)
    mask = trace.mask
    first = trace[f"{names[0]}.resid_pre"]
    if mask is None or mask.shape != first.shape[:2]:
        mask = torch.ones(first.shape[:2], dtype=torch.bool)
    additive = is_additive(model)
    found = []
    for name in names:
        pre, post = trace[f"{name}.resid_pre"], trace[f"{name}.resid_post"]
        parts = {s: trace[f"{name}.{s}"] for s in PARTS if f"{name}.{s}" in trace}
        error = None
        if additive and parts:
            real = mask.to(post.device)
            gap = (post - pre - sum(parts.values()))[real]  # type: ignore[operator]
            error = float(gap.abs().max() / post[real].abs().max().clamp(min=EPS))
        found.append(Update(name, pre, parts, post, error))
    tokens = trace.tokens if trace.tokens is not None and trace.tokens.shape == mask.shape else None
    return Updates(tuple(found), tokens, mask.cpu().bool())


def contributions(
    model: Model, inputs: Sequence[Any], *, skip_first: bool = True, control: str | None = "shuffle", seed: int = 0
) -> Contributions:
    """Relative size and cosine of what each layer adds, over the tokens of several inputs, one at a time.

    `|a|/|h|`, `|m|/|h + a|` (in a parallel block `|m|/|h|`), and the cosines of the same pairs.
    inputs: one entry a run (texts, lists of ids, dicts); memory stays that of the largest. skip_first: leave out the
    first token, whose massive norm drowns the means of decoders. control: "shuffle" takes the part of another token.
    Cost: one forward an input, without the head.
    Raises: ModelError without a residual stream; InputError when no token is left.
    """
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} is none of contributions; it can be 'shuffle' or None.")
    generator = torch.Generator().manual_seed(seed)
    gathered: dict[tuple[str, str, str], list[Tensor]] = {}
    worst, n_tokens, width = None, 0, 1
    for one in inputs:
        read = updates(model, one)
        keep = read.mask.clone()
        if skip_first:
            keep &= keep.long().cumsum(1) > 1
        if not bool(keep.any()):
            continue
        if read.error is not None:
            worst = max(worst or 0.0, read.error)
        n_tokens += int(keep.sum())
        other = torch.randperm(int(keep.sum()), generator=generator).roll(1)
        for layer in read.layers:
            width = layer.pre.shape[-1]
            for kind, part, stream in _pairs(layer, model):
                x, h = part[keep.to(part.device)].float(), stream[keep.to(stream.device)].float()
                gathered.setdefault((layer.layer, kind, "relative"), []).append(
                    (x.norm(dim=-1) / h.norm(dim=-1).clamp(min=EPS)).cpu()
                )
                gathered.setdefault((layer.layer, kind, "cosine"), []).append(
                    torch.cosine_similarity(x, h, dim=-1, eps=EPS).cpu()
                )
                if control is not None:
                    moved = torch.cosine_similarity(x[other.to(x.device)], h, dim=-1, eps=EPS).cpu()
                    gathered.setdefault((layer.layer, kind, "control"), []).append(moved)
            size = layer.post[keep.to(layer.post.device)].float().norm(dim=-1).cpu()
            gathered.setdefault((layer.layer, "", "norm"), []).append(size)
    if not n_tokens:
        raise InputError("no token is left to measure: every input has one token, and skip_first leaves it out.")
    return _summed(stream_layers(model), gathered, worst, n_tokens, width, is_additive(model))


def is_additive(model: Model) -> bool:
    """Is the main stream a plain sum of what the layers add?"""
    stack = next((s for s, blocks in model.resolved.stacks if blocks == model.blocks), None)
    return stack is not None and stack.adds in ("sequential", "parallel")


def _pairs(layer: Update, model: Model) -> list[tuple[str, Tensor, Tensor]]:
    """(kind, what is added, the stream it is added to)."""
    stack = next(s for s, blocks in model.resolved.stacks if blocks == model.blocks)
    pairs, stream = [], layer.pre
    for kind, part in layer.parts.items():
        pairs.append((kind, part, stream))
        if stack.adds != "parallel":
            stream = stream + part
    return [*pairs, ("layer", layer.post - layer.pre, layer.pre)]


def stream_layers(model: Model) -> list[str]:
    names = [
        b.name for b in model.blocks if f"{b.name}.resid_pre" in model.sites and f"{b.name}.resid_post" in model.sites
    ]
    if not names:
        try:
            model.sites("*resid_post")
        except SiteError as error:
            raise ModelError(f"{type(model.module).__name__} has no residual stream that inscape knows.") from error
        raise ModelError(f"{type(model.module).__name__} has no resid_pre and resid_post in its main stack.")
    return names


def _summed(names: list[str], gathered: dict, error: float | None, n: int, width: int, additive: bool) -> Contributions:
    def mean(layer: str, kind: str, what: str) -> float:
        values = gathered.get((layer, kind, what))
        return float(torch.cat(values).mean()) if values else float("nan")

    kinds = [k for k in (*PARTS, "layer") if any((name, k, "relative") in gathered for name in names)]
    table = {
        w: {k: torch.tensor([mean(name, k, w) for name in names]) for k in kinds}
        for w in ("relative", "cosine", "control")
    }
    sizes = [torch.cat(gathered[(name, "", "norm")]) for name in names]
    low, high = (torch.stack([s.quantile(q) for s in sizes]) for q in (0.1, 0.9))
    return Contributions(
        tuple(names),
        torch.stack([s.mean() for s in sizes]),
        low,
        high,
        table["relative"],
        table["cosine"],
        table["control"],
        error,
        n,
        width**-0.5,
        additive,
    )
