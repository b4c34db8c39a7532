"""How one attention layer is wired: what feeds it, where q, k and v come from, how its sum enters the stream.

Everything is found on a probe of single tokens and proven there; see `origins` for the columns. Layers are studied once
a model and remembered; only the wiring is remembered, so weights that change later are read as they are then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from inscape.circuits.weights.around import bare, between, entering, feeding, scaling
from inscape.circuits.weights.origins import EXACT, Origin, Record, inner_modules
from inscape.circuits.weights.rotary import are_turned, queries
from inscape.core.errors import ModelError, SiteError
from inscape.engine.norms import Norm
from inscape.engine.probe import evaluating, lone_tokens, probe_inputs, record
from inscape.engine.structure import is_norm
from inscape.models.model import Model
from inscape.models.points import Block

ROWS = 32  # lone tokens: columns that agree on all of them are the same column


@dataclass(frozen=True, eq=False)
class Layer:
    """The wiring of one attention layer.

    reads: the site that the weights apply to: the stream where the norm that feeds attention is known, `attn.in` itself
        otherwise. norm, multiplier: that norm, and what its output is multiplied by.
    q, k, v: origins, None where one could not be traced (`reasons` says why). heads, k_heads, v_heads: counts.
    out: the output projection; d_z: how wide its input is, all heads side by side. gain: what its output is multiplied
        by on the way into the stream, channel by channel or as one number; post_norm: the norm it passes instead.
    turns: whether positions turn queries, None where no probe could tell.
    scaling: of the scores, None where they are no multiple of q . k. notes: what the weights alone do not say.
    """

    name: str
    reads: str
    d_in: int
    norm: Norm | None
    norm_module: nn.Module | None
    multiplier: float
    q: Origin | None
    k: Origin | None
    v: Origin | None
    reasons: Mapping[str, str]
    heads: int
    k_heads: int
    v_heads: int
    out: nn.Module
    d_z: int
    gain: Tensor | float
    post_norm: Norm | None
    post_norm_module: nn.Module | None
    scaling: float | None
    turns: bool | None
    notes: tuple[str, ...]

    def kv_of(self, head: int, count: int) -> int:
        """The key or value head, of `count`, that serves this head."""
        return head * count // self.heads


def block_of(model: Model, layer: int | str) -> Block:
    """The block meant by a number (in the main stack) or a name ("encoder.layers.0")."""
    if isinstance(layer, int):
        blocks = model.blocks
        if not -len(blocks) <= layer < len(blocks):
            raise SiteError(f"there is no layer {layer}: {type(model.module).__name__} has {len(blocks)}.")
        return blocks[layer]
    every = {b.name: b for _, blocks in model.resolved.stacks for b in blocks}
    if layer not in every:
        raise SiteError(
            f"there is no block {layer!r}; blocks are called {next(iter(every), 'nothing here')!r} and so on."
        )
    return every[layer]


def attending(model: Model) -> tuple[Block, ...]:
    """Blocks of the main stack whose heads can be taken apart: those that offer attn.z."""
    return tuple(b for b in model.blocks if _can(model, b))


def why_not(model: Model) -> str:
    """What this family's table says of its attention."""
    note = model.family.notes.get("attn", "")
    return f" ({note})" if note else ""


def layers(model: Model, blocks: Sequence[Block]) -> list[Layer]:
    """The wiring of these blocks; those not studied yet share one forward of the probe.

    Raises: ModelError where a block has no attention whose heads are offered one by one.
    """
    for block in blocks:
        if not _can(model, block):
            raise ModelError(
                f"{block.name} of {type(model.module).__name__} offers no attn.in, attn.v and attn.z: "
                f"its heads cannot be taken apart{why_not(model)}."
            )
    missing = [b for b in blocks if ("wiring", b.name) not in model.plans]
    if missing:
        model.check_ready()
        with evaluating(model.module), torch.no_grad():
            found = _studied(model, missing)
        for block, layer in zip(missing, found, strict=True):
            model.plans[("wiring", block.name)] = layer
    return [model.plans[("wiring", b.name)] for b in blocks]


def _can(model: Model, block: Block) -> bool:
    wanted = [block.points.get(n) for n in ("attn.in", "attn.v", "attn.z")]
    return all(p is not None and p.name in model.points for p in wanted)


