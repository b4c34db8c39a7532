"""From the samples of one work unit to its rows: length-bucketed batches through the engine, rows in sample order.

What a unit's rows are depends on the unit alone (its batches are made from its own samples), so a resumed or shared
job gives the same bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import InputError, NotFiredError
from inscape.core.positions import Span
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.store.bucket import Batch, batches_of, is_empty
from inscape.store.edited import Counted, check_edits
from inscape.store.items import Item, items_of
from inscape.store.keep import Keep
from inscape.store.rows import Rows, Storing
from inscape.store.stacks import Stack, stack_of

FLOATS = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True, eq=False)
class Harvest:
    """How rows are made. sites: column -> (site, what to store of a row); the rest as in `record`.

    batch_tokens: padded tokens a forward; batch_rows: samples a forward when these are no tokens.
    """

    model: Model
    sites: Mapping[str, tuple[str, Keep]]
    reduce: Any = None
    dtype: torch.dtype | None = None
    max_length: int | None = None
    batch_tokens: int = 4096
    batch_rows: int = 32
    overflow: str = "refuse"
    allow_nan: bool = False
    edits: tuple[Edit, ...] = ()

    @cached_property
    def edited(self) -> Counted:
        return Counted(self.edits)

    @cached_property
    def stack(self) -> Stack:
        """Whose positions the rows are."""
        return stack_of(self.model, [site for site, _ in self.sites.values()])

    @cached_property
    def storing(self) -> Storing:
        return Storing(self.model, self.sites, self.reduce, self.dtype, self.overflow, self.allow_nan)

    def check(self) -> None:
        """Refuse sites whose rows would not be those of the tokens that are recorded beside them."""
        _ = self.stack
        check_edits(self.model, self.edits)
        if any(m.training for m in self.model.module.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0):
            raise InputError(
                "the model is in training mode: dropout would be recorded. Call model.module.eval() first."
            )
        if self.reduce == "generated":
            raise InputError("reduce='generated': a record runs prompts, nothing is generated.")

    def items(self, samples: Sequence[Any]) -> list[Item]:
        """Samples as the model reads them: tokenised once."""
        spans = any(isinstance(at, Span) for at in (self.reduce, *(edit.at for edit in self.edits)))
        return items_of(
            self.model, samples, max_length=self.max_length, offsets=spans,
            with_target=self.stack.runs_decoder,
        )  # fmt: skip

    def unit(self, first: int, samples: Sequence[Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Columns of all rows of these samples, in sample order (none when no sample has a token), and of each sample
        how many tokens it has and the text it was read as."""
        items = self.items(samples)
        batches = batches_of(self.model, items, self.stack.counted, self.batch_tokens, self.batch_rows)
        parts: dict[str, list[Tensor]] = {}
        owner: list[Tensor] = []
        about = [{"tokens": 0} | _texts(item) for item in items]
        for batch in batches:
            values, owners, tokens = self._batch(batch)
            for name, value in values.items():
                parts.setdefault(name, []).append(value)
            owner.append(owners)
            for member, n in zip(batch.members, tokens, strict=True):
                about[member]["tokens"] = n
        if not batches:
            return {}, about
        belongs = torch.cat(owner)
        order = torch.argsort(belongs, stable=True)
        gathered = {n: torch.cat(p)[order] if len(batches) > 1 else p[0][order] for n, p in parts.items()}
        return {"sample": belongs[order] + first, **gathered}, about

    def told(self, samples: Sequence[Any]) -> list[dict[str, Any]]:
        """What `unit` says of samples, without running anything."""
        items = self.items(samples)
        about = [{"tokens": 0} | _texts(item) for item in items]
        for batch in batches_of(self.model, items, self.stack.counted, self.batch_tokens, self.batch_rows):
            rows = Rows.of(self.model, self.reduce, batch.counted, len(batch.members))
            for member, n in zip(batch.members, rows.lengths, strict=True):
                about[member]["tokens"] = n
        return about

    def lengths(self, samples: Sequence[Any]) -> list[int]:
        """Tokens of each sample, without running anything; 1 where there are none to count."""
        return [_length(item, self.stack) for item in self.items(samples)]

    def _batch(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, list[int]]:
        """One forward: columns of its rows, the member each row belongs to, tokens a member."""
        rows = Rows.of(self.model, self.reduce, batch.counted, len(batch.members))
        kept: dict[str, Tensor] = {}
        read = {name: (site, self.storing.keeper(name, rows, kept)) for name, (site, _) in self.sites.items()}
        try:
            run(self.model, batch.inputs, read, self.edited.edits, output=False, allow_nan=self.allow_nan)
        except NotFiredError:  # an edit may have no place among these samples; a site that never ran is an error
            if not self.sites.keys() <= kept.keys():
                raise
        for name, value in kept.items():
            if len(value) != rows.count:
                raise InputError(
                    f"{name} gave {len(value)} rows where the tokens make {rows.count}: record it on its own."
                )
        owners = torch.tensor(batch.members)[rows.owner]
        return {"pos": rows.pos, "token": rows.token} | kept, owners, rows.lengths


def _texts(item: Item) -> dict[str, Any]:
    both = {"text": item.source, "decoder_text": item.target}
    return {name: tokens.text for name, tokens in both.items() if tokens is not None and tokens.text is not None}


def _length(item: Item, stack: Stack) -> int:
    if is_empty(item):
        return 0
    tokens = {"source": item.source, "target": item.target}.get(stack.counted)
    return len(tokens.ids) if tokens is not None else 1
