"""What runs of the same rows share before their first edit: run once, kept in the model's own cache, gone on from.

An edit at a row's last position leaves all columns before it as they were. With a cache of those, a run with another
edit costs its last columns alone, and so does its gradient: the way to search for an edit, which takes hundreds.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import InscapeError
from inscape.core.step import Step
from inscape.engine.columns import Columns
from inscape.engine.forward import eager, last_logits, run
from inscape.engine.inputs import Inputs
from inscape.engine.planning import tasks_of
from inscape.engine.session import Session
from inscape.models.model import Model

KEPT = 2**30  # bytes of keys and values; rows that need more are run as a whole each time
TRIED = {torch.float64: 1e-6, torch.float32: 1e-3}  # how far a resumed run may be off, of the largest logit


@dataclass(frozen=True, eq=False)
class _Group:
    """Rows of one length. ids: [row, column]; cut: columns that are in the cache."""

    ids: Tensor
    cut: int
    cache: Any


class Prefix:
    """Rows of token ids whose columns before `first` have been run; `run` goes on from there with any edits."""

    def __init__(self, model: Model, groups: dict[int, _Group], place: dict[int, tuple[int, int]]) -> None:
        self.model, self.groups, self.place = model, groups, place

    @classmethod
    def of(cls, model: Model, rows: Sequence[Sequence[int]], first: Sequence[int], batch: int = 32) -> "Prefix | None":
        """Run the columns before each row's `first`. None where this model cannot go on from a cache, where nothing
        comes before, or where it would keep more than a gigabyte.

        Rows of one length share their cut, the earliest `first` among them: nothing is padded. A model is tried before
        it is believed: a row that is gone on from must end as an ordinary run does.
        Cost: one run without the last columns, and its keys and values.
        """
        if not goes_on(model, rows[0]):
            return None
        by_length: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(i)
        groups, place, kept = {}, {}, 0
        for length, members in by_length.items():
            cut = min(int(first[i]) for i in members)
            ids = torch.tensor([list(rows[i]) for i in members])
            if cut < 1:
                return None
            cache = _cached(model, ids[:, :cut], batch)
            kept += sum(x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values))
            if kept > KEPT:
                return None
            groups[length] = _Group(ids, cut, cache)
            place |= {i: (length, j) for j, i in enumerate(members)}
        return cls(model, groups, place)

    def run(
        self, rows: Sequence[int], edits: Callable[[list[int]], Sequence[Edit]] | None = None, *, grad: bool = False
    ) -> Float[Tensor, "row vocab"]:
        """Logits at the last position of these rows. edits: made for the rows it is given, which are some of them."""
        by_length: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            by_length.setdefault(self.place[int(row)][0], []).append(i)
        order, found = [], []
        for length, members in by_length.items():
            numbers = [int(rows[i]) for i in members]
            index = torch.tensor([self.place[n][1] for n in numbers])
            made = list(edits(numbers)) if edits is not None else []
            found.append(_resumed(self.model, self.groups[length], index, made, grad))
            order += members
        back = torch.tensor(order).argsort()
        return torch.cat(found)[back.to(found[0].device)]


def _cached(model: Model, ids: Tensor, batch: int) -> Any:
    """The model's cache of these columns, rows of all batches in one."""
    parts = []
    for some in ids.split(batch):
        moved = Inputs(kwargs={"input_ids": some.to(model.device)}, tokens=some, mask=torch.ones_like(some).bool())
        with torch.no_grad(), last_logits(model, moved):
            parts.append(model.module(**moved.kwargs, use_cache=True).past_key_values)
    whole = parts[0]
    for i, layer in enumerate(whole.layers):
        layer.keys = torch.cat([p.layers[i].keys for p in parts])
        layer.values = torch.cat([p.layers[i].values for p in parts])
    return whole


def _resumed(model: Model, group: _Group, index: Tensor, edits: Sequence[Edit], grad: bool) -> Tensor:
    ids, length = group.ids[index], group.ids.shape[1]
    rest = ids[:, group.cut :]
    cache = cache_of(group.cache, index)
    mask = torch.ones_like(rest).bool()
    columns = Columns(None, None, None, model.main_prefixes)
    columns.step = Step(group.cut, length, torch.arange(length).expand(len(ids), length), rest, length)
    tasks = tasks_of(model, {}, edits, None)
    session = Session(model.module, tasks, columns, grad=grad)
    inputs = Inputs(kwargs={"input_ids": rest.to(model.device)}, tokens=rest, mask=mask)
    mode = torch.enable_grad() if grad else torch.no_grad()
    with mode, eager(model, bool(tasks)), last_logits(model, inputs), session:
        out = model.module(**inputs.kwargs, past_key_values=cache, use_cache=True)
    session.finish()
    return out.logits[:, -1]


def cache_of(cache: Any, index: Tensor | None) -> Any:
    """Some rows of a cache (None: all) to go on from; what is kept is not written to."""
    some = copy.copy(cache)
    some.layers = [copy.copy(layer) for layer in cache.layers]
    if index is not None:
        for layer in some.layers:
            layer.keys, layer.values = (x[index.to(x.device)] for x in (layer.keys, layer.values))
    return some


def goes_on(model: Model, row: Sequence[int]) -> bool:
    """Can this model go on from a cache of keys and values? Tried once, on a few tokens of a row."""
    if "prefix" not in model.plans:
        model.plans["prefix"] = _off(model, row)
    return model.plans["prefix"] is None


def _off(model: Model, row: Sequence[int]) -> str | None:
    """Why this model does not go on from a cache; None when it does."""
    ids = torch.tensor([list(row)[-8:]])
    if model.is_encoder_decoder or "logits" not in model.sites or ids.shape[1] < 2:
        return "it has no stack that reads on"
    try:
        wanted = run(model, ids, output="last").output.logits[:, -1]
        cut = ids.shape[1] // 2
        cache = _cached(model, ids[:, :cut], 1)
        made = _resumed(model, _Group(ids, cut, cache), torch.tensor([0]), [], False)
    except (InscapeError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        return str(error).splitlines()[0][:100] if str(error) else type(error).__name__
    off = float((made.float() - wanted.float()).abs().max() / wanted.float().abs().max().clamp(min=1e-9))
    return None if off <= TRIED.get(wanted.dtype, 0.1) else f"tried on this model it is off by {off:.1e}"
