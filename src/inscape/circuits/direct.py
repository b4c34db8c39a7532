"""Direct logit attribution: what each part of the model adds to a logit difference, past everything that comes later.

The stream at the last real token is a sum of what was added to it; the final norm, at the size it divides by in this
very run, and the head are linear. So a difference of two logits is a sum too: one term a head, an MLP, the embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.circuits.weights.origins import linear_map
from inscape.core.errors import InputError, ModelError
from inscape.core.metrics import Answer, token_ids
from inscape.core.trace import Trace
from inscape.engine.evidence import twin_of
from inscape.engine.forward import run
from inscape.engine.norms import norm_of
from inscape.engine.unembed import Unembedding, unembedding
from inscape.models.model import Model

CONTROLS = ("random", "shuffle")
PARTS = ("ssm_out", "attn_out", "attn.head_out", "cross_out", "mlp_out")
PAIRS = 16  # random pairs of tokens in the control
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # of a sum against the model's own logits


@dataclass(frozen=True, eq=False)
class DirectLogits:
    """Contributions to `logit(answer) - logit(wrong)` at the last real token, one row an input.

    parts: name -> contribution: "embed", "layers.3.head.1", "layers.3.attn_bias", "layers.3.mlp_out" ..., in forward
        order, and "constant" (biases of final norm and head). They add up to `total`.
    control: the same parts on what they have no reason to prefer: with "random" the root mean square over random pairs
        of tokens, with "shuffle" the contribution to another input's pair. None without one.
    total: the difference before any soft cap. logits: the model's own difference, after it. off: largest difference
        between the logits that the parts add up to and the model's own, relative. how: norm, head and rules.
    """

    parts: dict[str, Float[Tensor, " row"]]
    control: dict[str, Float[Tensor, " row"]] | None
    total: Float[Tensor, " row"]
    logits: Float[Tensor, " row"]
    off: float
    how: str

    def top(self, n: int = 10) -> list[tuple[str, float, float | None]]:
        """The n parts with the largest mean contribution, either sign: (name, mean, mean on the control)."""
        names = sorted(self.parts, key=lambda name: -abs(float(self.parts[name].mean())))[:n]
        return [
            (name, float(self.parts[name].mean()), float(self.control[name].mean()) if self.control else None)
            for name in names
        ]

    def routes(self) -> dict[str, Float[Tensor, " row"]]:
        """What attention and what MLPs add in all, beside the embedding and everything else."""
        kinds = {"attention": (".head.", ".attn"), "mlp": (".mlp_out",), "embed": ("embed",)}
        out = {kind: torch.zeros_like(self.total) for kind in (*kinds, "other")}
        for name, value in self.parts.items():
            kind = next((k for k, marks in kinds.items() if any(mark in name for mark in marks)), "other")
            out[kind] = out[kind] + value
        return out

    def heads(self) -> Float[Tensor, "layer head row"]:
        """The heads' contributions as an array, NaN where a layer has fewer heads or none."""
        split = [n.rsplit(".head.", 1) for n in self.parts if ".head." in n]
        layers = list(dict.fromkeys(layer for layer, _ in split))
        out = torch.full((len(layers), max((int(h) for _, h in split), default=-1) + 1, len(self.total)), torch.nan)
        for layer, h in split:
            out[layers.index(layer), int(h)] = self.parts[f"{layer}.head.{h}"]
        return out


