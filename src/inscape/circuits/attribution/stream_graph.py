"""Who writes into the residual stream and who reads it: the nodes that edges run between.

The stream is a plain sum, so what a writer adds reaches every later reader directly, and through others besides. An
edge is the direct way: writer -> the stream as one reader receives it -> that reader.
"""

from dataclasses import dataclass, replace

from inscape.core.errors import ModelError
from inscape.models.model import Model
from inscape.models.points import Block

SPLITS = ("whole", "qkv", "heads")
PARTS = {"attn": "attn_out", "ssm": "ssm_out", "mlp": "mlp_out"}


@dataclass(frozen=True)
class Writer:
    """What adds to the stream: its name, where its output is seen, which head of it, and its place in the order."""

    name: str
    site: str
    head: int | None
    order: tuple[int, int]


@dataclass(frozen=True)
class Reader:
    """What reads the stream: where the stream is seen, the site that this reading goes through, which head of it.

    through: empty for the output, which reads the stream itself. head: -1 for one reader a head. before: writers of a
    lower order reach it.
    rest: what attention reads besides queries, keys and values (an output gate), found as the difference.
    """

    name: str
    stream: str
    through: str
    head: int | None
    before: tuple[int, int]
    rest: bool = False


def stream_graph(model: Model, split: str = "heads") -> tuple[tuple[Writer, ...], tuple[Reader, ...]]:
    """All writers and readers of the main stack, in forward order.

    split: attention reads as one ("whole"), as queries, keys and values ("qkv"), or these by head ("heads").
    Raises: ModelError where the stream is not a plain sum, or a reader's part of it is not seen.
    """
    kind = next((s for s, blocks in model.resolved.stacks if blocks == model.blocks), None)
    name = type(model.module).__name__
    if kind is None or kind.adds not in ("sequential", "parallel"):
        why = "it is normalised after every addition" if kind is not None and kind.adds == "post_norm" else "it is not"
        raise ModelError(f"edges need a residual stream that is a plain sum; in {name} {why}.")
    writers = [Writer("embed", f"{model.blocks[0].name}.resid_pre", None, (-1, 0))]
    readers: list[Reader] = []
    for layer, block in enumerate(model.blocks):
        if "cross_out" in block.points:
            raise ModelError(f"edges of {name}: what its cross-attention reads of the stream is not seen as a site.")
        parts = [p for p, out in PARTS.items() if out in block.points]
        for part in parts:
            late = part == "mlp" and kind.adds == "sequential" and len(parts) > 1
            if late and "resid_mid" not in block.points:
                raise ModelError(f"edges of {name}: {block.name} has no resid_mid, which its MLP reads.")
            stream = f"{block.name}.{'resid_mid' if late else 'resid_pre'}"
            order = (layer, 1 if late else 0)
            readers += _readers(block, part, stream, order, split)
            writers += _writers(block, part, order)
    last = model.blocks[-1]
    readers.append(Reader("output", f"{last.name}.resid_post", "", None, (len(model.blocks), 0)))
    return tuple(writers), tuple(readers)


def _writers(block: Block, part: str, order: tuple[int, int]) -> list[Writer]:
    point = block.points.get("attn.head_out") if part == "attn" else None
    if point is None or point.heads is None:
        return [Writer(f"{block.name}.{part}", f"{block.name}.{PARTS[part]}", None, order)]
    return [Writer(f"{block.name}.attn.{h}", point.name, h, order) for h in range(point.heads)]


def _readers(block: Block, part: str, stream: str, order: tuple[int, int], split: str) -> list[Reader]:
    whole = f"{part}.in"
    kinds = [k for k in ("q", "k", "v") if f"attn.{k}" in block.points] if part == "attn" and split != "whole" else []
    if len(kinds) < 3:
        if whole not in block.points:
            raise ModelError(f"edges: {block.name} does not show what its {part} reads.")
        return [Reader(f"{block.name}.{part}", stream, f"{block.name}.{whole}", None, order)]
    made = [Reader(f"{block.name}.attn.{k}", stream, f"{block.name}.attn.{k}", None, order) for k in kinds]
    if split == "heads":
        made = [replace(r, head=-1) for r in made]
    if whole in block.points:
        made.append(Reader(f"{block.name}.attn.rest", stream, f"{block.name}.{whole}", None, order, rest=True))
    return made