def _studied(model: Model, blocks: Sequence[Block]) -> list[Layer]:
    main = blocks[0].points["attn.in"].prefix in model.main_prefixes
    inputs: Any = lone_tokens(model, ROWS) if main else None
    lone = inputs is not None
    inputs = inputs if lone else probe_inputs(model)
    inner = {b.name: inner_modules(b.points["attn.v"].module, bare(b.points["attn.v"])) for b in blocks}
    paths = {id(m): n for n, m in model.module.named_modules()}
    norms = {
        b.name: {
            paths[id(m)]: m
            for n, m in b.module.named_modules()
            if n and is_norm(n, m) and paths[id(m)] not in inner[b.name]
        }
        for b in blocks
    }
    names = []
    for b in blocks:
        wanted = ("resid_pre", "attn.in", "attn.q", "attn.k", "attn.v", "attn.z", "attn.scores", "attn_out")
        names += [b.points[n].name for n in wanted if n in b.points and b.points[n].name in model.points]
        names += [f"@{bare(b.points['attn.z'])}"]
        names += [f"@{p}{side}" for p in (*inner[b.name], *norms[b.name]) for side in ("", ":in")]
    values, _, _ = record(model, inputs, list(dict.fromkeys(names)))
    found = [_layer(model, b, values, inner[b.name], norms[b.name], lone) for b in blocks]
    return _with_turns(model, blocks, found) if lone else found


def _with_turns(model: Model, blocks: Sequence[Block], found: list[Layer]) -> list[Layer]:
    """Do positions turn the queries of these layers?"""
    sites = [b.points["attn.q"].name if "attn.q" in b.points else "" for b in blocks]
    origins = {s: w.q for s, w in zip(sites, found, strict=True) if w.q is not None}
    seen = queries(model, origins, rows=6, columns=3) if origins else None
    if seen is None:
        return found
    turned = {site: are_turned(*pair) for site, pair in seen.items()}
    return [replace(w, turns=turned.get(s)) for s, w in zip(sites, found, strict=True)]


def _layer(
    model: Model, block: Block, values: Mapping[str, Tensor], inner: dict[str, nn.Module], norms: dict[str, nn.Module],
    lone: bool,
) -> Layer:  # fmt: skip
    at = {n: values[p.name] for n, p in block.points.items() if p.name in values}
    if "attn.in" not in at or "attn.z" not in at:
        raise ModelError(f"attention of {block.name} did not run on the probe, so its weights cannot be traced.")
    tolerance = EXACT.get(at["attn.in"].dtype, 1e-5)
    x = at["attn.in"].flatten(0, -2)
    kept = {p: m for p, m in inner.items() if f"@{p}" in values and f"@{p}:in" in values}
    rec = Record(
        x, {p: values[f"@{p}:in"] for p in kept}, {p: values[f"@{p}"] for p in kept}, kept, tolerance
    )  # fmt: skip
    origins, reasons = _origins(rec, at, lone)
    notes = [_note_of(n, o) for n, o in origins.items() if o is not None]
    reads, norm, norm_module, multiplier, said = feeding(block, at, values, norms, tolerance)
    heads = at["attn.z"].shape[2]
    v_heads, k_heads = at["attn.v"].shape[2], at["attn.k"].shape[2] if "attn.k" in at else at["attn.v"].shape[2]
    gain, post, post_module, entered = entering(block, at, values, tolerance)
    scale, scored = scaling(at, heads, k_heads)
    gated = between(at, heads, v_heads, tolerance) if lone else ""
    stack = next(s for s, blocks in model.resolved.stacks if block in blocks)
    normed = "the stream is normalised after every addition, so what heads write is rescaled before it is read"
    texts = [*notes, said, entered, scored, gated, normed if stack.adds == "post_norm" else ""]
    return Layer(
        block.name, reads, x.shape[1], norm, norm_module, multiplier, origins["q"], origins["k"], origins["v"], reasons,
        heads, k_heads, v_heads, block.points["attn.z"].module, at["attn.z"][0, 0].numel(), gain, post, post_module,
        scale, None, tuple(t for t in texts if t),
    )  # fmt: skip


def _origins(rec: Record, at: Mapping[str, Tensor], lone: bool) -> tuple[dict[str, Origin | None], dict[str, str]]:
    found: dict[str, Origin | None] = {}
    reasons = {}
    for n in ("q", "k", "v"):
        seen = at.get(f"attn.{n}")
        found[n] = rec.origin(rec.flat(seen.flatten(2))) if seen is not None else None
        if found[n] is None:
            what = "is not offered by this attention" if seen is None else "is no output of its projections and norms"
            turned = "" if lone or n == "v" else ", or positions turn it where the probe stands"
            reasons[n] = f"attn.{n} {what}{turned}"
    return found, reasons


def _note_of(name: str, origin: Origin) -> str:
    parts = []
    if origin.norms:
        which = ", ".join(p.rsplit(".", 1)[-1] for p in origin.norms)
        parts.append(f"{name} passes a norm ({which}): its gain is folded, its size is a token's own and left out")
        parts[-1] += ", so the QK map is not bilinear" if name in "qk" else ""
    if origin.limit is not None:
        parts.append(f"{name} is clipped at {origin.limit:g}: the map holds below that")
    return "; ".join(parts)
