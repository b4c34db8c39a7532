"""Texts with labels: what a probe is trained on, with the groups that must not be torn apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from inscape.core.errors import InputError, ShapeError


@dataclass(frozen=True)
class LabelledTexts:
    """Texts, one label each, and the group of each: items of one group share what could be learned by heart.

    template: how a text is made, so that results can say what was asked.
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[str | int | float, ...]
    groups: tuple[str, ...]
    template: str = ""

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.labels) == len(self.groups):
            raise ShapeError(
                f"{len(self.texts)} texts, {len(self.labels)} labels and {len(self.groups)} groups: one of each a text."
            )

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, index: Sequence[int]) -> "LabelledTexts":
        """Some of the items, in this order."""
        outside = [i for i in index if not -len(self) <= i < len(self)]
        if outside:
            raise InputError(f"there are {len(self)} items; {outside[:3]} are not among them.")
        chosen = [tuple(x[i] for i in index) for x in (self.texts, self.labels, self.groups)]
        return replace(self, texts=chosen[0], labels=chosen[1], groups=chosen[2])

    def changed(self, change: Callable[[Sequence[str]], Sequence[str]], name: str = "") -> "LabelledTexts":
        """The same items with their texts changed, such as by `prefixed`."""
        return replace(self, name=name or self.name, texts=tuple(change(self.texts)))
