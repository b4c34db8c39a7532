"""Where a layer's queries, keys and values come from: which columns of which projections, found and proven by numbers.

1. A probe of single tokens runs through the model (rotary embeddings turn nothing at the first position, and a lone
   token attends to itself alone); what attention reads, what its inner modules take and give, and q, k, v are recorded.
2. Every column of q, k and v is looked up among the columns that the inner modules gave: separate projections, fused
   ones of any layout (GPT-2's blocks, NeoX's and Falcon's interleaving, Phi-3's groups), norms of queries and keys.
3. What that module read is looked up in the same way, until `attn.in` is reached.
So no layout is assumed: a column that is found equals, token by token, what the attention of this model uses.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from inscape.core.errors import ShapeError
from inscape.engine.norms import Norm, norm_of
from inscape.engine.structure import is_linear, is_norm

EXACT = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}  # relative, a column


@dataclass(frozen=True, eq=False)
class Part:
    """Columns of a tensor that one module gave: `columns[i]` of the tensor is output `outputs[i]` of the module.

    before: where its inputs come from; None when it reads `attn.in` itself.
    """

    path: str
    module: nn.Module
    columns: Int[Tensor, " n"]
    outputs: Int[Tensor, " n"]
    norm: Norm | None
    before: "Origin | None"


@dataclass(frozen=True, eq=False)
class Origin:
    """Where all columns of one tensor come from.

    factor: what they are multiplied by after the last module. limit: beyond which they are then clipped, if they are.
    """

    n: int
    parts: tuple[Part, ...]
    factor: float = 1.0
    limit: float | None = None

    @property
    def norms(self) -> tuple[str, ...]:
        """Paths of the norms on the way: each divides by a size of its own, token by token."""
        found = []
        for part in self.parts:
            found += [part.path] if part.norm is not None else []
            found += part.before.norms if part.before is not None else ()
        return tuple(dict.fromkeys(found))

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the modules that give the columns, outermost only."""
        return tuple(part.path for part in self.parts)

    def weights(
        self, d_in: int, take: Int[Tensor, " m"] | None = None
    ) -> tuple[Float[Tensor, "d_in m"], Float[Tensor, " m"]]:
        """The map from `attn.in` to the columns (those of `take`), and what is added: read from the modules now.

        Norms on the way enter with gain and centring, without their sizes.
        """
        place = torch.full((self.n,), -1)
        wanted = torch.arange(self.n) if take is None else take
        place[wanted] = torch.arange(len(wanted))
        weight = bias = None
        for part in self.parts:
            mine = place[part.columns] >= 0
            if not bool(mine.any()):
                continue
            w, b = _weights_of(part, part.outputs[mine], d_in)
            if weight is None or bias is None:
                weight, bias = w.new_zeros(d_in, len(wanted)), b.new_zeros(len(wanted))
            there = place[part.columns[mine]]
            weight[:, there], bias[there] = w.to(weight), b.to(bias)
        if weight is None or bias is None:
            raise ShapeError(f"columns {wanted.tolist()} of a tensor that has {self.n}.")
        return weight * self.factor, bias * self.factor

    def values(self, given: Mapping[str, Tensor]) -> Float[Tensor, "*samples n"]:
        """The columns as their modules gave them in some run: outputs by path, each [..., outputs]."""
        first = given[self.parts[0].path]
        out = first.new_zeros(*first.shape[:-1], self.n)
        for part in self.parts:
            out[..., part.columns] = given[part.path][..., part.outputs]
        out = out * self.factor
        return out if self.limit is None else out.clamp(-self.limit, self.limit)

    def places(self) -> Int[Tensor, "n two"]:
        """(number of the part, output) of every column: equal where two columns are the very same."""
        out = torch.zeros(self.n, 2, dtype=torch.long)
        for i, part in enumerate(self.parts):
            out[part.columns, 0], out[part.columns, 1] = i, part.outputs
        return out


