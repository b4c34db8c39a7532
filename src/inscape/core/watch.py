"""Something that looks on while a model generates, and keeps as little as it needs.

A trace keeps every value of every token. A watch is handed each site's new columns as they come, keeps what it chooses
until the forward ends, and then sees all its sites at once: `ins.generate(model, prompts, watch=[...])`.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Bool
from torch import Tensor

from inscape.core.step import Step


@runtime_checkable
class Watch(Protocol):
    """What `generate(watch=)` takes."""

    @property
    def sites(self) -> Sequence[str]:
        """Names or patterns of what it looks at."""
        ...

    def begin(self, sites: tuple[str, ...]) -> None:
        """A generation begins: these are the sites, in forward order. What an earlier one left is forgotten."""
        ...

    def keep(self, x: Tensor, step: Step) -> Tensor:
        """What is kept of one site's new columns, [batch, pos, ...], until the forward ends. `x` itself is copied."""
        ...

    def see(self, values: Sequence[Tensor], step: Step, live: Bool[Tensor, "batch pos"]) -> None:
        """The forward ended: what was kept, one a site. live: columns that are real and not behind a row's end."""
        ...
