"""A table for an architecture that has none: from the module's structure, settled by what one probe forward shows."""

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from inscape.core.errors import InscapeError
from inscape.engine.evidence import gap, sum_gap, tolerance_for
from inscape.engine.probe import evaluating, main_output, probe_inputs, record
from inscape.engine.structure import OUT_NAMES, Shape, head_of, is_linear, is_norm, shapes_of, widths
from inscape.models.family import Family, Stack, Taps
from inscape.models.model import Model

FUSED = {"qkv", "c_attn", "qkv_proj", "query_key_value", "wqkv", "query_proj"}
ERRORS = (InscapeError, RuntimeError, ValueError, IndexError)


@dataclass(frozen=True)
class Kind:
    """What was found inside one kind of block."""

    sites: dict[str, str]
    adds: str = "other"
    norms: tuple[str, ...] = ()
    attention: str | None = None
    core: str | None = None


def infer_family(module: nn.Module) -> Family:
    """The family of a module without a table, inferred: every name in it still has to pass `verify`.

    Blocks: the outermost list with most parameters (two for encoder-decoders). Parts: the shallowest submodules whose
    outputs add up to what the block adds to its stream, in a probe forward. Without a probe (inputs unknown), only
    the streams between blocks, embed, final_norm and logits. Cost: a few short forward passes.
    """
    shapes = shapes_of(module)
    name = f"inferred: {type(module).__name__}"
    if not shapes:
        return Family(
            name, (), (), logits=None, notes={"layers": "no list of repeated blocks was found in this module"}
        )
    bare = tuple(
        Stack(
            s.blocks, {"resid_pre": ":in", "resid_post": ""}, adds="other", prefix=s.prefix, embed=s.embed or None,
            final_norm=s.final_norm or None,
        )
        for s in shapes
    )  # fmt: skip
    family = Family(name, (), bare, logits=head_of(module, [s.blocks for s in shapes]))
    try:
        model = Model(module, family=family)
        inputs = probe_inputs(model)
        with evaluating(module), torch.no_grad():
            return _settled(model, inputs, shapes)
    except ERRORS:
        return family


def _settled(model: Model, inputs: Any, shapes: tuple[Shape, ...]) -> Family:
    family = model.family
    stacks = []
    for shape, stack in zip(shapes, family.stacks, strict=True):
        kinds: dict[type, Kind] = {}
        blocks = dict(model.module.get_submodule(shape.blocks).named_children())
        for child, block in blocks.items():
            if type(block) not in kinds and len(kinds) < 8:
                path = f"{shape.blocks}.{child}".removeprefix(".")
                kinds[type(block)] = _kind(model, inputs, path, block, shape)
        stacks.append(_merged(model, inputs, stack, list(kinds.values())))
    logits = family.logits if _gives_output(model, inputs, family.logits) else None
    return replace(family, stacks=tuple(stacks), logits=logits)


def _gives_output(model: Model, inputs: Any, head: Taps | None) -> bool:
    if not isinstance(head, str):
        return False
    values, _, out = record(model, inputs, [f"@{head}"])
    result = main_output(out)
    return result is not None and f"@{head}" in values and values[f"@{head}"].shape == result.shape


def _kind(model: Model, inputs: Any, path: str, block: nn.Module, shape: Shape) -> Kind:
    """Which submodules of this block are attention and MLP, and how their outputs enter the stream."""
    values = _everything(model, inputs, path, block)
    pre, post = values.get(":in"), values.get("")
    if pre is None or post is None or pre.shape != post.shape:
        return Kind({})
    inside = dict(block.named_modules())
    attention = _attention(inside)
    projection = _output_projection(inside, attention, values)
    parts, adds, norms = _layout(values, inside, pre, post, attention)
    sites: dict[str, str] = {}
    for part in parts:
        is_attention = attention is not None and _belongs(part, attention, projection, values)
        short = "attn_out" if is_attention and "attn_out" not in sites else "mlp_out"
        if short in sites:
            return Kind({})
        sites[short] = part
    if attention and "attn_out" in sites:
        sites["attn.in"] = f"{_core(inside, attention)}:in"
        if projection:
            sites["attn.z"] = f"{projection}:in"
    if "mlp_out" in sites:
        sites |= _mlp(inside, attention, values, sites["mlp_out"], pre)
    if "attn_out" in sites and "mlp_out" in sites:
        middle = pre + values[sites["attn_out"]]
        if adds == "sequential":
            found = [
                n
                for n in inside
                if f"{n}:in" in values and n and is_norm(n, inside[n]) and _equal(values[f"{n}:in"], middle)
            ]
            if found:
                sites["resid_mid"] = f"{found[0]}:in"
            elif _reads(values, sites.get("mlp.in"), pre, inside):
                adds = "parallel"
        elif norms:
            sites["resid_mid"] = norms[0]
    core = _core(inside, attention) if attention else None
    if core is not None and isinstance(inside[core], nn.MultiheadAttention):
        core = None  # one function call does it all, and a watch over it would change which kernel that chooses
    return Kind(sites, adds, norms, _interface(inside, attention), core)


