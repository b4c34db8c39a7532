"""Texts that grow by a token at a time, read by a model again and again, edited or not, at the cost of a token.

1. `look` reads the newest columns: logits at the last token, and sites there. What came before is in the model's cache.
2. Edits may act on the newest columns. A look under edits goes on from a copy of the cache, which stays unedited; what
   acts on earlier columns leaves no cache valid, and asks for `whole`.
3. `append` adds a token to every text; what is now older than the newest columns goes into the cache.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.step import Step
from inscape.engine.columns import Columns
from inscape.engine.forward import can_cache, eager, last_logits, run
from inscape.engine.inputs import Inputs, accepts, check_vocabulary, pad_of, padded
from inscape.engine.planning import tasks_of
from inscape.engine.prefix import cache_of, goes_on
from inscape.engine.session import Session
from inscape.models.model import Model


class ReadingOn:
    """Rows of token ids, padded on the left, of which all columns but the newest ones are in the model's cache.

    newest: how many columns every look runs anew, so that edits may act on them. A model that cannot go on from its
    cache (a recurrence, say) is run as a whole each time, which gives the same.
    Raises: TokenError for ids that the model does not have.
    """

    def __init__(self, model: Model, rows: Sequence[Sequence[int]], newest: int = 1) -> None:
        model.check_ready()
        lists = [list(row) for row in rows]
        self.model, self.newest = model, newest
        self.tokens: Int[Tensor, "batch pos"] = padded(lists, pad_of(model), left=True)
        check_vocabulary(model, self.tokens)
        padding = torch.tensor([self.tokens.shape[1] - len(row) for row in lists])
        self.mask: Bool[Tensor, "batch pos"] = torch.arange(self.tokens.shape[1]) >= padding[:, None]
        even = not bool(padding.any())
        fits = can_cache(model.module) and (even or model.family.left_padding)
        self.caches = fits and goes_on(model, max(lists, key=len))
        self._cache: Any = None
        self._ahead: Any = None  # the cache with the newest column too, as the last plain look left it
        self._held = 0
        if self.caches and self.tokens.shape[1] > newest:
            self._hold(self.tokens.shape[1] - newest)

    def look(
        self,
        edits: Sequence[Edit] = (),
        read: Mapping[str, str] | None = None,
        *,
        rows: Int[Tensor, " some"] | None = None,
        whole: bool = False,
    ) -> tuple[Float[Tensor, "some vocab"], dict[str, Tensor]]:
        """Logits at the last token of these rows (all; a row may come twice), and sites there, [some, d], by name.

        edits: their positions count as in a run of the whole text; those before the newest columns never fire. whole:
        run all columns, for edits that act on them.
        """
        if whole or not self.caches:
            return self._run_whole(edits, read, rows)
        cache = cache_of(self._cache, rows) if self._held else None
        out, values = self._go_on(self._held, self.tokens.shape[1], cache, edits, read, rows)
        if not edits and rows is None and self.newest == 1:
            self._ahead = out.past_key_values
        return out.logits[:, -1], values

    def append(self, tokens: Int[Tensor, " batch"]) -> None:
        """One more token to every row."""
        self.tokens = torch.cat([self.tokens, tokens[:, None].to(self.tokens)], 1)
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        target = self.tokens.shape[1] - self.newest
        if self._ahead is not None:
            self._cache, self._ahead, self._held = self._ahead, None, target
        elif self.caches and target > self._held:
            self._hold(target)

    def keep(self, rows: Int[Tensor, " some"]) -> None:
        """Go on with these rows alone."""
        self.tokens, self.mask, self._ahead = self.tokens[rows], self.mask[rows], None
        if self._held:
            self._cache = cache_of(self._cache, rows)

    def _hold(self, target: int) -> None:
        """Take the columns before `target` into the cache."""
        out, _ = self._go_on(self._held, target, cache_of(self._cache, None) if self._held else None, (), None, None)
        self._cache, self._held = out.past_key_values, target

    def _go_on(
        self, start: int, stop: int, cache: Any, edits: Sequence[Edit], read: Mapping[str, str] | None,
        rows: Tensor | None,
    ) -> tuple[Any, dict[str, Tensor]]:  # fmt: skip
        model, device = self.model, self.model.device
        tokens, mask = (x[:, :stop] if rows is None else x[rows, :stop] for x in (self.tokens, self.mask))
        new = tokens[:, start:]
        given: dict[str, Any] = {"input_ids": new.to(device), "use_cache": True}
        if not bool(mask.all()):
            given["attention_mask"] = mask.long().to(device)
            if model.family.positions == "given" and accepts(model.module, "position_ids"):
                given["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, start:].to(device)
        if cache is not None:
            given["past_key_values"] = cache
        columns = Columns(None, None, None, model.main_prefixes)
        columns.step = Step.of_mask(mask, start, new, stop)
        tasks = tasks_of(model, {name: (site, None) for name, site in (read or {}).items()}, edits, None)
        session = Session(model.module, tasks, columns)
        inputs = Inputs(kwargs=given, tokens=new, mask=mask)
        with torch.no_grad(), eager(model, bool(tasks)), last_logits(model, inputs), session:
            out = model.module(**given)
        session.finish()
        return out, {name: session.values[name][:, -1] for name in (read or {})}

    def _run_whole(
        self, edits: Sequence[Edit], read: Mapping[str, str] | None, rows: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        tokens, mask = (x if rows is None else x[rows] for x in (self.tokens, self.mask))
        lists = [row[m].tolist() for row, m in zip(tokens, mask, strict=True)]
        wanted = {name: (site, "last") for name, site in (read or {}).items()}
        trace = run(self.model, lists, read=wanted or None, edits=edits, output="last")
        return trace.output.logits[:, -1], {name: trace[name] for name in wanted}
