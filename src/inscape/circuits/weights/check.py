"""The proof that a head's weights are the model's own: applied to what attention reads, they give what it uses."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inscape.circuits.weights.layer import Layer, attending, layers
from inscape.circuits.weights.origins import Origin, linear_map
from inscape.core.errors import ModelError
from inscape.engine.probe import evaluating, lone_tokens, probe_inputs, record
from inscape.models.model import Model
from inscape.models.points import Block

COLUMNS = 5


@dataclass(frozen=True)
class Checked:
    """One map of one layer: the largest relative error over heads and samples, infinite where it was not traced.

    up_to_size: the map holds up to a factor a token, the size of a norm on the way, which was fitted.
    """

    layer: str
    what: str
    error: float
    up_to_size: bool
    why: str = ""


def check(model: Model, inputs: Any = None) -> list[Checked]:
    """Apply the weights to `attn.in` on other inputs than those they were traced on, and compare with what is recorded.

    "v": `attn.in W_V + b_V` against `attn.v` at every position. "q", "k": against queries and keys at the first
    position of every row, which a rotary embedding leaves as they are. "out": `sum_h z_h W_O,h + b_O`, times what
    follows, against `attn_out`. Norms on the way divide by a size of their own: it is fitted,
        one number a head and token.
    inputs: anything the model runs on; rows of random tokens, or the probe of `verify`, when left out.
    Cost: one forward, plus those of tracing.
    Raises: ModelError for a model without attention layers whose heads are offered.
    """
    blocks = attending(model)
    if not blocks:
        raise ModelError(f"{type(model.module).__name__} has no layer whose heads can be taken apart.")
    wired = layers(model, blocks)
    wanted = ("attn.in", "attn.q", "attn.k", "attn.v", "attn.z", "attn_out")
    names = [b.points[n].name for b in blocks for n in wanted if n in b.points]
    if inputs is None:
        inputs = lone_tokens(model, 4, COLUMNS)
    inputs = probe_inputs(model) if inputs is None else inputs
    with evaluating(model.module), torch.no_grad():
        values, _, _ = record(model, inputs, names)
    return [row for block, w in zip(blocks, wired, strict=True) for row in _rows(block, w, values)]


def _rows(block: Block, wired: Layer, values: dict[str, Tensor]) -> list[Checked]:
    at = {n: values[p.name] for n, p in block.points.items() if p.name in values}
    rows = []
    for what, origin in (("q", wired.q), ("k", wired.k), ("v", wired.v)):
        seen = at.get(f"attn.{what}")
        if origin is None or seen is None:
            rows.append(Checked(wired.name, what, torch.inf, False, wired.reasons.get(what, "")))
            continue
        first_only = what != "v" and wired.turns is not False
        x, y = at["attn.in"].double(), seen.double()
        x, y = (x[:, :1], y[:, :1]) if first_only else (x, y)
        rows.append(Checked(wired.name, what, _map_error(origin, x, y), bool(origin.norms)))
    weight, bias = linear_map(wired.out)
    y = at["attn.z"].flatten(2).double() @ weight.double() + bias.double()
    added = at.get("attn_out")
    if added is None or added.shape != y.shape:
        return rows
    if wired.post_norm is not None:
        y, added = wired.post_norm.without_size(y), added.double() - wired.post_norm.bias.double()
        error = _up_to_size(y.double(), added)
    else:
        gain = wired.gain.to(y) if isinstance(wired.gain, Tensor) else wired.gain
        error = _relative(y * gain, added.double())
    return [*rows, Checked(wired.name, "out", error, wired.post_norm is not None)]


def _map_error(origin: Origin, x: Tensor, y: Tensor) -> float:
    """Per part of the columns, since each norm on the way divides by a size of its own."""
    weight, bias = origin.weights(x.shape[-1])
    made, heads = x @ weight.double() + bias.double(), y.shape[2]
    if origin.limit is not None:
        made = made.clamp(-origin.limit, origin.limit)
    flat, worst = y.flatten(2), 0.0
    for part in origin.parts:
        if part.norm is None and part.before is None:
            worst = max(worst, _relative(made[..., part.columns], flat[..., part.columns]))
            continue
        offset = (
            part.norm.bias.flatten()[part.outputs % part.norm.gain.numel()].double() if part.norm is not None else 0.0
        )
        owner = part.columns * heads // origin.n
        for h in owner.unique():
            mine = owner == h
            shift = offset[mine] if isinstance(offset, Tensor) else 0.0
            columns = part.columns[mine]
            worst = max(worst, _up_to_size(made[..., columns] - shift, flat[..., columns] - shift))
    return worst


def _up_to_size(a: Tensor, b: Tensor) -> float:
    """After the best factor a token, which must be positive; where both are nothing, any factor is."""
    size = (a * b).sum(-1, keepdim=True) / a.square().sum(-1, keepdim=True).clamp(min=1e-30)
    nothing = (a == 0).all(-1, keepdim=True) & (b == 0).all(-1, keepdim=True)
    return torch.inf if bool(((size <= 0) & ~nothing).any()) else _relative(a * size, b)


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