def _weights_of(part: Part, outputs: Tensor, d_in: int) -> tuple[Tensor, Tensor]:
    if part.norm is None:
        weight, bias = linear_map(part.module, outputs=outputs)
        if part.before is None:
            return weight, bias
        inner, offset = part.before.weights(d_in)
        return inner @ weight.to(inner), offset @ weight.to(offset) + bias.to(offset)
    if part.before is None:
        raise AssertionError("a norm is never fed by attn.in itself: `Record` asks where its input comes from")
    axes, size = part.norm.gain.shape, part.norm.gain.numel()
    groups = (outputs // size).unique()  # a norm of single heads: only the heads that are wanted
    whole = (groups[:, None] * size + torch.arange(size)).flatten()
    weight, bias = part.before.weights(d_in, whole)
    weight, bias = weight.unflatten(-1, (-1, *axes)), bias.unflatten(-1, (-1, *axes))
    weight, bias = part.norm.without_size(weight), part.norm.without_size(bias) + part.norm.bias
    at = torch.searchsorted(whole, outputs)
    return weight.reshape(d_in, -1)[:, at], bias.reshape(-1)[at]


def linear_map(
    module: nn.Module, *, inputs: slice | None = None, outputs: Int[Tensor, " m"] | None = None
) -> tuple[Float[Tensor, "n m"], Float[Tensor, " m"]]:
    """Weight and bias of a projection for row vectors: the wanted inputs and outputs only.

    Read from the parameter where the module is a plain `Linear` or `Conv1D`; asked of the module otherwise (adapters,
    quantised layers), by sending it the identity: as many rows through it as it has inputs.
    """
    weight = plain_weight(module)
    if weight is not None:
        w = weight.detach()
        b: Any = getattr(module, "bias", None)
        b = b.detach() if isinstance(b, Tensor) else w.new_zeros(w.shape[1])
    else:
        like = next(p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point())
        d_in = getattr(module, "in_features", None)
        d_in = int(d_in) if isinstance(d_in, int) else int(like.shape[-1])
        with torch.no_grad():
            b = module(torch.zeros(1, d_in, dtype=like.dtype, device=like.device))[0].float()
            w = module(torch.eye(d_in, dtype=like.dtype, device=like.device)).float() - b
    w = w if inputs is None else w[inputs]
    if outputs is not None:
        w, b = w[:, outputs.to(w.device)], b[outputs.to(b.device)]
    wide = torch.promote_types(w.dtype, torch.float32)
    return w.to(wide), b.to(wide)


def plain_weight(module: nn.Module) -> Float[Tensor, "d_in d_out"] | None:
    """The weight of a plain `Linear` or `Conv1D` for row vectors, a view of the parameter; None for anything else.

    A class derived from `Linear` counts when it does with its weight what `Linear` does.
    """
    weight, kind = getattr(module, "weight", None), type(module)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.ndim != 2:
        return None
    if kind.__name__ == "Conv1D":
        return weight
    if kind is nn.Linear or (isinstance(module, nn.Linear) and _is_plain(module)):
        return weight.T
    return None


def _is_plain(module: nn.Linear) -> bool:
    x = torch.randn(2, module.in_features, generator=torch.Generator().manual_seed(0)).to(module.weight)
    with torch.no_grad():
        made, own = nn.functional.linear(x, module.weight, module.bias), module(x)
    return own.shape == made.shape and _near(own.double(), made.double(), EXACT.get(made.dtype, 1e-5))


@dataclass(eq=False)
class Record:
    """What the inner modules of one attention block took and gave on the probe, one row a sample."""

    attn_in: Float[Tensor, "n d_in"]
    taken: Mapping[str, Tensor]
    given: Mapping[str, Tensor]
    modules: Mapping[str, nn.Module]
    tolerance: float
    norms: dict[str, Norm | None] = field(default_factory=dict)

    def flat(self, x: Tensor) -> Float[Tensor, "n columns"]:
        """One row a sample, in float64; values of single heads may lie [batch, head, pos, d] in the modules."""
        n = len(self.attn_in)
        if x.ndim == 4 and x.shape[0] * x.shape[1] != n and x.shape[0] * x.shape[2] == n:
            x = x.transpose(1, 2)
        return x.reshape(n, -1).double().cpu()

    def origin(self, target: Float[Tensor, "n columns"], depth: int = 0) -> Origin | None:
        """Where these columns come from; None where some column is nowhere to be found."""
        names = [name for name, x in self.given.items() if x.numel() % len(self.attn_in) == 0]
        if not names or depth > 4:
            return None
        flats = [self.flat(self.given[name]) for name in names]
        owner = torch.cat([torch.full((x.shape[1],), i) for i, x in enumerate(flats)])
        index = torch.cat([torch.arange(x.shape[1]) for x in flats])
        found = look_up(target, torch.cat(flats, 1), self.tolerance)
        if found is None:
            return None
        where, factor, limit = found
        parts = []
        for i in owner[where].unique().tolist():
            columns = (owner[where] == i).nonzero().flatten()
            part = self._part(names[i], columns, index[where[columns]], depth)
            if part is None:
                return None
            parts.append(part)
        return Origin(target.shape[1], tuple(parts), factor, limit)

    def _part(self, name: str, columns: Tensor, outputs: Tensor, depth: int) -> Part | None:
        module, taken = self.modules[name], self.flat(self.taken[name])
        if is_linear(module):
            if taken.shape == self.attn_in.shape and _near(taken, self.flat(self.attn_in), self.tolerance):
                return Part(name, module, columns, outputs, None, None)
            before = self.origin(taken, depth + 1)
            return Part(name, module, columns, outputs, None, before) if before is not None else None
        if name not in self.norms:
            shape, like = self.taken[name].shape, self.taken[name]
            self.norms[name] = norm_of(module, (shape[-1],), like) or norm_of(module, tuple(shape[-2:]), like)
        norm, before = self.norms[name], self.origin(taken, depth + 1)
        return Part(name, module, columns, outputs, norm, before) if norm is not None and before is not None else None


def look_up(
    target: Float[Tensor, "n columns"], source: Float[Tensor, "n candidates"], tolerance: float
) -> tuple[Int[Tensor, " columns"], float, float | None] | None:
    """The candidate that each column is: as it stands, clipped at one limit, or times one factor common to all.

    A dead column (a norm's gain of zero, a pruned unit) equals every other dead one, of queries and keys alike: it is
    taken to stand where its nearest living neighbour says.
    (candidates, factor, limit); None when some column is none of the candidates.
    """
    found = _nearest(target, source, tolerance)
    if found is not None:
        return found, 1.0, None
    limit = float(target.abs().max())
    if int((target.abs() == limit).sum()) > 1:
        found = _nearest(target, source.clamp(-limit, limit), tolerance)
        if found is not None:
            return found, 1.0, limit
    centred_target, centred = target - target.mean(0), source - source.mean(0)
    sizes = centred.norm(dim=0).clamp(min=1e-30)
    likeness = (centred_target.T @ centred) / centred_target.norm(dim=0).clamp(min=1e-30)[:, None] / sizes
    chosen = source[:, likeness.abs().argmax(1)]
    factor = float(((chosen * target).sum(0) / (chosen * chosen).sum(0).clamp(min=1e-30)).median())
    found = _nearest(target, source * factor, tolerance) if factor else None
    return (found, factor, None) if found is not None else None


def _nearest(target: Tensor, source: Tensor, tolerance: float) -> Tensor | None:
    apart = target.square().sum(0)[:, None] - 2 * target.T @ source + source.square().sum(0)
    best = apart.argmin(1)
    sizes = target.norm(dim=0)
    typical = sizes.mean().clamp(min=1e-30)
    dead = sizes <= 1e-3 * typical  # these have no size of their own to compare with
    allowed = tolerance * torch.where(dead, 1e-3 * typical, sizes)
    if not bool(((target - source[:, best]).norm(dim=0) <= allowed).all()):
        return None
    alive = (~dead).nonzero().flatten()
    for j in dead.nonzero().flatten().tolist() if len(alive) else ():
        beside = alive[(alive - j).abs().argmin()]
        same = ((source - target[:, j : j + 1]).norm(dim=0) <= allowed[j]).nonzero().flatten()
        best[j] = same[(same - (best[beside] + j - beside)).abs().argmin()]
    return best


def _near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return float((a - b).norm() / b.norm().clamp(min=1e-30)) <= tolerance


def inner_modules(attention: nn.Module, path: str) -> dict[str, nn.Module]:
    """Projections and norms inside an attention block, by their path from the root."""
    return {f"{path}.{name}": m for name, m in attention.named_modules() if name and (is_linear(m) or is_norm(name, m))}
