"""Activations as a class part plus an index part: is "the third day" made like "the third month"?"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError, NotFittedError


@dataclass
class TwoWay:
    """The additive model of a two-way table: `x = a_class + b_index`, by least squares over the cells that are there.

    Choose it to ask whether two labels are coded independently of each other: if so, a cell never seen is predicted by
    the parts of its row and column. Interactions between the labels are what it cannot say.

    Cost: one least-squares solve of (classes + indices) unknowns for all dimensions together. Deterministic.
    Learned by fit: class_parts_ {class: (d,)}, index_parts_ {index: (d,)}; only their sums are determined, so indices
    have mean zero over those of the data; share_ (of the variance that the sum explains).
    Raises: NotFittedError before fit; InputError for a class or index that was not in the data.
    Source: Gould et al. 2023, arXiv:2312.09230, section on a shared numeric code; the classical additive model.
    """

    def fit(self, x: Float[Tensor, "n d"], classes: Int[Tensor, " n"], indices: Int[Tensor, " n"]) -> "TwoWay":
        """Learn the parts from activations and their two labels."""
        rows, row = classes.cpu().unique(return_inverse=True)
        columns, column = indices.cpu().unique(return_inverse=True)
        one_hot = torch.nn.functional.one_hot
        design = torch.cat([one_hot(row, len(rows)), one_hot(column, len(columns))], 1).double()
        wide = x.detach().cpu().double()
        found = torch.linalg.lstsq(design, wide, driver="gelsd").solution
        a, b = found[: len(rows)], found[len(rows) :]
        middle = b[column].mean(0)
        self.class_parts_ = {int(c): v.float() for c, v in zip(rows, a + middle, strict=True)}
        self.index_parts_ = {int(i): v.float() for i, v in zip(columns, b - middle, strict=True)}
        rest = wide - design @ found
        self.share_ = 1 - float(rest.square().sum() / (wide - wide.mean(0)).square().sum().clamp(min=1e-30))
        return self

    def predict(self, classes: Int[Tensor, " n"], indices: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The sum of both parts, also for cells that were not in the data."""
        if not hasattr(self, "class_parts_"):
            raise NotFittedError("this table has not been fitted yet.\n  call fit(x, classes, indices) first.")
        unknown = [f"class {int(c)}" for c in classes if int(c) not in self.class_parts_]
        unknown += [f"index {int(i)}" for i in indices if int(i) not in self.index_parts_]
        if unknown:
            raise InputError(f"{unknown[0]} was not in the data, so its part is not known.")
        pairs = zip(classes.tolist(), indices.tolist(), strict=True)
        return torch.stack([self.class_parts_[c] + self.index_parts_[i] for c, i in pairs])


def transfer_accuracy(
    x: Float[Tensor, "n d"],
    classes: Int[Tensor, " n"],
    indices: Int[Tensor, " n"],
    *,
    control: str | None = "shuffle",
    seed: int = 0,
) -> tuple[float, float | None, float]:
    """How often a cell left out is decoded from the parts of its class and its index: (share, on shuffled, chance).

    Each cell whose class and index also occur elsewhere is left out in turn; its predicted activation is decoded as the
    nearest real one of its class. control: "shuffle" gives every class's members its indices in a random order.
    chance: one over the size of the class, averaged. Cost: one fit a cell.
    Raises: InputError when no cell can be left out.
    """
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} is none of transfer_accuracy; it can be 'shuffle' or None.")
    classes, indices = classes.cpu(), indices.cpu()
    share, chance = _left_out(x, classes, indices)
    if control is None:
        return share, None, chance
    generator, moved = torch.Generator().manual_seed(seed), indices.clone()
    for c in classes.unique():
        here = (classes == c).nonzero()[:, 0]
        moved[here] = indices[here[torch.randperm(len(here), generator=generator)]]
    return share, _left_out(x, classes, moved)[0], chance


def _left_out(x: Tensor, classes: Tensor, indices: Tensor) -> tuple[float, float]:
    right, chance = [], []
    for n in range(len(x)):
        rest = torch.arange(len(x)) != n
        others = int((classes[rest] == classes[n]).sum())
        if not others or not bool((indices[rest] == indices[n]).any()):
            continue
        made = TwoWay().fit(x[rest], classes[rest], indices[rest]).predict(classes[n : n + 1], indices[n : n + 1])
        members = (classes == classes[n]).nonzero()[:, 0]
        nearest = torch.cdist(made.to(x), x[members])[0].argmin()
        right.append(float(members[nearest] == n))
        chance.append(1 / len(members))
    if not right:
        raise InputError("no cell has both its class and its index elsewhere too, so none can be left out.")
    return sum(right) / len(right), sum(chance) / len(chance)
