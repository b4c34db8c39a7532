"""What every readout promises, and the rows it may be given: a tensor, a column of a store, the real tokens of a trace.

A readout is a dataclass. Its fields are settings; `fit` learns attributes that end in `_` and keeps no row; `score`
says how well they hold on other rows. Rows come in chunks (`row_batches`), so that a column larger than memory is read
like a tensor. Labels are small and held whole.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from inscape.core.errors import InputError, NotFiniteError, NotFittedError, ShapeError

Labels = Tensor | np.ndarray | Sequence[Any]
Target = Literal["flags", "classes", "numbers", "rows", "contrast", "nothing", "own"]
BATCH_BYTES = 32 << 20  # of the rows held at once; three chunks are


@runtime_checkable
class Rows(Protocol):
    """Rows [n, ...] of activations whose slices give tensors: a tensor, a column of a store, a numpy array or map."""

    @property
    def shape(self) -> Any: ...
    @property
    def dtype(self) -> Any: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Any: ...


@runtime_checkable
class Readout(Protocol):
    """Something learned from activations: `fit(x, y)` returns itself, `score(x, y)` is a number on other rows.

    target: what `y` is, so that the tests of every readout can make some: "flags" (a yes or no a row), "classes",
        "numbers" (one a row), "rows" (other activations of the same rows), "contrast" (x holds yes-rows, y the no-rows
        of the same statements), "nothing" (fit(x) alone), "own" (anything else; only its own tests run it).
    seed: of everything that is drawn. control: None, or what is fitted in place of the question asked ("shuffle": the
    labels in another order), so that a score has its null beside it. All fields have defaults.
    Learned tensors are float64, or the class says otherwise: `precision: ClassVar[str] = "float32"` for trained nets.
    """

    target: ClassVar[Target]
    seed: int
    control: str | None

    def fit(self, x: Any, y: Any) -> Any: ...
    def score(self, x: Any, y: Any) -> Any: ...


def row_batches(
    x: Rows,
    *,
    batch_bytes: int | None = None,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    name: str = "x",
) -> Iterator[tuple[slice, Tensor]]:
    """Rows in order, `(which rows, values [m, d])`, in `dtype`, each checked to be finite; further axes are flattened.

    A column of a store is read by a second thread while the last chunk is in use.
    batch_bytes: of one chunk in `dtype`, 32 MB when left out; three are held at once. device: left out, where the rows
    are. name: what messages call the rows.
    Cost: every row once. Raises: ShapeError, InputError for integers, NotFiniteError with the row and the unit.
    """
    d = units_of(x, name)
    step = max(1, (batch_bytes or BATCH_BYTES) // max(1, d * torch.empty((), dtype=dtype).element_size()))
    pieces = (slice(start, min(start + step, len(x))) for start in range(0, len(x), step))
    for rows, part in _read(x, pieces):
        part = part.detach().reshape(len(part), d)
        if not bool(torch.isfinite(part.sum())) and not bool(torch.isfinite(part).all()):
            row, unit = (~torch.isfinite(part)).nonzero()[0].tolist()
            raise NotFiniteError(
                f"{name}: unit {unit} of row {rows.start + row:,} is {float(part[row, unit])}.\n"
                "  leave these rows out, or find out which layer made them."
            )
        yield rows, part.to(device=device if device is not None else part.device, dtype=dtype)


def _read(x: Rows, pieces: Iterator[slice]) -> Iterator[tuple[slice, Tensor]]:
    if isinstance(x, Tensor):
        yield from ((rows, x[rows]) for rows in pieces)
        return
    with ThreadPoolExecutor(1, "inscape rows reader") as reader:
        waiting: tuple[slice, Future[Any]] | None = None
        for rows in pieces:
            ahead = (rows, reader.submit(x.__getitem__, rows))
            if waiting is not None:
                yield waiting[0], _tensor(waiting[1].result())
            waiting = ahead
        if waiting is not None:
            yield waiting[0], _tensor(waiting[1].result())


def _tensor(part: Any) -> Tensor:
    return part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))  # a copy: maps may be read-only


def units_of(x: Rows, name: str = "x", *, d: int | None = None) -> int:
    """Numbers in a row, with axes behind the first flattened. d: how many there must be, from the fit.

    Raises: ShapeError for no rows or another width; InputError for what is not float.
    """
    if not isinstance(x, Rows):
        raise InputError(f"{name} is a {type(x).__name__}: give a tensor [n, d], or a column of a store.")
    if len(x.shape) < 2 or 0 in tuple(x.shape):
        raise ShapeError(f"{name} has the shape {tuple(x.shape)}: rows [n, d] are needed, one at least.")
    if not (x.dtype.is_floating_point if isinstance(x.dtype, torch.dtype) else np.dtype(x.dtype).kind == "f"):
        raise InputError(f"{name} holds {x.dtype}, which counts or numbers something; activations are floats.")
    width = int(np.prod(tuple(x.shape)[1:]))
    if d is not None and width != d:
        raise ShapeError(f"it was fitted on rows of {d:,} units; these have {width:,}.")
    return width


def picked(x: Rows, index: Int[Tensor, " m"] | np.ndarray) -> Rows:
    """Some of the rows, still unread: those of a fold, of one half. index: row numbers, rising."""
    where = torch.as_tensor(index)
    if not isinstance(x, Tensor):
        return _Picked(x, where)
    if len(where) and bool((where.diff() == 1).all()):
        return x[int(where[0]) : int(where[-1]) + 1]  # one stretch: no copy
    return x[where.to(x.device)]


class _Picked:
    """Some rows of a column; near ones are read in one stretch, and what lies between is thrown away."""

    def __init__(self, x: Rows, index: Tensor) -> None:
        self._x, self._index = x, index
        self.site, self.model = origin(x)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._index), *tuple(self._x.shape)[1:])

    @property
    def dtype(self) -> Any:
        return self._x.dtype

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: Any) -> Any:
        wanted = self._index[index]
        if wanted.ndim == 0:
            return self._x[int(wanted)]
        if not len(wanted):
            return self._x[0:0]
        low, high = int(wanted.min()), int(wanted.max()) + 1
        if high - low > 4 * len(wanted):
            return self._x[wanted.numpy()]
        stretch = self._x[low:high]
        return stretch[(wanted - low).numpy() if isinstance(stretch, np.ndarray) else wanted - low]


def real_rows(
    x: Shaped[Tensor, "batch pos *axes"], mask: Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"]
) -> tuple[Shaped[Tensor, "n *axes"], Int[Tensor, " n"]]:
    """The real tokens of a trace as rows, and the prompt that each is of: `real_rows(trace[site], trace.mask)`.

    Labels of prompts become labels of rows by `y[prompt]`; the second is also what to give as `groups` and `by`.
    """
    if x.ndim < 3 or tuple(mask.shape) != tuple(x.shape[:2]):
        raise ShapeError(
            f"a mask of {tuple(mask.shape)} does not fit values of {tuple(x.shape)}: [batch, pos, d] is needed."
        )
    real = mask.to(x.device).bool()
    return x[real], real.nonzero()[:, 0].cpu()


def origin(x: Any) -> tuple[str, str]:
    """(site, fingerprint of the model) that rows know of themselves, each "" where they do not: tensors do not."""
    site, model = getattr(x, "site", ""), getattr(x, "model", "")
    return (site if isinstance(site, str) else ""), (model if isinstance(model, str) else "")


def need_fitted(readout: Any, learned: str, call: str = "fit(x, y)") -> None:
    """Raise NotFittedError unless the readout has learned an attribute."""
    if not hasattr(readout, learned):
        raise NotFittedError(f"this {type(readout).__name__} has not been fitted: call {call} first.")


def check_control(control: str | None, known: Sequence[str] = ("shuffle",), name: str = "a probe") -> None:
    """Raise InputError for a control that this readout has not."""
    if control is not None and control not in known:
        names = ", ".join(repr(k) for k in known)
        raise InputError(f"control={control!r} is none of {name}; it can be {names} or None.")


def labels_of(y: Labels | Rows, n: int, name: str = "labels") -> np.ndarray:
    """One label a row, as an array; a column of labels of a store is read whole.

    Raises: ShapeError for another number of them, InputError for NaN.
    """
    whole = y if isinstance(y, Tensor | np.ndarray | Sequence) else y[:]
    held = _array(whole) if isinstance(whole, Tensor) else np.asarray(whole)
    if held.shape != (n,):
        raise ShapeError(f"{held.shape} {name} for {n:,} rows: one a row.")
    if held.dtype.kind == "f" and not bool(np.isfinite(held).all()):
        raise InputError(f"{name} hold NaN or infinity, at row {int(np.flatnonzero(~np.isfinite(held))[0]):,}.")
    return held


def _array(y: Tensor) -> np.ndarray:
    y = y.detach().cpu()
    return y.float().numpy() if y.dtype in (torch.bfloat16, torch.float16) else y.numpy()


def classes_of(y: Labels | Rows, n: int) -> tuple[np.ndarray, Int[Tensor, " n"]]:
    """The classes, sorted, and the number of each row's class among them.

    Raises: InputError when there is only one class; as `labels_of`.
    """
    classes, code = np.unique(labels_of(y, n), return_inverse=True)
    if len(classes) < 2:
        raise InputError(
            f"all labels are alike ({classes.tolist()[0]!r}): a probe of classes needs rows of both classes."
        )
    return classes, torch.from_numpy(code.reshape(-1))


def shuffled(y: Tensor, seed: int, *, within: Labels | None = None, by: Labels | None = None) -> Tensor:
    """Labels in another order: what a readout learns from them is what rows of this number and size give by chance.

    within: labels change places only inside a group (a subject, a class, a length). by: rows of one group (the tokens
    of a prompt) have one label and keep one: groups change labels. Without either, rows do.
    Raises: InputError when the rows of a `by` group have several labels, or no label can change its place.
    """
    draw = torch.Generator().manual_seed(seed)
    if within is not None and by is not None:
        raise InputError("labels are shuffled inside groups (within=) or with them (by=), not both.")
    if by is not None:
        _, first, group = np.unique(labels_of(by, len(y), "groups"), return_index=True, return_inverse=True)
        of_group = y[torch.from_numpy(first)]
        if not torch.equal(of_group[torch.from_numpy(group)], y):
            raise InputError(
                "rows of one group have several labels, so groups cannot change labels as wholes.\n"
                "  shuffle inside the groups (within=), or give groups whose rows are alike."
            )
        return of_group[torch.randperm(len(first), generator=draw)][torch.from_numpy(group)]
    group = np.zeros(len(y), int) if within is None else labels_of(within, len(y), "groups")
    members = [torch.from_numpy(np.flatnonzero(group == g)) for g in np.unique(group)]
    if max(map(len, members)) < 2:
        raise InputError("every group holds one row, so no label can change its place: take larger groups.")
    out = y.clone()
    for rows in members:
        out[rows] = y[rows[torch.randperm(len(rows), generator=draw)]]
    return out
