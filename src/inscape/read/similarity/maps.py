"""What of every layer of one model follows linearly from every layer of another, on rows that were held out.

For each layer of A, in two reads: sums of products with all layers of B over the rows to learn from; the maps; their
errors on the other rows. Ridge penalties are chosen by generalised cross-validation, which needs the sums alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls.bootstrap import bootstrap_each
from inscape.core.nulls.values import groups
from inscape.core.progress import Progress, tell
from inscape.core.readout import Labels, Rows, check_control, units_of
from inscape.read.similarity.columns import columns_of, same_rows, together
from inscape.store.store import Store

PENALTIES = tuple(10.0**e for e in range(-6, 4))  # shares of the mean variance of x
KEPT = 1 << 25  # errors of single rows that are kept for intervals


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """Held-out errors of the linear maps from layer i of A to layer j of B.

    error: mean of `|y - prediction| / |y|` over held-out rows. r2: 1 - squared errors / squares about the mean of the
    rows learned from; 0 is what a constant gives. shuffled_error, shuffled_r2: of maps learned from shuffled pairs.
    low, high: the interval of error over held-out items (None where there were too many rows to keep). penalty: chosen,
    as a share of the mean variance of x (NaN for orthogonal maps).
    """

    error: Float[Tensor, "a b"]
    r2: Float[Tensor, "a b"]
    shuffled_error: Float[Tensor, "a b"] | None
    shuffled_r2: Float[Tensor, "a b"] | None
    low: Float[Tensor, "a b"] | None
    high: Float[Tensor, "a b"] | None
    penalty: Float[Tensor, "a b"]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    n_train: int
    n_test: int

    @property
    def best(self) -> Int[Tensor, " a"]:
        """The layer of B that each layer of A predicts with the least relative error."""
        return self.error.argmin(1)


def map_layers(
    rows_a: Any,
    rows_b: Any = None,
    *,
    how: str = "ridge",
    penalties: Sequence[float] = PENALTIES,
    held_out: float = 0.25,
    by: Labels | None = None,
    control: str | None = "shuffle",
    level: float = 0.95,
    budget_bytes: int = 2 << 30,
    device: Any = None,
    seed: int = 0,
    progress: Progress = None,
) -> LayerMaps:
    """A linear map with a bias from each layer of A to each layer of B, and its error on rows held out.

    Choose it to ask which layer of B holds what a layer of A holds (`best` against relative depth), or how much of one
    model another knows; `cka_matrix` for a symmetric number without fitting. how: "ridge"; "orthogonal" turns, moves
    and scales only (Procrustes on other rows; the narrower side is padded with zeros). A relative error falls where
    targets have a large common part (massive units, a large mean): read r2 beside it.

    rows_a, rows_b: a store, a trace, {name: rows}, a list, [layer, n, d], of the same items in one order; A with itself
    when left out. Two stores must agree in sample, position and token of every row. held_out: share of the items.
    by: the item of each row (prompts), where several rows belong to one: whole items are held out, and drawn for the
    interval. control: maps learned from rows paired at random inside each stretch that is read.
    The penalty is chosen on the rows learned from as if they were independent: too small where `by` has few items.
    Cost: two reads and 2 n d_a sum(d_b) multiplications a layer of A, twice with the control; "orthogonal" a d^3
    decomposition a pair. Memory: 12 d_a sum(d_b) bytes.
    Raises: ShapeError for other rows; InputError for too few to learn from, and for maps above the budget.
    Source: Csordas et al. 2025, arXiv:2505.13898, section on cross-depth maps; closed form here for AdamW there.
    """
    check_control(control, name="a map")
    if how not in ("ridge", "orthogonal") or not 0 < held_out < 1 or not penalties or min(penalties) <= 0:
        raise InputError(
            f"how={how!r}, held_out={held_out}, penalties={tuple(penalties)[:3]}: there are 'ridge' and 'orthogonal', "
            "a share between 0 and 1, and penalties above 0."
        )
    a, b = columns_of(rows_a), columns_of(rows_b if rows_b is not None else rows_a)
    n = same_rows(a, b)
    if isinstance(rows_a, Store) and isinstance(rows_b, Store):
        _same_tokens(rows_a, rows_b)
    item = groups(by if by is None or isinstance(by, Tensor | np.ndarray) else list(by), "by", n)
    draw = np.random.default_rng(seed)
    n_items = int(item.max()) + 1
    chosen = np.zeros(n_items, bool)
    chosen[draw.permutation(n_items)[: max(1, round(held_out * n_items))]] = True
    test = torch.from_numpy(chosen[item])
    n_test = int(test.sum())
    if n - n_test < 3 or n_test < 2 or (~chosen).sum() < 1:
        raise InputError(
            f"{n} rows of {n_items} items leave {n - n_test} to learn from and {n_test} to test: take more."
        )
    wide = sum(units_of(x, name) for name, x in b.items())
    need = 12 * max(units_of(x, name) for name, x in a.items()) * wide
    if need > budget_bytes:
        raise InputError(
            f"the maps of one layer to {len(b)} others take {need / 2**30:,.1f} GiB, above the budget.\n"
            "  give fewer layers of B at a time."
        )
    runs = (False, True) if control else (False,)
    found: dict[bool, list[tuple[Tensor, Tensor, Tensor]]] = {run: [] for run in runs}
    for number, (name, x) in enumerate(a.items()):
        for run in runs:
            learned = _learn(x, b, test, run, how, penalties, device, seed + number)
            found[run].append((*_errors(x, b, test, learned, device), learned[3]))
        tell(progress, f"maps from {name}", (number + 1) / len(a))
    relative = torch.stack([r for r, _, _ in found[False]])  # (a, b, n_test)
    low = high = None
    if relative.numel() <= KEPT and chosen.sum() > 1:
        ends = bootstrap_each(relative.permute(2, 0, 1), by=item[test.numpy()], n=1000, level=level, seed=seed)
        low, high = ends.low, ends.high
    shuffled = found.get(True)
    return LayerMaps(
        relative.mean(2), torch.stack([r for _, r, _ in found[False]]),
        torch.stack([r.mean(1) for r, _, _ in shuffled]) if shuffled else None,
        torch.stack([r for _, r, _ in shuffled]) if shuffled else None,
        low, high, torch.stack([p for _, _, p in found[False]]), tuple(a), tuple(b), n - n_test, n_test,
    )  # fmt: skip


def _learn(
    x: Rows,
    b: Mapping[str, Rows],
    test: Tensor,
    is_shuffled: bool,
    how: str,
    penalties: Sequence[float],
    device: Any,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(mean of x, mean of all layers of B side by side, the maps [d, sum d_b], penalties chosen)."""
    draw = torch.Generator().manual_seed(seed)
    widths = [units_of(y, name) for name, y in b.items()]
    count, first = 0, torch.empty(0)
    sums = scatter = squares = torch.empty(0)
    for rows, parts in together({"x": x, **{f"to {k}": y for k, y in b.items()}}, device=device):
        keep = ~test[rows].to(parts[0].device)
        z = torch.cat([p[keep].to(parts[0].device) for p in parts], 1)
        if not len(z):
            continue
        d = parts[0].shape[1]
        if is_shuffled:
            z[:, d:] = z[torch.randperm(len(z), generator=draw).to(z.device)][:, d:]
        if not count:
            first = z.double().mean(0).float()
            sums = torch.zeros(z.shape[1], dtype=torch.float64, device=z.device)
            scatter = torch.zeros(d, z.shape[1], dtype=torch.float64, device=z.device)
            squares = torch.zeros_like(sums)
        z -= first
        sums += z.sum(0, dtype=torch.float64)
        squares += z.square().sum(0, dtype=torch.float64)
        scatter += (z[:, :d].T @ z).double()
        count += len(z)
    shift = sums / count
    scatter.addr_(shift[: len(scatter)], shift, alpha=-count)
    squares -= count * shift.square()
    own, between = scatter[:, : len(scatter)], scatter[:, len(scatter) :]
    mean = first.double() + shift
    if how == "ridge":
        maps, penalty = _ridge(own, between, squares[len(scatter) :], widths, count, penalties)
    else:
        maps, penalty = _orthogonal(own, between, widths), torch.full((len(widths),), float("nan"), dtype=torch.float64)
    return mean[: len(scatter)], mean[len(scatter) :], maps, penalty


