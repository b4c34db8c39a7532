"""Prove every offered name on this very model, and withdraw what cannot be what its name says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import InscapeError
from inscape.engine import causal, proofs, states
from inscape.engine.evidence import Evidence, gap, tolerance_for, twin_of
from inscape.engine.probe import evaluating, main_output, probe_inputs, record
from inscape.models.family import Stack
from inscape.models.model import Model
from inscape.models.points import Block

MANY_EXPERTS = 512  # beyond this, single experts are read on the representative layers alone


@dataclass(frozen=True)
class Row:
    """What was found out about one site; `error` is relative, NaN where nothing was compared."""

    site: str
    status: str
    proof: str
    error: float


@dataclass(frozen=True)
class Verification:
    """The outcome for every site of the table. Prints as a table of kinds of sites.

    status: "proven" (an equation holds), "withdrawn" (one fails, or it never fires), "unproven" (neither).
    bit_equal: the output with every site read equals the plain one, bit for bit. read_only: sites with right values
    where an edit does not go on as the name promises (a `resid_mid` that only the MLP's norm reads).
    """

    rows: tuple[Row, ...]
    bit_equal: bool
    read_only: tuple[str, ...] = ()

    def rows_of(self, status: str) -> tuple[Row, ...]:
        return tuple(r for r in self.rows if r.status == status)

    @property
    def offered(self) -> int:
        return len(self.rows)

    @property
    def proven(self) -> int:
        return len(self.rows_of("proven"))

    @property
    def withdrawn(self) -> int:
        return len(self.rows_of("withdrawn"))

    @property
    def unproven(self) -> int:
        return len(self.rows_of("unproven"))

    def __getitem__(self, site: str) -> Row:
        return next(r for r in self.rows if r.site == site)

    def __repr__(self) -> str:
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            kind = ".".join("*" if part.isdigit() else part for part in row.site.split("."))
            groups.setdefault((kind, row.status), []).append(row)
        width = max((len(kind) for kind, _ in groups), default=4)
        lines = [
            f"{kind:<{width}}  {len(rows):>4} {status:<9}  {max(rows, key=lambda r: len(r.proof)).proof}"
            for (kind, status), rows in groups.items()
        ]
        equal = "bit-equal" if self.bit_equal else "NOT bit-equal"
        head = f"{self.offered} sites: {self.proven} proven, {self.withdrawn} withdrawn, {self.unproven} unproven"
        more = [f"read, but do not edit: {', '.join(self.read_only)}"] if self.read_only else []
        return "\n".join([f"{head}; output with everything read: {equal}", *lines, *more])


def verify(model: Model, inputs: Any = None, tolerance: float | None = None, withdraw: bool = True) -> Verification:
    """Prove every offered name on this very model, numerically, and withdraw what fails.

    resid_pre + attn_out + mlp_out = resid_post; pattern rows sum to 1 and pattern @ v = z; z and mlp.act through their
    projections; recurrent states through their readout, and beside the model's own cache; weights times experts;
    head(final_norm) = logits; and edits that must act where the name says so, on the first, a middle and the last
    layer. inputs: anything `ins.run` takes, without padding; a small seeded probe when left out. tolerance: relative,
    from the dtype when left out. withdraw=False: only report.
    The model is evaluated in eval mode and left in the mode it was in. Every layer is proved from one forward pass.
    Cost: some 20 to 60 short forward passes. Raises InputError when there is no probe for this module.
    """
    model.check_ready()
    model.status.clear()
    model.plans.clear()
    inputs = probe_inputs(model) if inputs is None else inputs
    with evaluating(model.module), torch.no_grad():
        ev, equal = _gathered(model, inputs, tolerance or tolerance_for(model.dtype))
        for stack, blocks in model.resolved.stacks:
            _prove(ev, stack, blocks)
        proofs.root(ev)
        for stack, blocks in model.resolved.stacks:
            _disturb(ev, stack, blocks)
    rows = tuple(_row(ev, name) for name in model.resolved.points)
    if withdraw:
        model.status.update({r.site: (r.status, r.proof) for r in rows if r.status != "unproven"})
    model.plans.clear()
    return Verification(rows, equal, tuple(n for n in model.resolved.points if n in ev.read_only))


def _gathered(model: Model, inputs: Any, tolerance: float) -> tuple[Evidence, bool]:
    """One forward with everything read, beside a plain one."""
    plain = main_output(record(model, inputs, ())[2])
    points = model.resolved.points
    failed: dict[str, str] = {}
    raw = [n for stack, bs in model.resolved.stacks for b in bs for n in (*proofs.raw_sites(stack, b), *states.raw(b))]
    names = _affordable(model)
    try:
        values, fired, out = record(model, inputs, [*names, *dict.fromkeys(raw)])
    except (InscapeError, RuntimeError, ValueError, IndexError):
        names, failed = _readable(model, inputs, names)
        raw = [r for r in dict.fromkeys(raw) if _reads(model, inputs, [r]) is None]
        values, fired, out = record(model, inputs, [*names, *raw])
    after = main_output(out)
    equal = plain is None or (after is not None and torch.equal(plain, after))
    ev = Evidence(model, inputs, values, fired, after if after is not None else plain, tolerance)
    for name in points:
        if name in failed:
            ev.deny(name, f"it cannot be read: {failed[name]}")
        elif name in names and not fired.get(name):
            _silent(ev, name)
        elif fired.get(name, 0) > 1:
            ev.deny(name, f"it fires {fired[name]} times in one forward, so the name means no single activation")
        elif name in values and values[name].is_floating_point() and not _finite(values[name], name):
            ev.deny(name, "its value is not finite")
        elif name not in values:
            ev.notes[name] = "not read: one of very many experts"
    if not equal and not (plain is not None and after is not None and gap(after, plain) <= tolerance):
        for name in points:
            ev.deny(name, "reading all sites changes the model's output")
    return ev, equal


def _silent(ev: Evidence, name: str) -> None:
    is_vision = name.startswith("vision.") and not (isinstance(ev.inputs, dict) and "pixel_values" in ev.inputs)
    if is_vision:
        ev.notes[name] = "the probe holds no image: verify(inputs=...) with one"
    elif ".router." in name or ".experts." in name:
        ev.deny(name, "it never fires: the experts do not come by here")
    else:
        ev.deny(name, "it never fires in a forward pass")


def _finite(x: Tensor, name: str) -> bool:
    return not bool(x.isnan().any()) and (name.endswith(".scores") or bool(torch.isfinite(x).all()))


def _affordable(model: Model) -> list[str]:
    names = list(model.resolved.points)
    experts = [n for n in names if ".experts." in n and n.endswith(".out")]
    if len(experts) <= MANY_EXPERTS:
        return names
    chosen = {
        p.name for _, blocks in model.resolved.stacks for b in causal.representatives(blocks) for p in b.points.values()
    }
    return [n for n in names if n in chosen or n not in set(experts)]


def _reads(model: Model, inputs: Any, names: Sequence[str]) -> str | None:
    """None, or why these cannot be read."""
    try:
        record(model, inputs, names)
    except (InscapeError, RuntimeError, ValueError, IndexError) as error:
        return str(error).splitlines()[0]
    return None


def _readable(model: Model, inputs: Any, names: list[str]) -> tuple[list[str], dict[str, str]]:
    """The names that can be read, and why the others cannot: halves of a failing list until single ones are left."""
    reason = _reads(model, inputs, names)
    if reason is None:
        return names, {}
    if len(names) == 1:
        return [], {names[0]: reason}
    half = len(names) // 2
    left, right = _readable(model, inputs, names[:half]), _readable(model, inputs, names[half:])
    return left[0] + right[0], left[1] | right[1]


def _prove(ev: Evidence, stack: Stack, blocks: tuple[Block, ...]) -> None:
    for block in blocks:
        if (twin := twin_of(block)) is not None:
            for short, point in block.points.items():
                if short == twin or short.startswith(twin.removesuffix("out").replace("_", ".")):
                    ev.deny(point.name, f"this layer has no {twin.removesuffix('_out')}: the module is its other mixer")
        _tried(ev, block, proofs.sums, stack)
    proofs.chain(ev, blocks)
    for block in blocks:
        for inner in ("attn", "cross"):
            _tried(ev, block, proofs.attention, stack, inner)
        for proof in (proofs.projections, proofs.norms, proofs.heads, proofs.experts, states.read_out):
            _tried(ev, block, proof, stack)
    states.cached(ev, blocks)
    causal.by_hand(ev, blocks, "attn", "attn_out")
    causal.by_hand(ev, blocks, "cross", "cross_out")


def _tried(ev: Evidence, block: Block, proof: Callable[..., None], stack: Stack, *more: str) -> None:
    """A proof whose tensors do not fit together proves nothing; the sites say so."""
    try:
        proof(ev, stack, block, *more)
    except RuntimeError as error:
        for point in block.points.values():
            ev.notes.setdefault(point.name, f"{proof.__name__} could not be compared: {str(error).splitlines()[0]}")


def _disturb(ev: Evidence, stack: Stack, blocks: tuple[Block, ...]) -> None:
    chosen = (
        [b for b in causal.representatives(blocks) if any(p.name in ev.values for p in b.points.values())]
        if blocks
        else []
    )
    for block in chosen:
        _tried(ev, block, causal.parts, stack)
        _tried(ev, block, causal.inner, stack)
        causal.gates(ev, block)
        _tried(ev, block, causal.middles, stack)
    causal.carries(ev, stack, chosen)
    _generalise(ev, blocks, chosen)
    for block in blocks:
        _dependents(ev, block)


def _generalise(ev: Evidence, blocks: tuple[Block, ...], chosen: list[Block]) -> None:
    """What edits showed on a layer holds for the layers of the same kind, whose values were compared as well."""
    for block in blocks:
        if block in chosen:
            continue
        like = [b for b in chosen if type(b.module) is type(block.module) and list(b.points) == list(block.points)]
        for short, point in block.points.items():
            if not like or ev.status(point.name) == "withdrawn" or point.name not in ev.values:
                continue
            found = {ev.status(b.points[short].name): b for b in like}
            if "withdrawn" in found:
                example = found["withdrawn"]
                ev.deny(point.name, f"as in {example.name}: {ev.proof(example.points[short].name)[0]}")
            elif set(found) == {"proven"} and ev.status(point.name) == "unproven":
                ev.hold(point.name, f"as in {like[0].name}: {ev.proof(like[0].points[short].name)[0]}")
            if any(b.points[short].name in ev.read_only for b in like):
                ev.read_only.add(point.name)


def _dependents(ev: Evidence, block: Block) -> None:
    """What is made of a withdrawn site goes with it."""
    name = block.points["attn.head_out"].name if "attn.head_out" in block.points else None
    needed = [block.points[n].name for n in ("attn.z", "attn_out") if n in block.points]
    if name is not None and any(ev.status(n) == "withdrawn" for n in needed):
        ev.deny(name, "it is made of attn.z and attn_out, one of which is withdrawn")


def _row(ev: Evidence, name: str) -> Row:
    proof, error = ev.proof(name)
    if name in ev.read_only:
        proof += "; reading is right, but an edit here does not go on from here"
    return Row(name, ev.status(name), proof, error)
