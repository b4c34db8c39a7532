"""Equations that the values of one forward pass must fulfil: sums of the stream, projections, attention, experts."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from inscape.engine.evidence import Evidence, gap, parts_of, sum_gap
from inscape.models.family import Stack
from inscape.models.points import Block, Point

NORM = ("norm", "ln", "scale")


def raw_sites(stack: Stack, block: Block) -> list[str]:
    """Further values the proofs need: what the modules of the parts receive, what attention and experts return."""
    wanted = [
        f"@{p.module_path}:in"
        for n in ("attn_out", "cross_out", "mlp_out", "ssm_out")
        if (p := _Where.of(block, n)) is not None
    ]
    wanted += [
        f"@{p.module_path}"
        for n in ("attn.z", "cross.z", "attn.q", "cross.q", "experts.0.out")
        if (p := _Where.of(block, n)) is not None
    ]
    return [w for w in dict.fromkeys(wanted) if w.strip("@:in")]


class _Where:
    """A point with the bare path of its module."""

    def __init__(self, point: Point) -> None:
        self.module_path = point.path.split(":")[0].split("@")[0].split("[")[0]

    @classmethod
    def of(cls, block: Block, short: str) -> "_Where | None":
        return cls(block.points[short]) if short in block.points else None


def predicted(stack: Stack, block: Block, start: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """The stream after each part, by the layout: [after part 0, ...]."""
    out = []
    for i, part in enumerate(parts):
        start = start + part
        if stack.adds == "post_norm" and stack.norms:
            norm = _submodule(block.module, stack.norms[min(i, len(stack.norms) - 1) if i < len(parts) - 1 else -1])
            start = norm(start) if norm is not None else start
        out.append(start)
    return out


def sums(ev: Evidence, stack: Stack, block: Block) -> None:
    """resid_pre + parts = resid_post."""
    pre, post, mid = (ev.of(block, n) for n in ("resid_pre", "resid_post", "resid_mid"))
    names = parts_of(ev, stack, block)
    if stack.adds != "other" and pre is not None and post is not None and names:
        _sum(ev, stack, block, names, pre, post, mid, [ev.values[block.points[n].name] for n in names])


def chain(ev: Evidence, blocks: tuple[Block, ...]) -> None:
    """Each block goes on where the last one ended; where something stands between (RWKV rescales), sums decide."""
    for block, following in itertools.pairwise(blocks):
        before, after = ev.of(block, "resid_post"), ev.of(following, "resid_pre")
        if before is None or after is None or not _same_stage(block, following):
            continue
        names, error = (block.points["resid_post"].name, following.points["resid_pre"].name), gap(after, before)
        if error <= ev.tolerance or any(ev.status(n) != "proven" for n in names):
            ev.judge(names[0], "the next layer receives exactly this", error)
            ev.judge(names[1], "it is what the layer before returned", error)


def _sum(
    ev: Evidence,
    stack: Stack,
    block: Block,
    names: list[str],
    pre: Tensor,
    post: Tensor,
    mid: Tensor | None,
    parts: list[Tensor],
) -> None:
    point = {n: block.points[n].name for n in (*names, "resid_pre", "resid_post") if n in block.points}
    if stack.adds == "post_norm":
        states = predicted(stack, block, pre, parts)
        whole, formula = gap(states[-1], post), "resid_post = norm(... norm(resid_pre + " + ") + ".join(names) + ")"
        mids = [gap(s, mid) for s in states] if mid is not None else []
    else:
        whole, formula = sum_gap(post, pre, parts), "resid_post = resid_pre + " + " + ".join(names)
        mids = [sum_gap(mid, pre, parts[: k + 1]) for k in range(len(parts))] if mid is not None else []
    fits = whole <= ev.tolerance
    k = next((k for k, e in enumerate(mids) if e <= ev.tolerance), None)
    if fits:
        for name in (*names, "resid_pre", "resid_post"):
            ev.hold(point[name], formula, whole)
    if mid is not None:
        name = block.points["resid_mid"].name
        if k is not None:
            ev.hold(name, "resid_mid = resid_pre + " + " + ".join(names[: k + 1]), mids[k])
        elif fits:
            ev.deny(name, "no sum of resid_pre and the first parts gives it", min(mids))
    if fits:
        return
    if mid is not None and k is not None:  # the first half is right, so the rest is not
        for name in names[: k + 1]:
            ev.hold(point[name], "resid_mid = resid_pre + " + " + ".join(names[: k + 1]), mids[k])
        for name in names[k + 1 :]:
            ev.deny(point[name], f"not what is added to the stream: {formula} is off by {whole:.1e}", whole)
        return
    if (
        mid is not None
        and stack.adds != "post_norm"
        and len(parts) > 1
        and (e := sum_gap(post, mid, parts[-1:])) <= ev.tolerance
    ):
        ev.hold(point[names[-1]], f"resid_post = resid_mid + {names[-1]}", e)
        ev.hold(block.points["resid_mid"].name, f"resid_post = resid_mid + {names[-1]}", e)
        for name in names[:-1]:
            ev.deny(point[name], f"not what is added to the stream: {formula} is off by {whole:.1e}", whole)
        return
    for name in names:  # which of them is at fault is asked by edits, in `causal`
        ev.notes[point[name]] = f"{formula} is off by {whole:.1e}"


def projections(ev: Evidence, stack: Stack, block: Block) -> None:
    """What a projection reads, sent through it, is what the part returns: z, mlp.act, ssm.y."""
    for short, part in (("attn.z", "attn_out"), ("cross.z", "cross_out"), ("mlp.act", "mlp_out"), ("ssm.y", "ssm_out")):
        x = ev.of(block, short)
        if x is None or part not in block.points:
            continue
        point, target = block.points[short], block.points[part]
        goals = _returned(ev, stack, block, part, target)
        module = point.module if point.side == "in" and point.part is None else None
        candidates = [module] if module is not None else _projections_in(block, x)
        errors = [
            gap(y.reshape(g.shape), g)
            for m in candidates
            for g in goals
            if (y := _through(m, x)) is not None and y.numel() == g.numel()
        ]
        error, proof = min(errors, default=float("inf")), f"through its projection it is what {part} is made of"
        fits = module is not None and any((y := _through(module, x)) is not None and y.shape == g.shape for g in goals)
        if error <= ev.tolerance:
            ev.hold(point.name, proof, error)
        elif short in ("mlp.act", "ssm.y") and fits:
            ev.notes[point.name] = f"its projection alone does not make {part}: a gate or a number follows"
        elif ev.status(point.name) == "unproven" and ev.status(target.name) == "proven":
            ev.deny(point.name, f"not true here: {proof} (off by {error:.1e})", error)


def _returned(ev: Evidence, stack: Stack, block: Block, part: str, target: Point) -> list[Tensor]:
    """What the raw part may be: the part itself without its multiplier, or what the module that makes it receives."""
    found = []
    value = ev.values.get(target.name)
    if value is not None:
        found.append(value / target.scale if target.scale else value)
    where = _Where(target).module_path
    received = ev.values.get(f"@{where}:in")
    if received is not None and _is_norm(target):
        found.append(received)
    return found


def heads(ev: Evidence, stack: Stack, block: Block) -> None:
    """The heads' parts and the bias part add up to attn_out."""
    parts, whole = ev.of(block, "attn.head_out"), ev.of(block, "attn_out")
    if parts is None:
        return
    name, z = block.points["attn.head_out"].name, block.points["attn.z"]
    if whole is None or ev.status(z.name) == "withdrawn":
        ev.deny(name, "it is made from attn.z and attn_out, one of which is withdrawn")
        return
    raw = ev.values.get(f"@{_Where(z).module_path}")
    if raw is None:
        return
    bias = getattr(z.module, "bias", None)
    own = raw - bias if isinstance(bias, Tensor) else raw
    if raw.shape == whole.shape:
        expected = torch.where(raw != 0, own / raw, torch.zeros_like(raw)) * whole
        ev.judge(name, "summed over heads, with the bias, it is attn_out", gap(parts.sum(2), expected))