def _ridge(
    own: Tensor, between: Tensor, squares: Tensor, widths: Sequence[int], n: int, penalties: Sequence[float]
) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(own)
    real = values > 1e-10 * values[-1]
    real[: max(0, len(values) - (n - 1))] = False  # n centred rows span no more than n - 1 directions
    values, vectors = values[real], vectors[:, real]
    turned = vectors.T @ between
    explained = torch.stack([p.square().sum(1) for p in turned.split(list(widths), 1)], 1)  # (d, layers of B)
    total = torch.stack([s.sum() for s in squares.split(list(widths))])
    mean = own.diagonal().mean().clamp(min=1e-300)
    grid = torch.tensor(sorted(penalties), dtype=torch.float64, device=own.device) * mean
    shrunk = 1 / (values[:, None] + grid)  # (directions, penalties)
    # Both parts of the score as sums of what is left, not as differences: with fewer rows than units both go to 0 with
    # the penalty, and the rounding of a difference would choose it.
    away = (
        (total - (explained / values[:, None]).sum(0)).clamp(min=0) if len(values) < n - 1 else torch.zeros_like(total)
    )
    left = away[:, None] + (explained / values[:, None]).T @ (grid * shrunk).square()  # residual squares
    free = (n - 1 - len(values) + (grid * shrunk).sum(0)) / n  # rows that are left over, as a share
    best = (left / free.square()).argmin(1)
    scale = torch.cat([shrunk[:, k : k + 1].expand(-1, w) for k, w in zip(best.tolist(), widths, strict=True)], 1)
    return (vectors @ (turned * scale)).float(), (grid[best] / mean).cpu()


