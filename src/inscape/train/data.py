"""Where a training job stands in its data, so that it can go on with the very next batch.

Three kinds of data:
1. a function of the number of the batch: nothing to remember;
2. something that knows where it stands (`state_dict`, `load_state_dict`; the batches of a store): it is asked;
3. any other iterable: an epoch is one pass. To go on, the generators are put back to where they were when the epoch
   began, the pass is begun again (so that a shuffling loader draws the same order) and what was used is skipped.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import InputError
from inscape.train import randomness

Batches = Iterable[Any] | Callable[[int], Any]


class Cursor:
    """Gives batch after batch, and tells and takes back where it stands."""

    def __init__(self, batches: Batches | Any, devices: Sequence[torch.device]) -> None:
        self.batches = batches
        self.devices = devices
        self.given = 0  # batches since the beginning
        self.used = 0  # of them in this epoch
        self.epoch_began: randomness.State = {}
        self._pass: Iterator[Any] | None = None
        generator = getattr(batches, "generator", None)
        self.own = generator if isinstance(generator, torch.Generator) else None
        self.is_function = callable(batches) and not hasattr(batches, "__iter__")
        self.is_stateful = hasattr(batches, "state_dict") and hasattr(batches, "load_state_dict")
        if not self.is_function and not hasattr(batches, "__iter__"):
            raise InputError(
                f"{type(batches).__name__} gives no batches.\n"
                "  give an iterable of batches (a list, a DataLoader, store.batches()), or a function of the step."
            )

    def next(self) -> Any:
        """The next batch; a pass that ends is begun again. Raises InputError when the data is empty or used up."""
        if self.is_function:
            batch = self.batches(self.given)  # type: ignore[operator]
            self.given += 1
            return batch
        for _ in range(2):
            if self._pass is None:
                self._pass = self._begun()
            for batch in self._pass:
                self.given, self.used = self.given + 1, self.used + 1
                return batch
            self._pass = None
        if not self.given:
            raise InputError("the data is empty: iterating gives no batch.\n  give at least one batch.")
        raise InputError(
            f"the data ended after {self.given} batches, and iterating again gives nothing.\n"
            "  give data that can be iterated again (a list, a DataLoader), fewer steps, or a function of the step."
        )

    def _begun(self) -> Iterator[Any]:
        self.used = 0
        self.epoch_began = randomness.state_of(self.devices, self.own)
        return iter(self.batches)  # type: ignore[arg-type]

    def state(self) -> tuple[dict[str, Any], randomness.State]:
        """Where this stands: plain numbers, and the generators when the epoch began."""
        about: dict[str, Any] = {"given": self.given, "used": self.used}
        if self.is_stateful:
            about["own"] = self.batches.state_dict()  # type: ignore[union-attr]
        return about, {} if self.is_function or self.is_stateful else self.epoch_began

    def resume(self, about: dict[str, Any], epoch_began: Mapping[str, Tensor]) -> None:
        """Stand where `state` was taken; the generators are left in disorder, the caller restores them."""
        self.given = about["given"]
        if self.is_function:
            return
        if self.is_stateful:
            self.batches.load_state_dict(about["own"])  # type: ignore[union-attr]
            return
        if epoch_began:
            randomness.restore(epoch_began, self.devices, self.own)
        self._pass = self._begun()
        for _ in range(about["used"]):
            if next(self._pass, self) is self:
                raise InputError(
                    f"the data is shorter than when the checkpoint was written: batch {about['used']} of the epoch is "
                    "not there.\n  give the same data, or train from the beginning with another checkpoint path."
                )
            self.used += 1
