"""Codes of numbers modulo something: what in an activation says the last digit, the day of the week, the parity."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError, NotFittedError
from inscape.core.readout import Target

KINDS = ("classes", "fourier")


@dataclass
class ModularCode:
    """A linear code of values modulo `modulus`: read from activations, and written back by swapping features.

    Reading is ridge regression of a target T(v) on x; writing is the least squares of x on T(v), which gives one
    feature a residue, `feature_r = T(r) E`, with the mean over residues taken out. how="classes": T is one-hot, so a
    feature is what activations of that residue have in common; "fourier": T is `cos, sin (2 pi k v / modulus)` for
    k = 1 .. harmonics, which shares strength between residues and says which frequencies carry the code.
    Choose it for number-like tokens, days, months; choose a dictionary where the code may be sparse and you do not know
    the modulus (a feature is then modular if it fires on one residue).

    Cost: one (d, d) solve. Deterministic.
    Parameters: penalty, relative to the mean variance of an entry of x times the number of samples. harmonics: at most
        modulus // 2; all of them when None.
    Learned by fit: features_ (modulus, d), mean_ (d,), share_ (of the variance of x that the code explains).
    Raises: NotFittedError before fit; InputError for a kind, modulus or values that make no sense.
    Source: Gould et al. 2023, arXiv:2312.09230, whose features come from a sparse autoencoder; supervised ones here.
    """

    modulus: int = 10
    how: str = "classes"
    harmonics: int | None = None
    penalty: float = 0.01
    target: ClassVar[Target] = "own"

    def fit(self, x: Float[Tensor, "n d"], values: Int[Tensor, " n"]) -> "ModularCode":
        """Learn the code from activations and the whole numbers they stand for."""
        self._check(values)
        wide = x.detach().double()
        target = self._target(values).to(wide)
        self.mean_ = wide.mean(0).float()
        self._middle = target.mean(0)
        a, b = wide - wide.mean(0), target - self._middle
        size = self.penalty * float(a.square().mean()) * len(a)
        gram = a.T @ a + size * torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        self._decoder = torch.linalg.solve(gram, a.T @ b)
        encoder = torch.linalg.lstsq(b.cpu(), a.cpu(), driver="gelsd").solution.to(a)
        every = self._target(torch.arange(self.modulus)).to(wide) - self._middle
        features = every @ encoder
        self.features_ = (features - features.mean(0)).float()
        rest = a - b @ encoder
        self.share_ = 1 - float(rest.square().sum() / a.square().sum().clamp(min=1e-30))
        return self

    def predict(self, x: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """The residue whose target is nearest to what is read."""
        self._fitted()
        made = (x.detach().double() - self.mean_.to(x.device).double()) @ self._decoder + self._middle
        every = self._target(torch.arange(self.modulus)).to(made)
        return torch.cdist(made, every).argmin(1)

    def score(self, x: Float[Tensor, "n d"], values: Int[Tensor, " n"]) -> float:
        """How often the residue is read right; 1 / modulus by chance."""
        return float((self.predict(x).cpu() == values.cpu() % self.modulus).float().mean())

    def swapped(
        self, x: Float[Tensor, "n d"], now: Int[Tensor, " n"], wanted: Int[Tensor, " n"], scale: float = 1.0
    ) -> Float[Tensor, "n d"]:
        """`x + scale (feature_wanted - feature_now)`: the same activations, saying another residue."""
        self._fitted()
        f = self.features_.to(x)
        return x + scale * (f[wanted.to(x.device) % self.modulus] - f[now.to(x.device) % self.modulus])

    def _target(self, values: Tensor) -> Float[Tensor, "n q"]:
        residues = values.cpu() % self.modulus
        if self.how == "classes":
            return torch.nn.functional.one_hot(residues, self.modulus).double()
        count = self.harmonics or self.modulus // 2
        angles = 2 * math.pi / self.modulus * residues[:, None].double() * torch.arange(1, count + 1).double()
        return torch.cat([angles.cos(), angles.sin()], 1)

    def _check(self, values: Tensor) -> None:
        if self.how not in KINDS:
            raise InputError(f"how={self.how!r} is no code; it can be 'classes' or 'fourier'.")
        if self.modulus < 2 or (self.harmonics is not None and not 1 <= self.harmonics <= self.modulus // 2):
            raise InputError(
                f"modulus={self.modulus}, harmonics={self.harmonics}: a modulus is at least 2, with 1 to half of it."
            )
        seen = (values.cpu() % self.modulus).unique()
        if len(seen) < self.modulus:
            raise InputError(
                f"{len(values)} values with {len(seen)} of {self.modulus} residues: give every residue at least once."
            )

    def _fitted(self) -> None:
        if not hasattr(self, "features_"):
            raise NotFittedError("this code has not been fitted yet.\n  call fit(x, values) first.")


def modular_accuracy(
    x: Float[Tensor, "n d"],
    values: Int[Tensor, " n"],
    code: ModularCode,
    *,
    folds: int = 5,
    control: str | None = "shuffle",
    seed: int = 0,
) -> tuple[float, float | None]:
    """How often the residue of held-out values is read right, and the same with residues shuffled among the values.

    Every value is held out once, with all its activations, so that nothing of a number is known when it is read.
    Cost: `folds` fits, twice with the control. Raises: InputError for a control that is none, or too few values.
    """
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} is none of modular_accuracy; it can be 'shuffle' or None.")
    generator = torch.Generator().manual_seed(seed)
    kinds = values.cpu().unique()
    if len(kinds) < 2 * code.modulus:
        raise InputError(f"{len(kinds)} different values are too few to hold some out modulo {code.modulus}.")
    fold_of = {int(v): i % folds for i, v in enumerate(kinds[torch.randperm(len(kinds), generator=generator)])}
    fold = torch.tensor([fold_of[int(v)] for v in values])
    found = [_across(x, values, code, fold, folds)]
    if control is not None:
        moved = dict(zip(kinds.tolist(), kinds[torch.randperm(len(kinds), generator=generator)].tolist(), strict=True))
        found.append(_across(x, torch.tensor([moved[int(v)] for v in values]), code, fold, folds))
    return found[0], found[1] if control is not None else None


def _across(x: Tensor, values: Tensor, code: ModularCode, fold: Tensor, folds: int) -> float:
    right = 0.0
    for i in range(folds):
        held = fold == i
        own = ModularCode(code.modulus, code.how, code.harmonics, code.penalty)
        right += own.fit(x[~held.to(x.device)], values[~held]).score(x[held.to(x.device)], values[held]) * int(
            held.sum()
        )
    return right / len(values)
