"""What one forward call covers: which columns, which of them are real tokens, and where the prompt ended.

A *column* is an index into the sequence as it is fed, padding counted. A *position* counts real tokens only.
In a cached decoding step a call covers one new column of a sequence that began earlier.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Call:
    """How a module was called in this forward, after the edits of what it receives."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Step:
    """The columns `start` to `stop` of a batch.

    real: position of every column so far among the row's real tokens, [batch, stop]; -1 at padding. CPU.
    tokens: ids fed in this call, [batch, stop - start], or None when the inputs are no tokens.
    prompt: number of columns of the prompt.
    past: ids of the calls before, [batch, start], where the engine remembers them; None where rows may change places.
    held: values of other sites that an edit asked for (`Edit.needs`), by site name.
    place: where the edit under way acts, bool that broadcasts to its value; None everywhere.
    among: every site that the edit under way acts at, in forward order: where it stands among the layers.
    memo: what edits remember from site to site of this one forward, each under a key of its own. It is as wide as the
    call (rows and columns fit) and gone with it, so that nothing of one call can reach the next.
    call: how the block was called whose output the edit under way acts on, where it asked for that (`Edit.calls`).
    kept: what edits remember from call to call of one sequence, such as a decision about its prompt; gone with it.
    """

    start: int
    stop: int
    real: Tensor
    tokens: Tensor | None = None
    prompt: int = 0
    held: dict[str, Tensor] = field(default_factory=dict)
    site: str = ""
    n_repeats: int = 1  # rows of the batch per row of the inputs: beams, returned sequences
    selections: dict[object, Tensor | None] = field(default_factory=dict)
    past: Tensor | None = None
    place: Tensor | None = None
    among: tuple[str, ...] = ()
    memo: dict[object, Any] = field(default_factory=dict)
    call: Call | None = None
    kept: dict[object, Any] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return self.real.shape[0]

    @property
    def lengths(self) -> Tensor:
        """Real tokens so far, [batch]."""
        return self.real.amax(1) + 1

    @classmethod
    def of_mask(cls, mask: Tensor, start: int = 0, tokens: Tensor | None = None, prompt: int | None = None) -> "Step":
        """The step whose columns so far are marked real by `mask`, [batch, stop]."""
        mask = mask.to(device="cpu", dtype=torch.bool)
        real = torch.where(mask, mask.long().cumsum(1) - 1, -1)
        stop = mask.shape[1]
        return cls(start, stop, real, tokens, stop if prompt is None else prompt)

    @classmethod
    def plain(cls, batch: int, columns: int, start: int = 0) -> "Step":
        """Every column is real."""
        return cls(start, columns, torch.arange(columns).expand(batch, columns), None, columns)

    def repeated(self, times: int) -> "Step":
        """The same step for a batch in which every row stands `times` times (beams)."""
        tokens = self.tokens
        if tokens is not None and tokens.shape[0] != self.batch * times:
            tokens = tokens.repeat_interleave(times, 0)
        real = self.real.repeat_interleave(times, 0)
        return Step(self.start, self.stop, real, tokens, self.prompt, self.held, self.site, self.n_repeats * times)
