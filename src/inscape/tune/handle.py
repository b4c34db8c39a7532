"""A change of weights that can be undone and made again, bit by bit."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from inscape.core.weight_swap import swap_weights
from inscape.models.model import Model
from inscape.train import History


@dataclass(frozen=True, eq=False)
class Control:
    """The same tuning of other layers: which, how it scored, and its history. The model is as it was."""

    layers: tuple[str, ...]
    after: dict[str, float]
    history: History


@dataclass(eq=False)
class Tuned:
    """Layers of a model that were tuned. `undo()` puts the former weights back, `apply()` the tuned ones; as a context
    manager it undoes at the end.

    before, after: what `score` gave. controls: the same tuning of other layers. factors: for "lora", by weight the
    matrices (B times its scale, A) whose product was added. original, tuned: copies of the weights, by name.
    """

    model: Model
    layers: tuple[str, ...]
    method: str
    history: History
    places: dict[str, Tensor] = field(repr=False)
    original: dict[str, Tensor] = field(repr=False)
    tuned: dict[str, Tensor] = field(repr=False)
    factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    controls: tuple[Control, ...] = ()
    is_applied: bool = True

    def undo(self) -> None:
        """Put the former weights back, bit-equal. Raises: ModelError when they were changed by something else since."""
        if self.is_applied:
            swap_weights(self.places, self.tuned, self.original, "tuned")
            self.is_applied = False

    def apply(self) -> None:
        """Put the tuned weights in again, bit-equal. Raises: as `undo`."""
        if not self.is_applied:
            swap_weights(self.places, self.original, self.tuned, "undone")
            self.is_applied = True

    def rank(self, name: str | None = None) -> tuple[int, int]:
        """Where these layers stand by their score (largest first) among all that were tuned: (rank, of how many).

        name: of the score, when there are several; the first when not given. A tie counts for the control.
        """
        key = name or next(iter(self.after))
        better = sum(control.after[key] >= self.after[key] for control in self.controls)
        return better + 1, len(self.controls) + 1

    def __enter__(self) -> "Tuned":
        return self

    def __exit__(self, *_: Any) -> None:
        self.undo()
