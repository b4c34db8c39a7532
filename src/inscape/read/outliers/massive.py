"""Massive activations: single numbers of the stream a thousand times larger than the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ModelError
from inscape.engine.forward import run
from inscape.models.model import Model


@dataclass(frozen=True)
class Massive:
    """One massive activation: where it is, its value, and how many times the median size of its site it has.

    row: which input. pos: real-token position. token: its id, None where inputs are no tokens.
    same_dim, same_token: size of the control values, see `massive`; NaN without a control.
    """

    site: str
    row: int
    pos: int
    token: int | None
    dim: int
    value: float
    ratio: float
    same_dim: float = float("nan")
    same_token: float = float("nan")


@dataclass(frozen=True, eq=False)
class MassiveReading:
    """What was found, largest first, with the sizes of every site beside it.

    top: the three largest |h| of each site. later: the largest |h| behind the first position. median: the median |h| of
    each site (over all tokens and dimensions, mean over inputs). first_only: the share of the found at the first token.
    """

    found: tuple[Massive, ...]
    sites: tuple[str, ...]
    top: Float[Tensor, "site 3"]
    later: Float[Tensor, " site"]
    median: Float[Tensor, " site"]
    above: float
    ratio: float
    n_values: int

    @property
    def first_only(self) -> float:
        return sum(m.pos == 0 for m in self.found) / len(self.found) if self.found else float("nan")


def massive(
    model: Model,
    inputs: Sequence[Any],
    sites: Any = None,
    *,
    above: float = 100.0,
    ratio: float = 1000.0,
    control: str | None = "random",
    seed: int = 0,
) -> MassiveReading:
    """The activations with |h| > above and |h| >= ratio * median |h| of the same site and input.

    inputs: one entry a run; memory stays that of the largest. sites: a pattern; all resid_post of the main stack
    without it. The bar is not lowered for models that do not reach it: `top` and `median` are there for these, and
    above=0 leaves the relative rule alone, which says so itself (small nets have ratios of tens, not thousands).
    What a find does is measured with `ins.replace(m.site, 0.0, at=m.pos, units=m.dim)`, or `ins.ablate(..., "mean")`.
    control: "random" gives every find two partners in its own layer: the same dimension at a random other token, and
    the same token at a random other dimension. An outlier that is one of token and dimension together has small ones.
    Cost: one forward an input, without the head. Padding is left out; the first token is not.
    Raises: ModelError without a residual stream.
    Source: Sun et al. 2024, arXiv:2402.17762; followed through training in arXiv:2508.03616.
    """
    if control not in (None, "random"):
        raise InputError(f"control={control!r} is none of massive; it can be 'random' or None.")
    if sites is None:
        sites = [f"{b.name}.resid_post" for b in model.blocks if f"{b.name}.resid_post" in model.sites]
    if not sites:
        raise ModelError(f"{type(model.module).__name__} has no residual stream that inscape knows.")
    names = model.sites(*([sites] if isinstance(sites, str) else sites)).names
    generator = torch.Generator().manual_seed(seed)
    found: list[Massive] = []
    top, later, medians = torch.zeros(len(names), 3), torch.zeros(len(names)), torch.zeros(len(names))
    n_values = row = 0
    for one in inputs:
        trace = run(model, one, read=names)
        rows = trace[names[0]].shape[0]
        for index, name in enumerate(names):
            value = trace[name].float().cpu()
            mask = trace.mask.cpu() if trace.mask is not None and trace.mask.shape == value.shape[:2] else None
            for b in range(rows):
                h = value[b][mask[b]] if mask is not None else value[b]
                tokens = None
                if trace.tokens is not None and mask is not None:
                    tokens = trace.tokens[b].cpu()[mask[b]]
                size = h.abs().reshape(-1)
                median = size.median().clamp(min=1e-9)
                largest = size.topk(min(3, len(size))).values
                top[index, : len(largest)] = torch.cat([top[index], largest]).topk(3).values[: len(largest)]
                if len(h) > 1:
                    later[index] = torch.maximum(later[index], h[1:].abs().max())
                medians[index] += median
                n_values += len(size)
                found += _found(name, row + b, h, tokens, float(median), above, ratio, control, generator)
        row += rows
    found.sort(key=lambda m: -abs(m.value))
    return MassiveReading(tuple(found), tuple(names), top, later, medians / max(row, 1), above, ratio, n_values)


def _found(
    name: str,
    row: int,
    h: Tensor,
    tokens: Tensor | None,
    median: float,
    above: float,
    ratio: float,
    control: str | None,
    generator: torch.Generator,
) -> list[Massive]:
    size = h.abs()
    where = ((size > above) & (size >= ratio * median)).nonzero().tolist()
    out = []
    for pos, dim in where:
        same_dim = same_token = float("nan")
        if control is not None and len(h) > 1:
            other = (pos + 1 + int(torch.randint(len(h) - 1, (), generator=generator))) % len(h)
            aside = (dim + 1 + int(torch.randint(h.shape[1] - 1, (), generator=generator))) % h.shape[1]
            same_dim, same_token = float(size[other, dim]), float(size[pos, aside])
        token = int(tokens[pos]) if tokens is not None else None
        value = float(h[pos, dim])
        out.append(Massive(name, row, pos, token, dim, value, abs(value) / median, same_dim, same_token))
    return out
