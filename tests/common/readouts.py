"""What the tests of every readout run on: rows in which there is something to find, for each kind of target.

A readout that cannot be made without arguments is given some in `SETTINGS`; all others are found and made by the tests.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inscape.read.readouts import readouts
from inscape.store.schema import Column
from inscape.store.store import Store
from tests.store.made import store_with

N, D = 241, 7  # no size of anything learned is 241
SETTINGS: dict[str, dict[str, Any]] = {}
CHANCE = {"flags": 0.5, "classes": 1 / 3, "contrast": 0.5}  # of a score on held-out rows with nothing learned; else 0


@dataclass(frozen=True)
class Planted:
    """Rows and their target, to fit on and held out."""

    x: torch.Tensor
    y: Any
    held_x: torch.Tensor
    held_y: Any


def own_tests_only() -> list[type]:
    return [c for c in readouts() if getattr(c, "target", None) == "own"]


def checked_here() -> list[type]:
    return [c for c in readouts() if getattr(c, "target", None) != "own"]


def made(cls: type, **settings: Any) -> Any:
    return cls(**{**SETTINGS.get(cls.__name__, {}), **settings})


def planted(target: str, *, n: int = N, d: int = D, seed: int = 0) -> Planted:
    """Something strong enough to be found from 241 rows of 7 units."""
    g = torch.Generator().manual_seed(seed)
    x, other = (torch.randn(2 * n, d, generator=g, dtype=torch.float64) for _ in range(2))
    y: Any = None
    if target == "flags":
        y = torch.rand(2 * n, generator=g) < 0.5
        x[:, 0] += 4.0 * y
    elif target == "classes":
        y = torch.randint(0, 3, (2 * n,), generator=g)
        x[:, :3] += 5.0 * torch.nn.functional.one_hot(y, 3)
    elif target == "numbers":
        y = x[:, 0] - 0.5 * x[:, 1] + 0.1 * other[:, 0]
    elif target == "rows":
        y = x @ torch.randn(d, d, generator=g, dtype=torch.float64) + 0.1 * other
    elif target == "contrast":  # what is true of a statement is +, of its negation -, whichever was said first
        true = torch.where(torch.rand(2 * n, generator=g) < 0.5, 1.0, -1.0)
        x[:, 0], other[:, 0] = x[:, 0] * 0.3 + 3 * true, other[:, 0] * 0.3 - 3 * true
        y = other
    elif target == "nothing":
        x[:, :2] *= 5.0
    else:
        raise AssertionError(
            f"target = {target!r}: a readout says what y is by `target: ClassVar[Target]`, see core.readout."
        )
    if y is None:
        return Planted(x[:n], None, x[n:], None)
    return Planted(x[:n], y[:n], x[n:], y[n:])


def stored(folder: Path, x: torch.Tensor, y: Any) -> tuple[Any, Any]:
    """The same rows as columns of a store; a target that is rows too becomes one."""
    i = torch.arange(len(x))
    columns = [
        Column(name="sample", dtype="int64"), Column(name="pos", dtype="int32"), Column(name="token", dtype="int32"),
        Column(name="x", dtype=str(x.dtype).removeprefix("torch."), shape=(x.shape[1],), site="layers.0.resid_post"),
    ]  # fmt: skip
    pieces = {"sample": [i], "pos": [i.int()], "token": [i.int()], "x": [x]}
    if isinstance(y, torch.Tensor) and y.ndim == 2:
        columns.append(
            Column(name="y", dtype=str(y.dtype).removeprefix("torch."), shape=(y.shape[1],), site="layers.1.resid_post")
        )
        pieces["y"] = [y]
    store: Store = store_with(folder, tuple(columns), pieces)
    return store["x"], (store["y"] if len(columns) == 5 else y)