def attention(ev: Evidence, stack: Stack, block: Block, inner: str) -> None:
    """Rows of the pattern sum to 1, pattern = softmax(scores), and pattern @ v is the z of the model's kernel."""
    q, k, v, scores, pattern, z = (ev.of(block, f"{inner}.{n}") for n in ("q", "k", "v", "scores", "pattern", "z"))
    names = {
        n: block.points[f"{inner}.{n}"].name
        for n in ("q", "k", "v", "scores", "pattern", "z")
        if f"{inner}.{n}" in block.points
    }
    if pattern is None or scores is None or v is None or block.points[f"{inner}.pattern"].kind != "attention":
        return
    dead = (scores == -torch.inf).all(-1)
    rows = pattern.float().sum(-1)
    sinks = bool((rows < 1 - 1e-3).logical_and(~dead).any())
    off = float((rows - 1).clamp(min=0).amax() if sinks else torch.where(dead, rows, (rows - 1).abs()).amax())
    text = "rows sum to less than 1, the sink takes the rest" if sinks else "rows sum to 1"
    if not ev.judge(names["pattern"], text, off):
        return
    if not sinks:
        expected = scores.masked_fill(dead[..., None], 0).softmax(-1).masked_fill(dead[..., None], 0)
        ev.judge(names["pattern"], "it is the softmax of the scores", gap(pattern.double(), expected.double()))
    if q is not None and k is not None:
        _scale(ev, names, q, k, scores)
    wide = v.transpose(1, 2).repeat_interleave(pattern.shape[1] // v.shape[2], 1)
    by_hand = (pattern.to(wide.dtype) @ wide).transpose(1, 2)
    if z is not None and (error := gap(by_hand, z)) <= ev.tolerance:
        for n in ("q", "k", "v", "scores", "pattern", "z"):
            if n in names:
                ev.hold(names[n], "softmax(scores) v is the z of the model's own kernel", error)
    elif z is not None and by_hand.shape != z.shape:
        ev.notes[names["z"]] = f"pattern @ v has shape {tuple(by_hand.shape)}, z {tuple(z.shape)}"


def _scale(ev: Evidence, names: dict[str, str], q: Tensor, k: Tensor, scores: Tensor) -> None:
    """Where no bias and no soft cap stands between, scores are one number times q k'."""
    keys = k.transpose(1, 2).repeat_interleave(q.shape[2] // k.shape[2], 1)
    dots = (q.transpose(1, 2) @ keys.transpose(-1, -2)).to(scores.dtype)
    seen = scores > -torch.inf
    if dots.shape != scores.shape or not bool(seen.any()):
        return
    a, b = dots[seen].double(), scores[seen].double()
    factor = float((a * b).sum() / (a * a).sum().clamp(min=1e-30))
    error = gap(factor * a, b)
    if error <= ev.tolerance:
        ev.hold(names["scores"], f"scores = {factor:.4g} q k'", error)


def norms(ev: Evidence, stack: Stack, block: Block) -> None:
    """attn.in and mlp.in are a norm of the stream, or the stream itself."""
    pre, mid = ev.of(block, "resid_pre"), ev.of(block, "resid_mid")
    parts = parts_of(ev, stack, block)
    starts = [("resid_pre", pre), ("resid_mid", mid)]
    if mid is None and pre is not None and stack.adds != "other":
        states = predicted(stack, block, pre, [ev.values[block.points[n].name] for n in parts])
        starts += [("the stream after " + " + ".join(parts[: i + 1]), s) for i, s in enumerate(states[:-1])]
    modules = [
        m
        for n, m in block.module.named_modules()
        if n and any(w in (n.rsplit(".", 1)[-1] + type(m).__name__).lower() for w in NORM) and not list(m.children())
    ]
    for short in ("attn.in", "mlp.in", "ssm.in", "cross.in"):
        x = ev.of(block, short)
        if x is None:
            continue
        for label, start in starts:
            if start is None or start.shape != x.shape:
                continue
            if (error := gap(x, start)) <= ev.tolerance:
                point = block.points[short]
                if point.side == "in" and _is_norm(point):
                    ev.deny(point.name, f"it is {label}, from before the norm", 0.0)
                else:
                    ev.hold(point.name, f"it is {label} itself", error)
                break
            tried = [
                (e, m) for m in modules if (y := _through(m, start)) is not None and (e := gap(y, x)) <= ev.tolerance
            ]
            if tried:
                ev.hold(block.points[short].name, f"it is the norm of {label}", tried[0][0])
                break


def experts(ev: Evidence, stack: Stack, block: Block) -> None:
    """Chosen experts are the best of router.logits, and weights times expert outputs is what the experts return."""
    logits, weights, chosen = (ev.of(block, f"router.{n}") for n in ("logits", "weights", "experts"))
    if chosen is None:
        return
    name = block.points["router.experts"].name
    if logits is not None:
        same = torch.equal(logits.topk(chosen.shape[-1], -1).indices.sort(-1).values, chosen.long().sort(-1).values)
        if same:
            ev.hold(name, "they are the highest of router.logits")
            ev.hold(block.points["router.logits"].name, "its highest are the chosen experts")
    if weights is None or not any(n.startswith("experts.") for n in block.points):
        return
    outs = [(int(n.split(".")[1]), n) for n in block.points if n.startswith("experts.")]
    whole = ev.values.get(f"@{_Where(block.points[outs[0][1]]).module_path}")
    if whole is None or not bool(torch.isfinite(weights).all()):
        return
    total, reached = torch.zeros_like(whole).reshape(*weights.shape[:2], -1).double(), []
    for e, n in outs:
        value = ev.of(block, n)
        share = (weights.double() * (chosen == e)).sum(-1, keepdim=True)
        if value is None:
            continue
        total = total + share * value.double()
        (
            reached.append(n)
            if bool((chosen == e).any())
            else ev.notes.setdefault(block.points[n].name, "no token of the probe was sent to it")
        )
    error, formula = gap(total, whole.reshape(total.shape)), "weights times expert outputs is what the experts return"
    if error <= ev.tolerance:
        for n in (*reached, "router.weights", "router.experts"):
            ev.hold(block.points[n].name, formula, error)
    else:
        ev.notes[block.points["router.weights"].name] = f"not true here: {formula} (off by {error:.1e})"


def root(ev: Evidence) -> None:
    """embed is the table's row of each token; the head turns final_norm into the logits the model returns."""
    points = ev.model.resolved.points
    ids = ev.inputs.get("input_ids") if isinstance(ev.inputs, dict) else None
    for name in (n for n in points if n.rsplit(".", 1)[-1] == "embed"):
        x, tokens = ev.values.get(name), ids
        if isinstance(ev.inputs, dict) and name.startswith("decoder.") and "decoder_input_ids" in ev.inputs:
            tokens = ev.inputs["decoder_input_ids"]
        if (
            isinstance(points[name].module, nn.Embedding)
            and points[name].side == "out"
            and isinstance(tokens, Tensor)
            and x is not None
        ):
            rows = _through(points[name].module, tokens)
            if rows is not None:
                ev.judge(name, "it is the embedding of the tokens", gap(x, rows))
    logits, out = ev.values.get("logits"), ev.output
    if logits is None:
        for name in (n for n in points if n in ("final_norm", "decoder.final_norm")):
            if out is not None and name in ev.values and gap(ev.values[name], out) <= ev.tolerance:
                ev.hold(name, "it is the model's output")
        return
    if out is not None and out.shape == logits.shape:
        ev.judge(
            "logits",
            "with the model's own rules it is the output",
            min(gap(logits, out), gap(ruled(ev.model, logits), out)),
        )
    head = points["logits"].module
    for name in ("final_norm", "decoder.final_norm", "text.final_norm"):
        x = ev.values.get(name)
        if x is not None and (y := _through(head, x)) is not None:
            error = min(gap(y, logits), gap(ruled(ev.model, y), logits))
            if error <= ev.tolerance:
                ev.hold(name, "the head turns it into the logits", error)
                ev.hold("logits", f"the head makes it of {name}", error)


def ruled(model: Any, logits: Tensor) -> Tensor:
    """The head's output after the family's rules."""
    config = model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for rule in model.family.logits_after:
        kind, _, name = rule.partition(":")
        number = getattr(text, name, None)
        number = getattr(config, name, None) if number is None else number
        if number is None:
            continue
        logits = {"softcap": lambda x, c: torch.tanh(x / c) * c, "times": torch.mul, "divide": torch.div}[kind](
            logits, number
        )
    return logits


def _same_stage(a: Block, b: Block) -> bool:
    return a.name.rsplit(".", 1)[0] == b.name.rsplit(".", 1)[0]


def _is_norm(point: Point) -> bool:
    return any(w in (point.path.rsplit(".", 1)[-1] + type(point.module).__name__).lower() for w in NORM)


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _projections_in(block: Block, x: Tensor) -> list[nn.Module]:
    width = x[0, 0].numel() if x.ndim > 2 else x.shape[-1]
    return [
        m
        for m in block.module.modules()
        if isinstance(w := getattr(m, "weight", None), Tensor) and w.ndim == 2 and width in tuple(w.shape)
    ]


def _through(module: nn.Module, x: Tensor) -> Tensor | None:
    """The module's answer to x, heads joined; None when it takes something else."""
    try:
        y = module(x.flatten(2) if x.ndim == 4 else x)
    except Exception:  # any module of the block may be tried, and may want other arguments
        return None
    return y if isinstance(y, Tensor) else y[0] if isinstance(y, tuple) and y and isinstance(y[0], Tensor) else None