def _everything(model: Model, inputs: Any, path: str, block: nn.Module) -> dict[str, Tensor]:
    """Input and output of every submodule of the block that has them, by tap; those of the wrong kind left out."""
    names = [f"{path}.{n}".rstrip(".") for n, _ in block.named_modules()]
    wanted = [f"@{n}{side}" for n in names for side in ("", ":in")]
    try:
        values, fired, _ = record(model, inputs, wanted)
    except ERRORS:
        values, fired = {}, {}
        for one in wanted:
            try:
                v, f, _ = record(model, inputs, [one])
            except ERRORS:
                continue
            values, fired = values | v, fired | f
    cut = len(path) + 1
    taps = {n: n[1:][cut:] if n[1 : 1 + cut] == f"{path}." else n[1 + len(path) :] for n in values}
    return {taps[n]: v for n, v in values.items() if fired.get(n) == 1}


def _attention(inside: dict[str, nn.Module]) -> str | None:
    """The outermost submodule that is an attention layer by its projections or its class."""
    found = [n for n, m in inside.items() if n and _is_attention(m) and not is_norm(n, m)]
    return min(found, key=lambda n: n.count("."), default=None)


def _core(inside: dict[str, nn.Module], attention: str) -> str:
    """The innermost attention module: wrappers add the residual, and what they receive is more than what it reads."""
    found = [n for n, m in inside.items() if (n == attention or n.startswith(f"{attention}.")) and _is_attention(m)]
    return max(found, key=lambda n: n.count("."))


def _is_attention(m: nn.Module) -> bool:
    children = {n.lower() for n, _ in m.named_children()}
    pairs = (("q_proj", "k_proj"), ("query", "key"), ("q", "k"), ("wq", "wk"), ("q_lin", "k_lin"))
    if any({q, k} <= children for q, k in pairs) or children & FUSED or isinstance(m, nn.MultiheadAttention):
        return True
    kind = type(m).__name__.lower()
    return bool(children) and ("attention" in kind or "attn" in kind)


def _interface(inside: dict[str, nn.Module], attention: str | None) -> str | None:
    """The module inside attention that calls transformers' attention function, if any looks like it."""
    if attention is None:
        return None
    at = [
        n
        for n, m in inside.items()
        if (n == attention or n.startswith(f"{attention}."))
        and hasattr(getattr(m, "config", None), "_attn_implementation")
    ]
    with_projections = [n for n in at if sum(is_linear(c) for c in inside[n].children()) >= 1]
    return (with_projections or at or [None])[-1]


def _output_projection(inside: dict[str, nn.Module], attention: str | None, values: dict[str, Tensor]) -> str | None:
    if attention is None:
        return None
    own = [
        n
        for n, m in inside.items()
        if n.startswith(f"{attention}.") and is_linear(m) and n in values and f"{n}:in" in values
    ]
    same = [n for n in own if attention in values and _equal(values[n], values[attention])]
    named = [n for n in own if n.rsplit(".", 1)[-1] in OUT_NAMES]
    return (same or named or [None])[-1]


def _layout(
    values: dict[str, Tensor], inside: dict[str, nn.Module], pre: Tensor, post: Tensor, attention: str | None
) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """The shallowest submodules whose outputs add up to what the block adds; in a post-norm block, before each norm."""
    taps = [
        n
        for n in values
        if n and not n.endswith(":in") and values[n].shape == post.shape and not _equal(values[n], post)
    ]
    taps = [n for n in taps if not _equal(values[n], pre)]
    taps.sort(key=lambda n: (n.count("."), list(values).index(n)))
    unique: list[str] = []
    for n in taps:
        if not any(torch.equal(values[n], values[u]) for u in unique):
            unique.append(n)
    for count in (1, 2):
        fits = [c for c in combinations(unique, count) if _fits(post, pre, [values[n] for n in c])]
        if fits:
            best = min(fits, key=lambda c: sum(n.count(".") for n in c))
            return tuple(sorted(best, key=list(values).index)), "sequential", ()
    norms = [n for n in inside if n and is_norm(n, inside[n]) and n in values and f"{n}:in" in values]
    last = next((n for n in norms if _equal(values[n], post)), None)
    for first in norms:
        if last is None or first == last:
            continue
        a = next((n for n in unique if _fits(values[f"{first}:in"], pre, [values[n]])), None)
        m = next((n for n in unique if _fits(values[f"{last}:in"], values[first], [values[n]])), None)
        if a and m:
            return (a, m), "post_norm", (first, last)
    return (), "other", ()


def _fits(total: Tensor, start: Tensor, parts: list[Tensor]) -> bool:
    if total.shape != start.shape or any(p.shape != start.shape for p in parts):
        return False
    return sum_gap(total, start, parts) <= tolerance_for(total.dtype)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and gap(a, b) <= tolerance_for(a.dtype)