def direct_logits(
    model: Model,
    inputs: Any,
    answer: Answer,
    wrong: Answer | None = None,
    *,
    control: str | None = "random",
    seed: int = 0,
) -> DirectLogits:
    """What every head, MLP and the embedding add to a logit difference at the last real token, directly.

    A part x adds `(W_U[answer] - W_U[wrong]) . gain c(x) / size`, with the gain and centring of the final norm and the
    size it divides by in this run, so nothing is approximated; a head's part of the stream is `attn.head_out`, past any
    post-norm. It says where the final state comes from, not what would happen without a part: later layers read it too,
    which patching and ablation see.
    answer, wrong: a token as text or id, for all inputs or one each; without `wrong`, the logit of the answer alone.
    control: "random", the same for random pairs of tokens; "shuffle", for the pair of another input; None.
    Cost: one forward, one row of the head's matrix a token asked for.
    Raises: TokenError for an answer that is not one token; ModelError for a model without a head, whose stream is no
        sum (normed after every addition), or whose head is no plain linear layer; InputError for a shuffle of one.
    Source: Elhage et al. 2021; nostalgebraist 2020 for reading the stream with the head.
    """
    if control not in (None, *CONTROLS):
        raise InputError(f"control={control!r} is none of direct_logits; it can be 'random', 'shuffle' or None.")
    unembed = unembedding(model)
    names = _sites(model)
    trace = run(model, inputs, read=[*names, *_ends(model)], reduce="last", output="last")
    rows = trace[names[0]].shape[0]
    right = token_ids(model.tokenizer, answer, rows, n_vocab=unembed.n_vocab)[:, 0]
    other = (
        token_ids(model.tokenizer, wrong, rows, n_vocab=unembed.n_vocab, what="wrong")[:, 0]
        if wrong is not None
        else None
    )
    reader = _Reader.of(model, unembed, trace)
    parts = _parts(model, trace, names)
    found = {name: reader(x, right, other) for name, x in parts.items()}
    found["constant"] = reader.constant(right, other)
    own = trace.output.logits[:, -1].float().cpu()
    logits = own.gather(1, right[:, None])[:, 0] - (own.gather(1, other[:, None])[:, 0] if other is not None else 0)
    off = _off(reader, parts, own, right, other)
    if off > TOLERANCE.get(model.dtype, 5e-2):
        raise ModelError(
            f"the parts of {type(model.module).__name__} add up to logits that are off by {off:.1e}: more is added to "
            "its stream than attention, recurrence and MLP, or more is done to it than norm and head."
        )
    held = _control(reader, parts, right, other, control, seed, unembed.n_vocab)
    return DirectLogits(found, held, torch.stack(list(found.values())).sum(0), logits, off, unembed.how)


@dataclass(frozen=True, eq=False)
class _Reader:
    """What the last norm and the head make of a part of the final state: a linear map, once the size is known."""

    module: Any
    norm: Any
    size: Tensor | None
    factor: float
    rules: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, model: Model, unembed: Unembedding, trace: Trace) -> "_Reader":
        if not unembed.rules or all(kind != "softcap" for kind, _ in unembed.rules[:-1]):
            factor, rules = 1.0, []
            for kind, number in unembed.rules:
                factor *= {"times": number, "divide": 1 / number}.get(kind, 1.0)
                rules += [(kind, number)] if kind == "softcap" else []
        else:
            raise ModelError("a soft cap stands before another rule of the head, so logits are no sum of parts.")
        if unembed.norm is None:
            return cls(unembed.head, None, None, factor, tuple(rules))
        last, normed = _ends(model)
        x, y = trace[last].float(), trace[normed].float()
        norm = norm_of(unembed.norm, (x.shape[-1],), trace[last])
        if norm is None:
            raise ModelError(f"the final norm ({type(unembed.norm).__name__}) is no LayerNorm and no RMSNorm.")
        return cls(unembed.head, norm, norm.size(x, y), factor, tuple(rules))

    def __call__(
        self, x: Float[Tensor, "*part row d"], right: Int[Tensor, " row"], other: Int[Tensor, " row"] | None
    ) -> Float[Tensor, "*part row"]:
        x = x.float()
        if self.norm is not None and self.size is not None:
            x = self.norm.without_size(x) / self.size
        return ((x * self._directions(right, other).to(x)).sum(-1) * self.factor).cpu()

    def constant(self, right: Tensor, other: Tensor | None) -> Tensor:
        bias = self._biases(right) - (self._biases(other) if other is not None else 0.0)
        if self.norm is not None:
            bias = bias + (self._directions(right, other) @ self.norm.bias.to(self._directions(right, other))).cpu()
        return bias * self.factor

    def _directions(self, right: Tensor, other: Tensor | None) -> Tensor:
        columns = linear_map(self.module, outputs=right)[0].T
        return columns if other is None else columns - linear_map(self.module, outputs=other)[0].T

    def _biases(self, tokens: Tensor) -> Tensor:
        return linear_map(self.module, outputs=tokens)[1].cpu()

    def capped(self, logits: Tensor) -> Tensor:
        for _, number in self.rules:
            logits = torch.tanh(logits / number) * number
        return logits