def _orthogonal(own: Tensor, between: Tensor, widths: Sequence[int]) -> Tensor:
    maps = []
    for part in between.split(list(widths), 1):
        u, s, v = torch.linalg.svd(part, full_matrices=False)
        # squares of x inside the turned subspace, so that the scale is the least-squares one there
        inside = (u.T @ own @ u).trace() if part.shape[0] > part.shape[1] else own.trace()
        maps.append(u @ v * (s.sum() / inside.clamp(min=1e-300)))
    return torch.cat(maps, 1).float()


def _errors(
    x: Rows, b: Mapping[str, Rows], test: Tensor, learned: tuple[Tensor, Tensor, Tensor, Tensor], device: Any
) -> tuple[Tensor, Tensor]:
    """(relative error of each held-out row [layers of B, n_test], R^2 of each layer)."""
    mean_x, mean_y, maps, _ = learned
    relative, missed, spread = [], 0.0, 0.0
    for rows, parts in together({"x": x, **{f"to {k}": y for k, y in b.items()}}, device=device):
        keep = test[rows].to(parts[0].device)
        widths = [p.shape[1] for p in parts[1:]]
        y = torch.cat([p[keep].to(parts[0].device) for p in parts[1:]], 1)
        away = y - mean_y.float()
        error = away - (parts[0][keep] - mean_x.float()) @ maps
        size = [torch.stack([p.square().sum(1).double() for p in v.split(widths, 1)]) for v in (error, y, away)]
        relative.append((size[0] / size[1].clamp(min=1e-12)).sqrt().cpu())
        missed, spread = missed + size[0].sum(1).cpu(), spread + size[2].sum(1).cpu()
    return torch.cat(relative, 1), 1 - missed / torch.as_tensor(spread).clamp(min=1e-300)


def _same_tokens(a: Store, b: Store) -> None:
    for name in ("sample", "pos", "token"):
        if name in a and name in b:
            for start in range(0, len(a), 1 << 20):
                mine, theirs = a[name][start : start + (1 << 20)], b[name][start : start + (1 << 20)]
                if not torch.equal(mine, theirs):
                    row = start + int((mine != theirs).nonzero()[0, 0])
                    raise ShapeError(
                        f"row {row:,} has {name} {int(mine[row - start])} in one store and "
                        f"{int(theirs[row - start])} in the other: maps take the same tokens in one order.\n"
                        "  record both from the same data, with one tokenizer."
                    )