def _belongs(part: str, attention: str, projection: str | None, values: dict[str, Tensor]) -> bool:
    """Is this part made by attention: it, something around or inside it, or a norm of what it returns?"""
    if part == attention or part.startswith(f"{attention}.") or attention.startswith(f"{part}."):
        return True
    received = values.get(f"{part}:in")
    made = [values[n] for n in (attention, projection) if n is not None and n in values]
    return received is not None and any(_equal(received, m) for m in made)


def _mlp(
    inside: dict[str, nn.Module], attention: str | None, values: dict[str, Tensor], out: str, pre: Tensor
) -> dict[str, str]:
    """Down projection, what feeds its activation, and what the MLP reads."""
    free = [
        n
        for n, m in inside.items()
        if is_linear(m) and n in values and f"{n}:in" in values and not (attention and n.startswith(f"{attention}."))
    ]
    goal = [values[out], *([values[f"{out}:in"]] if f"{out}:in" in values else [])]
    down = next((n for n in reversed(free) if any(_equal(values[n], g) for g in goal)), None)
    if down is None:
        return {}
    hidden = widths(inside[down])[0]
    ups = [
        n
        for n in free
        if n != down and widths(inside[n])[1] == hidden and values[n].shape == values[f"{down}:in"].shape
    ]
    sites = {"mlp.act": f"{down}:in"}
    if ups:
        ups.sort(key=lambda n: not any(w in n.rsplit(".", 1)[-1].lower() for w in ("gate", "w1", "wi_0")))
        sites["mlp.pre"] = ups[0]
        sites["mlp.in"] = f"{ups[0]}:in"
        return sites
    fused = next((n for n in free if n != down and widths(inside[n])[1] == 2 * hidden), None)
    if fused is not None:  # gate first is the custom; verify withdraws it where it is the other way round
        sites |= {"mlp.pre": f"{fused}[0/2]", "mlp.in": f"{fused}:in"}
    return sites


def _reads(values: dict[str, Tensor], tap: str | None, stream: Tensor, inside: dict[str, nn.Module]) -> bool:
    """Is this input the stream, or a norm of it?"""
    x = values.get(tap or "")
    if x is None:
        return False
    norms = [n for n in inside if n and is_norm(n, inside[n]) and n in values and f"{n}:in" in values]
    return _equal(x, stream) or any(_equal(values[n], x) and _equal(values[f"{n}:in"], stream) for n in norms)


def _merged(model: Model, inputs: Any, stack: Stack, kinds: list[Kind]) -> Stack:
    """One stack from the kinds of blocks it mixes; attention is offered where its function is really called."""
    sites: dict[str, Taps] = dict(stack.sites)
    for kind in kinds:
        for short, tap in kind.sites.items():
            known = sites.get(short, ())
            known = (known,) if isinstance(known, str) else known
            sites[short] = known if tap in known else (*known, tap)
    attention = tuple(dict.fromkeys(k.attention for k in kinds if k.attention))
    layouts = {k.adds for k in kinds if k.sites}
    adds = next(iter(layouts)) if len(layouts) == 1 else "other"
    norms = next((k.norms for k in kinds if k.norms), ())
    plain = {n: t[0] if isinstance(t, tuple) and len(t) == 1 else t for n, t in sites.items()}
    heads = ("num_attention_heads", "n_head", "num_heads", "n_heads", "nhead", "heads")
    bare = replace(stack, sites=plain, adds=adds, norms=norms, heads=heads)
    full = replace(bare, attention=attention)
    if attention and _calls(model, inputs, full):
        return full
    cores = tuple(dict.fromkeys(k.core for k in kinds if k.core))
    return _watched(model, inputs, replace(bare, attention_calls=cores)) if cores else bare


def _watched(model: Model, inputs: Any, stack: Stack) -> Stack:
    """Attention seen in the torch calls of its module, with those of its tensors that every layer shows."""
    trial = Model(model.module, family=replace(model.family, stacks=(stack,)))
    found = tuple(n for n in stack.attention_names if _shows(trial, inputs, n))
    return replace(stack, attention_names=found) if found else replace(stack, attention_calls=None)


def _shows(trial: Model, inputs: Any, name: str) -> bool:
    names = [p.name for p in trial.resolved.points.values() if p.calls and p.inside == name]
    try:
        fired = record(trial, inputs, names)[1]
    except ERRORS:
        return False
    return bool(names) and all(fired.get(n) == 1 for n in names)


def _calls(model: Model, inputs: Any, stack: Stack) -> bool:
    trial = Model(model.module, family=replace(model.family, stacks=(stack,)))
    names = [n for n in trial.resolved.points if n.endswith(".attn.q")]
    try:
        return any(record(trial, inputs, names)[1].get(n) for n in names)
    except ERRORS:
        return False