def _sites(model: Model) -> list[str]:
    stack = next((s for s, blocks in model.resolved.stacks if blocks == model.blocks), None)
    if stack is None or stack.adds in ("post_norm", "other") or "resid_pre" not in model.blocks[0].points:
        raise ModelError(
            f"the stream of {type(model.module).__name__} is no sum of its parts"
            + (": it is normalised after every addition." if stack is not None and stack.adds == "post_norm" else ".")
        )
    names = [model.blocks[0].points["resid_pre"].name]
    for block in model.blocks:
        points = {n: p.name for n, p in block.points.items() if p.name in model.points and n != twin_of(block)}
        names += [points[n] for n in PARTS if n in points and (n != "attn.head_out" or "attn_out" in points)]
    return names


def _ends(model: Model) -> list[str]:
    prefix = model.blocks[0].name.rsplit("layers.", 1)[0]
    norm = f"{prefix}final_norm"
    return [f"{model.blocks[-1].name}.resid_post", *([norm] if norm in model.points else [])]


def _parts(model: Model, trace: Trace, names: list[str]) -> dict[str, Tensor]:
    parts = {"embed": trace[names[0]]}
    for name in names[1:]:
        layer, _, short = name.rpartition(".")
        if short == "head_out":
            continue
        heads = f"{layer}.attn.head_out"
        if short == "attn_out" and heads in trace:
            each = trace[heads].float().movedim(-2, 0)
            parts |= {f"{layer}.head.{h}": x for h, x in enumerate(each)}
            parts[f"{layer}.attn_bias"] = trace[name].float() - each.sum(0)
        else:
            parts[name] = trace[name]
    return parts


def _off(reader: _Reader, parts: Mapping[str, Tensor], own: Tensor, right: Tensor, other: Tensor | None) -> float:
    """The logits of both tokens, made of the parts, against the model's own."""
    worst = 0.0
    for tokens in (right, other):
        if tokens is None:
            continue
        made = sum((reader(x, tokens, None) for x in parts.values()), reader.constant(tokens, None))
        theirs = own.gather(1, tokens[:, None])[:, 0]
        worst = max(worst, float((reader.capped(made) - theirs).abs().max() / own.abs().max().clamp(min=1e-9)))
    return worst


def _control(
    reader: _Reader, parts: Mapping[str, Tensor], right: Tensor, other: Tensor | None, kind: str | None, seed: int,
    n_vocab: int,
) -> dict[str, Tensor] | None:  # fmt: skip
    if kind is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    if kind == "shuffle":
        if len(right) < 2:
            raise InputError(
                "control='shuffle' takes the answers of another input, and there is one.\n  take 'random'."
            )
        order = torch.arange(len(right)).roll(1)
        pairs = [(right[order], other[order] if other is not None else None)]
    else:
        drawn = torch.randint(n_vocab, (PAIRS, 2), generator=generator)
        pairs = [
            (a.expand(len(right)), b.expand(len(right)) if other is not None else None) for a, b in drawn.unbind(0)
        ]
    out = {}
    for name, x in parts.items():
        each = torch.stack([reader(x, a, b) for a, b in pairs])
        out[name] = each[0] if kind == "shuffle" else each.square().mean(0).sqrt()
    each = torch.stack([reader.constant(a, b) for a, b in pairs])
    out["constant"] = each[0] if kind == "shuffle" else each.square().mean(0).sqrt()
    return out
