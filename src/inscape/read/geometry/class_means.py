"""Where the tokens of each class lie on average, as context grows: means over the last tokens, in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.errors import InputError, NotFiniteError, ShapeError


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """Mean state of every class in every window; NaN where a window holds none of it.

    ends: each window covers the `window` rows before this one (all rows before it when None). count: rows of a class.
    """

    mean: Float[Tensor, "end class d"]
    count: Int[Tensor, "end class"]
    ends: tuple[int, ...]
    window: int | None

    @property
    def mask(self) -> Bool[Tensor, "end class"]:
        """Which classes have a value."""
        return self.count > 0

    @property
    def coverage(self) -> Float[Tensor, " end"]:
        """Share of the classes that have a value."""
        return self.mask.double().mean(1)


class WindowedMeans:
    """`class_means` in pieces: `update` with the next rows, in their order, until they end; then `result()`.

    Memory: ends x classes x d in float64, whatever the number of rows.
    """

    def __init__(self, n_classes: int, ends: Sequence[int], window: int | None = None) -> None:
        if not ends or min(ends) < 1 or n_classes < 1 or (window is not None and window < 1):
            raise InputError(
                f"windows of {window} rows ending at {list(ends)[:6]} for {n_classes} classes: all count from 1, and "
                "there is at least one end."
            )
        self.ends, self.window, self.n_classes = tuple(int(e) for e in ends), window, n_classes
        self.seen = 0
        self._sum: Tensor | None = None
        self._count = torch.zeros(len(self.ends), n_classes, dtype=torch.long)

    def update(self, states: Float[Tensor, "n d"], labels: Int[Tensor, " _"]) -> "WindowedMeans":
        """Count the next rows; a label of -1 is in no class."""
        if states.ndim != 2 or labels.shape != states.shape[:1]:
            raise ShapeError(f"states {tuple(states.shape)} and labels {tuple(labels.shape)}: give [n, d] and [n].")
        if bool(((labels < -1) | (labels >= self.n_classes)).any()):
            raise InputError(f"labels go from {int(labels.min())} to {int(labels.max())}; classes are -1 (none) to "
                             f"{self.n_classes - 1}.")  # fmt: skip
        x, labels = states.detach().double(), labels.cpu()
        if not bool(torch.isfinite(x).all()):
            row = self.seen + int((~torch.isfinite(x)).any(1).nonzero()[0])
            raise NotFiniteError(f"row {row} of the states holds NaN or infinity.")
        if self._sum is None:
            self._sum = torch.zeros(len(self.ends), self.n_classes, x.shape[1], dtype=torch.float64, device=x.device)
        if x.shape[1] != self._sum.shape[2]:
            raise ShapeError(f"these states have {x.shape[1]} units, those before {self._sum.shape[2]}.")
        at = torch.arange(self.seen, self.seen + len(x))
        for i, end in enumerate(self.ends):
            inside = (at < end) & (labels >= 0)
            if self.window is not None:
                inside &= at >= end - self.window
            rows = inside.nonzero().flatten()
            if len(rows):
                self._sum[i].index_add_(0, labels[rows].to(x.device), x[rows.to(x.device)])
                self._count[i] += torch.bincount(labels[rows], minlength=self.n_classes)
        self.seen += len(x)
        return self

    def result(self) -> ClassMeans:
        """Means of what was seen. Raises: InputError when a window ends after the last row."""
        if self._sum is None or self.seen < max(self.ends):
            raise InputError(f"a window ends at row {max(self.ends)}, and {self.seen} rows were given.")
        count = self._count.to(self._sum.device)
        mean = self._sum / count[..., None].double()  # 0 / 0 is NaN: no value
        return ClassMeans(mean.cpu(), self._count.clone(), self.ends, self.window)


def class_means(
    states: Float[Tensor, "n d"],
    labels: Int[Tensor, " _"],
    window: int | None = 50,
    *,
    ends: Sequence[int] | None = None,
    n_classes: int | None = None,
) -> ClassMeans:
    """Mean state of every class over the last `window` rows before each end.

    `mean[e, c] = mean of states[i] with labels[i] = c and ends[e] - window <= i < ends[e]`. Labels may be anything:
    nodes of a graph, days, colours, parts of speech; -1 is in no class. Rows are in the order of the text, so that ends
    are lengths of context. Choose `WindowedMeans` where the states come in pieces, or do not fit at once.

    window: None for all rows before each end. ends: the last row alone when left out. n_classes: one more than the
    largest label when left out. Cost: ends x window x d; float64.
    Raises: InputError for labels out of range and windows beyond the last row; ShapeError; NotFiniteError with the row.
    Source: Park et al. 2024, arXiv:2501.00070 (windows of 50).
    """
    chosen = n_classes if n_classes is not None else max(1, int(labels.max()) + 1 if len(labels) else 1)
    return WindowedMeans(chosen, ends if ends is not None else (len(states),), window).update(states, labels).result()


def apart_without_predecessors(
    states: Float[Tensor, "n d"], labels: Int[Tensor, " _"], n_classes: int
) -> Float[Tensor, "class class"]:
    """Squared distances of class means where, for each pair, rows right after a row of the other class do not count.

    A state that attends to the token before it holds a part of it, which alone brings classes that follow each other
    together; here that part is gone, for each pair on its own. NaN where nothing is left. Memory: classes^2 x d.
    """
    x, before = states.detach().double(), torch.cat([torch.tensor([-1]), labels[:-1].cpu()])
    kept = labels.cpu() >= 0
    label, before = labels.cpu()[kept], before[kept]
    x = x[kept.to(x.device)].cpu()
    total = torch.zeros(n_classes, x.shape[1], dtype=torch.float64).index_add_(0, label, x)
    count = torch.bincount(label, minlength=n_classes)
    after = before >= 0
    pair = label[after] * n_classes + before[after]
    following = torch.zeros(n_classes**2, x.shape[1], dtype=torch.float64).index_add_(0, pair, x[after])
    n_following = torch.bincount(pair, minlength=n_classes**2).reshape(n_classes, n_classes)
    left = (count[:, None] - n_following).double()
    mean = (total[:, None] - following.reshape(n_classes, n_classes, -1)) / left[..., None]  # [i, j]: i, not after j
    return (mean - mean.transpose(0, 1)).square().sum(-1)
