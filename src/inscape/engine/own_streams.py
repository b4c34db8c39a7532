"""A block whose parts each read a stream of their own, while all of them go on adding to the one stream.

1. Heads that read another stream: the block is called on all of those streams at once, as rows of a batch, and stopped
   as soon as its queries, keys and values are made.
2. The block is called on the stream itself, with these heads' queries, keys and values put in. What an MLP (or an
   attention that is not told apart) makes of its own stream comes from further rows of the same call, and is put where
   the stream's own rows add it.
Norms, projections, rotary and gates are the block's own, so this holds for any family whose blocks can be called.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.step import Step
from inscape.engine.blocks import Blocks, catch
from inscape.engine.growing import Rows
from inscape.engine.inputs import Inputs
from inscape.engine.session import Session, Stop, Task
from inscape.models.model import Model

QKV = ("q", "k", "v")
OUT = {"attn": ("attn.head_out", "attn_out"), "ssm": ("ssm_out",), "mlp": ("mlp_out",)}
Stream = Float[Tensor, "rows pos d_model"]


@dataclass(frozen=True)
class Place:
    """A part of a block that reads the stream: "attn", "ssm" or "mlp"; of attention one of q, k and v, and a head.

    late: does it read what the attention of its block has already added to? head: None for all of them.
    """

    part: str
    kind: str = ""
    head: int | None = None
    late: bool = False


Asked = Callable[[Place, Stream], Stream | None]  # what this place reads, given the stream; None: the stream itself
Wrote = Callable[[str, Tensor], None]  # the site, and what was added there, [rows, pos, (head,) d_model]


@dataclass(eq=False)
class OwnStreams:
    """The blocks of one model on given rows, to be called one by one. Raises: CannotReenter, see `blocks.catch`."""

    model: Model
    inputs: Inputs
    blocks: Blocks = field(init=False)

    def __post_init__(self) -> None:
        self.blocks = catch(self.model, self.inputs, lambda _: True)

    def block(
        self, layer: int, x: Stream, rows: Sequence[int], places: Sequence[Place], asked: Asked, wrote: Wrote
    ) -> Stream:
        """One block on the stream x of these rows, which are rows of the inputs and may come several times.

        places: the only ones that are asked for a stream of their own, late ones once attention has written.
        """
        early = [(p, s) for p in places if not p.late if (s := asked(p, x)) is not None]
        made = self._made(layer, [(p, s) for p, s in early if p.kind], rows)
        whole = [(p, s) for p, s in early if not p.kind] + [(p, None) for p in places if p.late]
        n = len(x)
        back = {p.part: slice(n * (1 + i), n * (2 + i)) for i, (p, _) in enumerate(whole)}
        big = torch.cat([x, *(x if s is None else s for _, s in whole)]) if whole else x
        edits: dict[str, Callable[[Tensor], Tensor]] = {f"attn.{k}": partial(_put, v, n) for k, v in made.items()}
        for place, stream in whole:
            if stream is None:
                edits["resid_mid"] = partial(_ask, place, asked, n, back[place.part])
        points = self.model.blocks[layer].points
        for part, names in OUT.items():
            found = next((name for name in names if name in points), None)
            if found is not None:
                edits[found] = partial(_add, points[found].name, n, back.get(part), wrote)
        out, _ = self._called(layer, big, [*rows] * (1 + len(whole)), edits, ())
        return out[:n]

    def _made(
        self, layer: int, own: Sequence[tuple[Place, Tensor]], rows: Sequence[int]
    ) -> dict[str, list[tuple[int | None, Tensor]]]:
        """The queries, keys and values of these places: kind -> [(head, value of all heads)]."""
        if not own:
            return {}
        kinds = [k for k in QKV if any(p.kind == k for p, _ in own)]
        big = torch.cat([s for _, s in own])
        _, seen = self._called(layer, big, [*rows] * len(own), {}, [f"attn.{k}" for k in kinds])
        out: dict[str, list[tuple[int | None, Tensor]]] = {k: [] for k in kinds}
        n = len(rows)
        for i, (place, _) in enumerate(own):
            value = seen[self.model.blocks[layer].points[f"attn.{place.kind}"].name]
            out[place.kind].append((place.head, value[i * n : (i + 1) * n]))
        return out

    def _called(
        self, layer: int, x: Tensor, rows: Sequence[int], edits: dict[str, Callable[[Tensor], Tensor]],
        read: Sequence[str],
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        """The block on x; with `read` only up to these sites."""
        points = self.model.blocks[layer].points
        order = {name: i for i, name in enumerate(points)}
        tasks = [Task(points[s], [Edit(points[s].name, fn, "own stream")], s in read) for s, fn in edits.items()]
        tasks += [Task(points[s], read=True) for s in read if s not in edits]
        tasks.sort(key=lambda t: order[t.point.name.removeprefix(f"{self.model.blocks[layer].name}.")])
        mask = self.inputs.mask
        step = Step.of_mask(mask[list(rows)]) if mask is not None else Step.plain(len(x), x.shape[1])
        session = Session(self.model.module, tasks, lambda s, prefix, y: step, allow_nan=True, may_stop=bool(read))
        args, kwargs = Rows(self.blocks, rows).of(layer, len(x))
        out = x
        with session, contextlib.suppress(Stop):
            out = self.blocks.run(layer, x, args, kwargs)
        return out, session.values


def _put(own: Sequence[tuple[int | None, Tensor]], n: int, x: Tensor) -> Tensor:
    """Put heads' own values into the first n rows."""
    heads = list(x[:n].unbind(2))
    for head, value in own:
        for h in range(len(heads)) if head is None else (head,):
            heads[h] = value[:, :, h]
    return torch.cat([torch.stack(heads, 2), x[n:]])


def _ask(place: Place, asked: Asked, n: int, rows: slice, x: Tensor) -> Tensor:
    """Let further rows go on with the stream that a late place reads."""
    own = asked(place, x[:n])
    return x if own is None else torch.cat([x[: rows.start], own, x[rows.stop :]])


def _add(site: str, n: int, rows: slice | None, wrote: Wrote, x: Tensor) -> Tensor:
    """Note what is added to the stream; with `rows` take it from those."""
    value = x[:n] if rows is None else x[rows]
    wrote(site, value)
    return x if rows is None else torch.cat([value, x[n:]])
