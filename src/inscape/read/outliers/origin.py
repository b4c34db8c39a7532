"""Which module writes a massive activation and which takes it away again; and how alike all tokens are to an anchor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ModelError
from inscape.engine.forward import run
from inscape.engine.inputs import prepare
from inscape.models.model import Model
from inscape.train.decorrelation import anchor_columns

PARTS = ("attn_out", "mlp_out", "ssm_out", "cross_out")


@dataclass(frozen=True, eq=False)
class Origin:
    """How one entry of the stream comes about, module by module.

    pos, dim: the entry that is largest in the stream between the layers (the last layer's output counts too).
    parts: what was added to it, in forward order; added: how much each did; stream: its value after each layer.
    written_by, erased_by: the modules that add most in its own direction and against it. elsewhere: what `written_by`
    adds to the same dim at other positions, the largest size: the control.
    """

    pos: int
    dim: int
    parts: tuple[str, ...]
    added: Float[Tensor, " part"]
    stream: Float[Tensor, " layer"]
    written_by: str
    erased_by: str
    elsewhere: float

    @property
    def share(self) -> float:
        """What `written_by` adds, over the entry's largest value; 1 where one module writes it at once."""
        return float(self.added[self.parts.index(self.written_by)] / self.stream[self.stream.abs().argmax()])


def sink_origin(model: Model, inputs: Any, *, pos: int | None = None, dim: int | None = None) -> Origin:
    """Follow the largest entry of the stream of one text through the modules that write to it.

    The stream is a sum: the entry is what came in plus what every attention and MLP added. Exact, nothing is patched.
    pos, dim: another entry; -1 is the last real token. Cost: one forward without the head.
    Raises: ModelError where what the parts add cannot be read; InputError for several rows.
    """
    layers = [b.name for b in model.blocks if f"{b.name}.resid_post" in model.sites]
    parts = [f"{layer}.{p}" for layer in layers for p in PARTS if f"{layer}.{p}" in model.sites]
    if not layers or not parts:
        raise ModelError(f"{type(model.module).__name__} has no stream whose parts can be read.")
    ready = prepare(model, inputs)
    trace = run(model, ready, read=[*(f"{n}.resid_post" for n in layers), *parts])
    stream = torch.stack([trace[f"{n}.resid_post"].float().cpu() for n in layers])
    if stream.shape[1] != 1:
        raise InputError(f"sink_origin follows one text; these inputs have {stream.shape[1]} rows.")
    real = ready.mask[0].bool().cpu() if ready.mask is not None else torch.ones(stream.shape[2], dtype=torch.bool)
    stream = stream[:, 0, real]
    size = stream.abs()
    where = (size.amax((0, 2)) if dim is None else size[:, :, dim].amax(0)).argmax() if pos is None else pos
    at = int(where) % stream.shape[1]
    unit = int(size[:, at].amax(0).argmax()) if dim is None else dim
    added = torch.stack([trace[p].float().cpu()[0, real] for p in parts])
    mine = added[:, at, unit]
    course = stream[:, at, unit]
    sign = course[course.abs().argmax()].sign()
    writer, eraser = int((sign * mine).argmax()), int((sign * mine).argmin())
    others = torch.cat([added[writer, :at, unit], added[writer, at + 1 :, unit]])
    elsewhere = float(others.abs().max()) if len(others) else float("nan")
    return Origin(at, unit, tuple(parts), mine, course, parts[writer], parts[eraser], elsewhere)


def anchor_cosines(
    model: Model, inputs: Sequence[Any] | Any, anchor: int | Tensor = 0, sites: Any = None
) -> tuple[tuple[str, ...], Float[Tensor, "site batch pos"]]:
    """cos(h_anchor, h_j) of every token at every layer; NaN at padding. Sinks are near 1 after the jump.

    anchor: a position among real tokens (0: the first), or a vector. Cost: one forward without the head.
    Raises: ModelError without a stream; TokenError for a row without the anchor.
    """
    if sites is None:
        sites = [f"{b.name}.resid_post" for b in model.blocks if f"{b.name}.resid_post" in model.sites]
    if not sites:
        raise ModelError(f"{type(model.module).__name__} has no residual stream that inscape knows.")
    names = model.sites(*([sites] if isinstance(sites, str) else sites)).names
    ready = prepare(model, inputs)

    def cosines(x: Tensor) -> Tensor:
        x = x.float()
        real = ready.mask.bool().cpu() if ready.mask is not None else torch.ones(x.shape[:2], dtype=torch.bool)
        if isinstance(anchor, Tensor):
            toward = anchor.to(x).expand(len(x), -1)
        else:
            toward = x[torch.arange(len(x), device=x.device), anchor_columns(real, anchor).to(x.device)]
        found = torch.nn.functional.cosine_similarity(x, toward[:, None], dim=-1)
        return found.masked_fill(~real.to(x.device), torch.nan)

    trace = run(model, ready, read={n: (n, cosines) for n in names})
    return tuple(names), torch.stack([trace[n].cpu() for n in names])
