"""What one run recorded: site name to tensor, plus the model's own output."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from inscape.core.errors import InputError, SiteError

_ABSENT = object()


@dataclass(eq=False)
class Trace(Mapping[str, Tensor]):
    """What one run recorded: site name to tensor, plus the model's own output.

    Values are the trace's own copies: nothing that happens later changes them. `tokens` are the ids that ran,
    [batch, pos]; `mask` marks the real ones. `fired` counts how often each read and edit happened. `grads`
    holds the gradient of the metric at each site, when one was asked for.
    """

    values_: dict[str, Any]
    tokens: Tensor | None = None
    mask: Tensor | None = None
    fired: dict[str, int] = field(default_factory=dict)
    metric: Tensor | None = None
    grads: dict[str, Tensor] = field(default_factory=dict)
    output_: Any = _ABSENT

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.values_[str(name)]
        except KeyError:
            near = get_close_matches(str(name), self.values_, n=3, cutoff=0.3)
            raise SiteError(
                f"this trace has no {str(name)!r}: it recorded {len(self.values_)} sites"
                + (f"; the nearest are {', '.join(near)}." if near else ".")
                + f"\n  ask for it: ins.run(model, inputs, read={str(name)!r})."
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)

    @property
    def output(self) -> Any:
        """The module's own output object."""
        if self.output_ is _ABSENT:
            raise InputError(
                "this run stopped before the model's output, because nobody asked for it.\n"
                "  write ins.run(..., output=True), or output='last' for the last token's logits alone."
            )
        return self.output_

    @property
    def has_output(self) -> bool:
        return self.output_ is not _ABSENT

    def __repr__(self) -> str:
        shapes = ", ".join(f"{k}: {tuple(getattr(v, 'shape', ()))}" for k, v in list(self.values_.items())[:4])
        more = f", and {len(self) - 4} more" if len(self) > 4 else ""
        return f"Trace({len(self)} sites: {shapes}{more}{'; with output' if self.has_output else ''})"
