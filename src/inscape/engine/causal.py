"""Edits that must change exactly what their site is said to feed: they tell a name from a lookalike."""

from collections.abc import Callable

import torch
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.edits.values import edit as edit_value
from inscape.core.errors import InscapeError
from inscape.engine.evidence import Evidence, gap, parts_of
from inscape.engine.forward import run
from inscape.engine.probe import main_output, varied
from inscape.engine.proofs import predicted
from inscape.models.family import Stack
from inscape.models.points import Block

STREAM = ("resid_pre", "resid_post", "resid_mid", "out")


def representatives(blocks: tuple[Block, ...]) -> list[Block]:
    """First, middle and last block, and the first of every kind."""
    chosen = {0, len(blocks) // 2, len(blocks) - 1} if len(blocks) > 4 else {0, len(blocks) - 1}
    kinds: set[tuple] = set()
    for i, block in enumerate(blocks):
        kind = (type(block.module), *block.points)
        if kind not in kinds and len(kinds) < 6:
            chosen.add(i)
        kinds.add(kind)
    return [blocks[i] for i in sorted(chosen)]


def parts(ev: Evidence, stack: Stack, block: Block) -> None:
    """A change of one part, with the other parts held, moves the stream by exactly that change."""
    names = parts_of(ev, stack, block)
    pre, post = ev.of(block, "resid_pre"), ev.of(block, "resid_post")
    if stack.adds == "other" or pre is None or post is None:
        return
    for name in names:
        part, site = ev.values[block.points[name].name], block.points[name].name
        if part.shape != post.shape:
            continue
        delta = _noise(part)
        frozen = [_hold(ev, block, n) for n in names if n != name]
        after = _run(ev, [edit_value(site, lambda x, d=delta: x + d), *frozen], block.points["resid_post"].name, site)
        if after is None:
            continue
        held = [ev.values[block.points[n].name] for n in names]
        moved = [h + delta if n == name else h for n, h in zip(names, held, strict=True)]
        wanted = predicted(stack, block, pre, moved)[-1] - predicted(stack, block, pre, held)[-1]
        error = gap(after - post, wanted)
        if error <= 20 * ev.tolerance:  # differences of large streams carry their rounding
            ev.hold(site, "an edit moves the stream by exactly as much", error)
        else:
            ev.deny(
                site,
                f"an edit here does not move the stream by as much: not what is added to it (off by {error:.1e})",
                error,
            )


def inner(ev: Evidence, stack: Stack, block: Block) -> None:
    """What lies inside a part acts through that part alone."""
    names, post = parts_of(ev, stack, block), ev.of(block, "resid_post")
    if post is None:
        return
    for short, point in block.points.items():
        if point.kind == "state":
            ev.read_only.add(point.name)
            continue
        part = _part_of(short, names)
        if short in STREAM or short in names or part is None or ev.of(block, short) is None:
            continue
        seen: dict[str, Tensor] = {}
        frozen = [_hold(ev, block, n, seen) for n in names]
        after = _run(
            ev, [edit_value(point.name, _disturb(short)), *frozen], block.points["resid_post"].name, point.name
        )
        if after is None or part not in seen:
            continue
        base = ev.values[block.points[part].name]
        effect, leak = gap(seen[part], base), gap(after, post)
        if effect == 0 and ev.status(point.name) == "proven" and short.startswith("router"):
            ev.read_only.add(point.name)
        elif effect == 0 and not short.startswith("experts."):
            ev.deny(point.name, f"an edit here changes nothing in {part}", 0.0)
        elif effect == 0:
            ev.notes.setdefault(point.name, "no token of the probe was sent to it")
        elif leak > ev.tolerance:
            ev.deny(point.name, f"an edit here also acts beside {part}", leak)
        else:
            ev.hold(point.name, f"an edit here acts, and through {part} alone", leak)


def gates(ev: Evidence, block: Block) -> None:
    """mlp.pre: one unit of it moves the same unit of mlp.act, no other, and not in a straight line."""
    pre, act = ev.of(block, "mlp.pre"), ev.of(block, "mlp.act")
    if pre is None or act is None:
        return
    site, acts = block.points["mlp.pre"].name, block.points["mlp.act"].name
    if ev.status(acts) != "proven":
        ev.notes[site] = "mlp.act is not proven, so nothing to compare with"
        return
    if pre.shape != act.shape:
        ev.deny(site, f"it has shape {tuple(pre.shape)}, mlp.act {tuple(act.shape)}")
        return
    unit = int(act.float().abs().flatten(0, -2).amax(0).argmax())
    states = [_run(ev, [_set(site, unit, c)], acts, site) for c in (-2.0, 0.0, 1.0)]
    if any(s is None for s in states):
        return
    low, zero, one = (s.double() for s in states if s is not None)
    others = torch.ones(act.shape[-1], dtype=torch.bool, device=act.device)
    others[unit] = False
    spill = gap(low[..., others], act[..., others].double()) if act.shape[-1] > 1 else 0.0
    low, zero, one = low[..., unit], zero[..., unit], one[..., unit]
    span = max(float((low - zero).abs().max()), float((one - zero).abs().max()))
    if spill > ev.tolerance:
        ev.deny(site, "one unit of it changes other units of mlp.act", spill)
    elif span == 0:
        ev.deny(site, "mlp.act does not depend on it", 0.0)
    elif float(((one - zero) - (zero - low) / 2).abs().max()) <= 1e-3 * span:
        ev.deny(site, "mlp.act is a straight line in it: the activation function reads something else", 0.0)
    else:
        ev.hold(site, "one unit of it changes that unit of mlp.act alone, not in a straight line", spill)


def middles(ev: Evidence, stack: Stack, block: Block) -> None:
    """Does an edit of resid_mid stay in the stream, or does it reach the MLP alone?"""
    mid, post = ev.of(block, "resid_mid"), ev.of(block, "resid_post")
    if mid is None or post is None or ev.status(block.points["resid_mid"].name) != "proven":
        return
    site, delta = block.points["resid_mid"].name, _noise(mid)
    last = parts_of(ev, stack, block)[-1:]
    if not last:
        return
    seen: dict[str, Tensor] = {}
    after = _run(
        ev,
        [edit_value(site, lambda x: x + delta), _hold(ev, block, last[0], seen)],
        block.points["resid_post"].name,
        site,
    )
    if after is not None and gap(after, post) <= ev.tolerance:
        ev.read_only.add(site)


def carries(ev: Evidence, stack: Stack, blocks: list[Block]) -> None:
    """The value of another input, put in here, gives that input's output: everything passes through this place."""
    other = varied(ev.inputs, stack.prefix, ev.model.config)
    shorts = [n for n in ("resid_pre", "resid_post", "out") if blocks and n in blocks[0].points]
    sites = [b.points[n].name for b in blocks for n in shorts if n in b.points]
    sites += [n for n in (stack.prefix + "embed", stack.prefix + "final_norm") if n in ev.model.points]
    sites = [s for s in sites if ev.fired.get(s) == 1 and s in ev.values and ev.status(s) != "withdrawn"]
    if not sites:
        return
    try:
        theirs = run(ev.model, other, read=sites, output=True)
    except (InscapeError, RuntimeError, ValueError):
        return
    wanted = main_output(theirs.output)
    if wanted is None or ev.output is None or wanted.shape != ev.output.shape or gap(wanted, ev.output) <= ev.tolerance:
        return
    loose: list[str] = []
    for site in sites:
        value = theirs[site]
        if value.shape != ev.values[site].shape:
            continue
        got = _run(ev, [edit_value(site, lambda x, v=value: v.to(x, copy=True))], None, site)
        if got is None:
            continue
        if gap(got, ev.output) == 0 and ev.status(site) == "proven":
            ev.read_only.add(site)
        elif gap(got, ev.output) == 0:
            ev.deny(site, "an edit here does not change the model's output", 0.0)
        elif (error := gap(got, wanted)) <= 5 * ev.tolerance:
            ev.hold(site, "put in from another input, it gives that input's output", error)
        elif ev.status(site) == "unproven":
            ev.notes[site] = "the output does not depend on it alone"
            loose.append(site)
    holds = any(c.holds and "another input" in c.sentence for s in sites for c in ev.claims.get(s, []))
    for site in loose:
        if holds and ".resid_" in site:  # other places of this stream do carry everything
            ev.deny(site, "the output does not depend on it alone, as it does on the stream elsewhere")


def by_hand(ev: Evidence, blocks: tuple[Block, ...], inner: str, part: str) -> None:
    """Where z is not simply pattern @ v (gates): attention by hand must leave the parts as they are."""
    open_ = [
        b
        for b in blocks
        if ev.of(b, f"{inner}.pattern") is not None and ev.of(b, part) is not None and not _said(ev, b, inner)
    ]
    open_ = [b for b in open_ if b.points[f"{inner}.pattern"].kind == "attention"]
    if not open_:
        return
    edits = [edit_value(b.points[f"{inner}.pattern"].name, torch.clone) for b in open_]
    try:
        trace = run(ev.model, ev.inputs, read=[b.points[part].name for b in open_], edits=edits, output=False)
    except (InscapeError, RuntimeError):
        return
    for b in open_:
        error = gap(trace[b.points[part].name], ev.values[b.points[part].name])
        for n in ("q", "k", "v", "scores", "pattern"):
            if f"{inner}.{n}" in b.points:
                ev.judge(b.points[f"{inner}.{n}"].name, f"attention by hand from these gives the same {part}", error)


def _said(ev: Evidence, block: Block, inner: str) -> bool:
    claims = ev.claims.get(block.points[f"{inner}.pattern"].name, [])
    return any("own kernel" in c.sentence or not c.holds for c in claims)


def _part_of(short: str, names: list[str]) -> str | None:
    head = short.split(".")[0]
    part = {"attn": "attn_out", "cross": "cross_out", "ssm": "ssm_out"}.get(head, "mlp_out")
    return part if part in names else None


def _run(ev: Evidence, edits: list[Edit], site: str | None, about: str) -> Tensor | None:
    """One run with edits: the value at `site`, or the output; None with a note when it cannot be made."""
    try:
        if site is None:
            return main_output(run(ev.model, ev.inputs, edits=edits, output=True, allow_nan=True).output)
        return run(ev.model, ev.inputs, read=[site], edits=edits, output=False, allow_nan=True)[site]
    except (InscapeError, RuntimeError, ValueError, IndexError) as error:
        ev.notes[about] = f"an edit here failed: {str(error).splitlines()[0]}"
        return None


def _hold(ev: Evidence, block: Block, short: str, seen: dict[str, Tensor] | None = None) -> Edit:
    """Keep a part at its recorded value, remembering what it would have been."""
    base = ev.values[block.points[short].name]

    def fn(x: Tensor) -> Tensor:
        if seen is not None:
            seen[short] = x.clone()
        return base.to(x, copy=True)  # some models (Falcon) write into what they are given

    return edit_value(block.points[short].name, fn)


def _set(site: str, unit: int, to: float) -> Edit:
    def fn(x: Tensor) -> Tensor:
        x = x.clone()
        x[..., unit] = to
        return x

    return edit_value(site, fn)


def _disturb(short: str) -> Callable[[Tensor], Tensor]:
    """A change of about the size of the value itself; masked scores stay masked, indices stay indices."""

    def fn(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return (x + 1) % (int(x.max()) + 1)
        if short.endswith((".scores", ".pattern")):
            return x * torch.linspace(0.3, 0.9, x.shape[-1], device=x.device, dtype=x.dtype)
        return x + _noise(x)

    return fn


def _noise(x: Tensor) -> Tensor:
    size = x.double().pow(2).mean().sqrt().clamp(min=1e-3)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (noise.to(x.device) * size).to(x.dtype)
