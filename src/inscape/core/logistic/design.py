"""Rows of several sites as solvers read them: chunk by chunk, standardised, with a column of ones at the end.

All sites have the same rows and width, so a pass over a store reads every row once. Chunks of one precision are kept
when they fit in `memory`, because most passes are made on them; others are made from the rows as they are.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core import readout
from inscape.core.errors import ShapeError
from inscape.core.readout import Rows, row_batches, units_of

MEMORY = 1 << 30  # bytes of rows that are kept between passes
BLOCK = 4096  # rows of one product: the products' buffers stay small
CACHED = 1 << 19  # numbers of float64 that are gone over in a core's own cache


class Design:
    """Sites as standardised chunks [m, d + 1] whose last column is 1.

    groups: sets of rows (a fold's training rows). Learned by the first pass: mean [site, d], scale [site, d] of all
    rows that are in some group, spread [group, site, d] of each group by itself; 1 where a unit does not vary.
    """

    def __init__(
        self,
        sites: Mapping[str, Rows],
        groups: Bool[Tensor, "group n"],
        *,
        standardise: bool = True,
        memory: int = MEMORY,
        keep: torch.dtype = torch.float32,
    ) -> None:
        self.names = list(sites)
        self.sources = list(sites.values())
        self.n, self.d = len(self.sources[0]), units_of(self.sources[0], self.names[0] or "x")
        for name, x in sites.items():
            if len(x) != self.n or units_of(x, name or "x") != self.d:
                raise ShapeError(
                    f"{name} has {len(x):,} rows of {units_of(x):,} units; {self.n:,} of {self.d:,} are needed."
                )
        first = self.sources[0]
        self.device = first.device if isinstance(first, Tensor) else torch.device("cpu")
        self.used = groups.any(0)
        self.passes = 0
        self.keep, self._kept = keep, []
        self._measure(groups, standardise)
        if len(sites) * self.n * (self.d + 1) * torch.empty((), dtype=keep).element_size() <= memory:
            self._keep()

    def parts(self, sites: Sequence[int], dtype: torch.dtype) -> Iterator[tuple[int, slice, Float[Tensor, "m d1"]]]:
        """(site, which rows, standardised values), every row of these sites once."""
        if self._kept and dtype == self.keep:
            for s in sites:
                for start in range(0, self.n, BLOCK):
                    rows = slice(start, min(start + BLOCK, self.n))
                    yield s, rows, self._kept[s][rows]
            return
        self.passes += 1
        for rows, parts in self._raw(sites, dtype):
            for s, part in zip(sites, parts, strict=True):
                step = max(64, CACHED // (self.d + 1))
                for start in range(0, len(part), step):
                    inner = slice(rows.start + start, min(rows.start + start + step, rows.stop))
                    yield s, inner, self._standard(s, part[start : start + step], dtype)

    def release(self) -> None:
        """Let the kept rows go."""
        self._kept = []

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The same rows of the first two sites, in float64 on the CPU."""
        if self._kept:
            first, second = self._kept
            for start in range(0, self.n, BLOCK):
                yield first[start : start + BLOCK].cpu(), second[start : start + BLOCK].cpu()
            return
        for _, (first, second) in self._raw([0, 1], torch.float64):
            yield self._standard(0, first, torch.float64).cpu(), self._standard(1, second, torch.float64).cpu()

    def folded(self, site: int, weight: Float[Tensor, "k d1"]) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
        """Weights and biases for rows as they are, from those for standardised ones."""
        w = weight[:, :-1] / self.scale[site].cpu()
        return w, weight[:, -1] - w @ self.mean[site].cpu()

    def _raw(self, sites: Sequence[int], dtype: torch.dtype) -> Iterator[tuple[slice, list[Tensor]]]:
        bytes_ = max(1, readout.BATCH_BYTES // len(sites))
        each = [
            row_batches(self.sources[s], batch_bytes=bytes_, dtype=dtype, device=self.device, name=self.names[s] or "x")
            for s in sites
        ]
        for parts in zip(*each, strict=True):
            yield parts[0][0], [x for _, x in parts]

    def _standard(self, site: int, x: Tensor, dtype: torch.dtype) -> Tensor:
        out = torch.empty(len(x), self.d + 1, dtype=dtype, device=x.device)
        torch.sub(x, self.mean[site].to(dtype), out=out[:, :-1])
        out[:, :-1] /= self.scale[site].to(dtype)
        out[:, -1] = 1
        return out

    def _measure(self, groups: Tensor, standardise: bool) -> None:
        S, G, d = len(self.sources), len(groups), self.d
        weight = torch.cat([groups, self.used[None]]).double().to(self.device)
        shift = torch.zeros(S, d, dtype=torch.float64, device=self.device)
        one, two = (torch.zeros(S, G + 1, d, dtype=torch.float64, device=self.device) for _ in range(2))
        for rows, parts in self._raw(range(S), torch.float64):
            for s, x in enumerate(parts):
                if rows.start == 0:
                    shift[s] = x.mean(0)
                x = x - shift[s]
                one[s] += weight[:, rows] @ x
                two[s] += weight[:, rows] @ x.square_()
        n = weight.sum(1)[None, :, None]
        variance = (two / n - (one / n).square()).clamp(min=0)
        # what rounding leaves of a unit that does not vary is no spread
        variance[variance <= 1e-14 * (shift.square()[:, None] + (one / n).square())] = 0
        spread = variance.sqrt()
        spread[spread == 0] = 1
        if not standardise:
            spread = torch.ones_like(spread)
        self.mean = shift + one[:, -1] / n[:, -1]
        self.scale = spread[:, -1]
        self.spread = spread[:, :-1].transpose(0, 1)
        self.passes += 1

    def _keep(self) -> None:
        kept = [torch.empty(self.n, self.d + 1, dtype=self.keep, device=self.device) for _ in self.sources]
        wide = [(self.mean[s].to(self.keep), self.scale[s].to(self.keep)) for s in range(len(kept))]
        for rows, parts in self._raw(range(len(kept)), self.keep):
            for s, x in enumerate(parts):
                out = kept[s][rows]
                torch.sub(x, wide[s][0], out=out[:, :-1])
                out[:, :-1] /= wide[s][1]
                out[:, -1] = 1
        self.passes += 1
        self._kept = kept
