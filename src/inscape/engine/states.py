"""Proofs of recurrent states: what is read out of them is what the model goes on with, the last is what it caches."""

from inscape.core.errors import InscapeError
from inscape.engine.evidence import Evidence, gap
from inscape.engine.forward import can_cache, run
from inscape.engine.recurrences import RECURRENCES, Seen, shown_by
from inscape.engine.replay import CACHES
from inscape.models.family import Stack
from inscape.models.points import Block, Point


def raw(block: Block) -> list[str]:
    """What the mixer's modules show, by their own paths."""
    point = block.points.get("ssm.state")
    return list(_paths(point).values()) if point is not None else []


def _paths(point: Point) -> dict[str, str]:
    mixer, kind = point.after[0], RECURRENCES[point.inside]
    return {tap: f"@{mixer.path}.{tap}" for tap in shown_by(mixer.module, (*kind.shows, *kind.gates))}


def read_out(ev: Evidence, stack: Stack, block: Block) -> None:
    """The states, through the mixer's readout, skip and gate, are what the output projection receives."""
    states, y = ev.of(block, "ssm.state"), ev.of(block, "ssm.y")
    if states is None or y is None:
        return
    point = block.points["ssm.state"]
    shown = {tap: ev.values[path] for tap, path in _paths(point).items() if path in ev.values}
    predicted = RECURRENCES[point.inside].reads(Seen(point.after[0].module, shown), states)
    ev.judge(point.name, "read out, with skip and gate, it is ssm.y", gap(predicted, y))


def cached(ev: Evidence, blocks: tuple[Block, ...]) -> None:
    """The state after the last token is the one that the model's own cache keeps."""
    points = [b.points["ssm.state"] for b in blocks if ev.of(b, "ssm.state") is not None]
    if not points or not can_cache(ev.model.module):
        return
    try:
        out = run(ev.model, ev.inputs, output=True, use_cache=True).output
    except (InscapeError, RuntimeError, ValueError):
        return
    cache = next((c for name in CACHES if (c := getattr(out, name, None)) is not None), None)
    for point in points:
        mixer = point.after[0].module
        kept = RECURRENCES[point.inside].kept(mixer, cache) if cache is not None else None
        if kept is not None:
            ev.judge(point.name, "its last is what the model's cache keeps", gap(ev.values[point.name][:, -1], kept))
