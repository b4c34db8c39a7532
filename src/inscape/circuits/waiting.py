"""The edits under which tokens wait for one another and the last one reads them, and which prompts survive them."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from inscape.circuits.bank import Bank
from inscape.circuits.masks import peek
from inscape.core.edit import Edit
from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.models.model import Model
from inscape.tasks.pairs import Pairs


def restricted(model: Model, bank: Bank, wait: int, transfer: int) -> list[Edit]:
    """The plan that restricts a model to (wait, transfer): edits for `ins.run`, `ins.generate`, `pairs.answered_by`.

    1. Every token enters layer `wait`, counted from 0, with the mean of its key: what it knows from itself alone.
    2. In the next `transfer` layers the last token looks at everything, every other one at itself and the first alone.
    3. In all later layers every token looks at itself and the first alone.
    bank: of at least `layers.{wait}.resid_pre`. Raises: InputError for layers that are not there; as `Bank.edit`.
    """
    layers = [block.name for block in model.blocks]
    if not 0 <= wait < len(layers) or not 1 <= transfer <= len(layers) - wait:
        raise InputError(f"wait={wait}, transfer={transfer}: this model has {len(layers)} layers.")
    return [
        bank.edit(model, f"{layers[wait]}.resid_pre"),
        *peek(layers[wait : wait + transfer], slice(0, -1), ()),
        *peek(layers[wait + transfer :], None, ()),
    ]


@dataclass(eq=False)
class Conditions:
    """Which prompts are answered right under edits, and the edits of each condition of a search."""

    model: Model
    pairs: Pairs
    bank: Bank
    among: str
    batch: int
    seed: int
    progress: Progress = None

    def __post_init__(self) -> None:
        self.layers = [block.name for block in self.model.blocks]
        self.shuffled = self.bank.shuffled(self.seed)

    def right(self, edits: Sequence[Edit], what: str) -> Bool[Tensor, " prompt"]:
        tell(self.progress, what)
        return self.pairs.answered_by(self.model, among=self.among, batch=self.batch, edits=edits)

    def share(self, edits: Sequence[Edit], what: str) -> float:
        return float(self.right(edits, what).double().mean())

    def waiting(self, how: str, at: int) -> list[Edit]:
        """Every token's state as it enters layer `at`, all later layers open."""
        if how == "alone":
            return peek(self.layers[:at], None, ())
        site = f"{self.layers[at]}.resid_pre"
        if how == "shuffled":
            return [self.shuffled.edit(self.model, site)]
        return [self.bank.edit(self.model, site, how, within="position", seed=self.seed)]

    def restricted(self, wait: int, transfer: int) -> list[Edit]:
        return restricted(self.model, self.bank, wait, transfer)

    def blocked(self, start: int, length: int) -> list[Edit]:
        """The last token looks at itself and the first alone in these layers."""
        return peek(self.layers[start : start + length], -1, ())
