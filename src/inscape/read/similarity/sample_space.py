"""Sums over pairs of items from the kernels themselves, n x n, a tile of all sites at a time: for few items.

1. Rows are centred twice and scaled, kept as float32.
2. For a tile of items (a, b >= a): the kernel of every site there, one product each; then all inner products of sites
   in one product of what lies flat. Tiles off the diagonal count twice.
3. Tiles are summed in float64. A kernel that is not linear is centred at the end, by its row sums, exactly; a constant
   near its mean is taken off before, so that no digits are lost.
Cost: n^2/2 (sum of d) multiplications; memory the rows in float32 and one tile of each site.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.progress import Progress, tell
from inscape.read.similarity.sums import Sums

TILE_BYTES = 8 << 20  # of the cache, where there is a large one; small tiles also waste less on the diagonal
RUN = 1 << 14  # products that are added up in float32: a million at once are wrong by 2e-6, so many by 1e-8
MEDIAN_ROWS = 1000  # items between which the median distance is taken


def linear_sums(x: Sequence[Tensor], *, cubes: bool = True, progress: Progress = None) -> Sums:
    """The sums of linear kernels. x: [n, d] each, centred (`centred`)."""
    n, k, device = len(x[0]), len(x), x[0].device
    inner = torch.zeros(k, k, dtype=torch.float64, device=device)
    for a, b, tile in _tiles(x, progress):
        for part in tile.reshape(k, -1).split(RUN, 1):
            inner += (part @ part.T).double() * (1 if a == b else 2)
    diagonal = torch.stack([v.square().sum(1, dtype=torch.float64) for v in x])
    third = torch.stack([_cube(v) for v in x]) if cubes else None
    return Sums(n, inner, diagonal @ diagonal.T, diagonal.sum(1), third)


def rbf_sums(x: Sequence[Tensor], fraction: float, *, cubes: bool = True, progress: Progress = None) -> Sums:
    """The sums of `exp(-|x_i - x_j|^2 / (2 s^2))`, s a fraction of the median distance."""
    n, k, device = len(x[0]), len(x), x[0].device
    widths = torch.tensor([float(median_distance(v)) * fraction for v in x], dtype=torch.float64, device=device)
    few = [v[torch.linspace(0, n - 1, min(n, MEDIAN_ROWS)).long().to(device)].double() for v in x]
    kernels = [rbf(v, v, float(w)) for v, w in zip(few, widths, strict=True)]
    level = torch.stack([g.mean() for g in kernels])
    inner = torch.zeros(k, k, dtype=torch.float64, device=device)
    rows = torch.zeros(k, n, dtype=torch.float64, device=device)
    step = _step(k, n, 8)
    for a in range(0, n, step):
        for b in range(a, n, step):
            part = [v[a : a + step].double() for v in x], [v[b : b + step].double() for v in x]
            tile = torch.stack([rbf(p, q, float(w)) - c for p, q, w, c in zip(*part, widths, level, strict=True)])
            flat = tile.reshape(k, -1)
            inner += (flat @ flat.T) * (1 if a == b else 2)
            rows[:, a : a + step] += tile.sum(2)
            if a != b:
                rows[:, b : b + step] += tile.sum(1)
        tell(progress, f"kernels of {min(a + step, n):,} of {n:,} rows", 1 - (1 - min(1.0, (a + step) / n)) ** 2)
    total = rows.sum(1)
    inner = inner - 2 / n * rows @ rows.T + total[:, None] * total / n**2
    diagonal = (1 - level)[:, None] - 2 / n * rows + (total / n**2)[:, None]
    third = None
    if cubes:  # the shape of the spectrum, from the few rows, brought to n of them
        third = torch.stack([_own_cube(g) for g in kernels]) * inner.diagonal().pow(1.5)
    return Sums(n, inner, diagonal @ diagonal.T, diagonal.sum(1), third)


def centred(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows without their mean, scaled to unit mean square, float32: squares then neither lose digits nor overflow."""
    y = x - x.mean(0)
    y -= y.mean(0)  # what rounding left of a large one
    size = float(y.norm()) / y.numel() ** 0.5
    if not 1e-18 < size < math.inf:  # squares beyond the range of float32
        size = float(y.double().square().mean().sqrt())
    return (y.div_(size) if size > 0 else y).float()


def median_distance(x: Tensor) -> Tensor:
    """The median distance between two different rows, of at most 1,000 spread evenly."""
    few = x[torch.linspace(0, len(x) - 1, min(len(x), MEDIAN_ROWS)).long().to(x.device)].double()
    apart = torch.cdist(few, few)
    i, j = torch.triu_indices(len(few), len(few), 1, device=x.device)
    return apart[i, j].median()


def _tiles(x: Sequence[Tensor], progress: Progress) -> Iterator[tuple[int, int, Tensor]]:
    n, k = len(x[0]), len(x)
    step = _step(k, n, 4)
    same = len({v.shape[1] for v in x}) == 1 and all(v.dtype == x[0].dtype for v in x)
    whole = torch.stack(list(x)) if same and k > 1 else None
    for a in range(0, n, step):
        for b in range(a, n, step):
            if whole is not None:
                yield a, b, whole[:, a : a + step] @ whole[:, b : b + step].mT
            else:
                yield a, b, torch.stack([v[a : a + step] @ v[b : b + step].T for v in x])
        tell(progress, f"kernels of {min(a + step, n):,} of {n:,} rows", 1 - (1 - min(1.0, (a + step) / n)) ** 2)


def _step(k: int, n: int, item: int) -> int:
    step = max(64, min(n, int((TILE_BYTES / (item * k)) ** 0.5)))
    return -(-n // -(-n // step))  # even tiles


def rbf(x: Float[Tensor, "a d"], y: Float[Tensor, "b d"], width: float) -> Float[Tensor, "a b"]:
    """`exp(-|x - y|^2 / (2 width^2))`."""
    apart = (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)
    return (apart / (-2 * max(width, 1e-150) ** 2)).exp()


def _cube(x: Tensor) -> Tensor:
    """trace of (x x^T)^3, from the smaller of both sides."""
    own = x.T @ x if x.shape[1] <= len(x) else x @ x.T
    return ((own @ own).double() * own).sum()


def _own_cube(kernel: Tensor) -> Tensor:
    """trace K^3 / (trace K^2)^1.5 of a kernel, centred here: a number of the shape of its spectrum alone."""
    g = kernel - kernel.mean(0)
    g = g - g.mean(1, keepdim=True)
    return ((g @ g) * g).sum() / g.square().sum().pow(1.5)
