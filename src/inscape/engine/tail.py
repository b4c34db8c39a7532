"""From the streams of many runs to what is measured of their logits, a budget of them at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inscape.core.errors import InscapeError, ModelError
from inscape.engine.blocks import Blocks, CannotReenter
from inscape.engine.inputs import Inputs
from inscape.engine.parts import Part
from inscape.engine.unembed import Unembedding, reads_as_the_model_does, unembedding
from inscape.models.model import Model

if TYPE_CHECKING:
    from inscape.engine.runs import Plan

OFF = 5e-2  # how far scores made from the stream may be from the model's own, of the largest


@dataclass(frozen=True, eq=False)
class Tail:
    """The model's last steps. tokens: [rows, k], the only columns that are wanted; None for all."""

    unembed: Unembedding
    tokens: Tensor | None

    def measure(self, plan: "Plan", states: Sequence[Tensor], parts: Sequence[Part]) -> None:
        """Measure each part's logits. states: [pos, d_model] a part, its real columns."""
        assert plan.measure is not None
        rows = torch.tensor([p.row.number for p in parts])
        if isinstance(plan.at, Tensor):
            self._at_each(plan, plan.at, states, parts)
            return
        if plan.at == "all":
            for state, part in zip(states, parts, strict=True):
                plan.note(plan.measure(self.unembed(state)[None], torch.tensor([part.row.number])), [part])
            return
        last = torch.stack([state[-1] for state in states])
        if self.tokens is not None:
            plan.note(plan.measure(self.unembed.columns(last, self.tokens[rows]), rows), parts)
            return
        step = self.unembed.rows_at_once()
        for start in range(0, len(parts), step):
            here = slice(start, start + step)
            plan.note(plan.measure(self.unembed(last[here]), rows[here]), parts[here])

    def _at_each(self, plan: "Plan", wanted: Tensor, states: Sequence[Tensor], parts: Sequence[Part]) -> None:
        """Position by position, at those where a run's stream is not its row's own; elsewhere the row's values hold.

        All such positions of all runs go through the head together, a budget of them at a time.
        """
        assert plan.measure is not None
        base = {p.row.number: state for state, p in zip(states, parts, strict=True) if p.cell is None}
        own = []
        for state, part in zip(states, parts, strict=True):
            here = wanted[part.row.number, : len(state)].clone()
            if part.cell is not None:
                here &= (state != base[part.row.number]).any(-1).cpu()
            elif part.row.number in plan.by_position:
                here[:] = False  # known from an earlier group
            own.append(here.nonzero().flatten())
        hidden = torch.cat([state[at.to(state.device)] for state, at in zip(states, own, strict=True)])
        rows = torch.cat([torch.full_like(at, p.row.number) for at, p in zip(own, parts, strict=True)])
        columns, made, step = torch.cat(own), [], self.unembed.rows_at_once()
        for start in range(0, len(columns), step):
            here = slice(start, start + step)
            made.append(plan.measure(self.unembed(hidden[here]), rows[here], columns[here]).detach().cpu())
        values = iter(torch.cat(made).split([len(at) for at in own])) if made else iter([torch.zeros(0)] * len(own))
        for state, part, at in zip(states, parts, own, strict=True):
            new, number = next(values), part.row.number
            if part.cell is None and number not in plan.by_position:
                plan.by_position[number] = torch.zeros(len(state), dtype=new.dtype).index_copy(0, at, new)
            whole = plan.by_position[number]
            if part.cell is not None:
                whole = whole.index_copy(0, at, new.to(whole.dtype))
            plan.note((whole.sum() / wanted[number].sum().clamp(min=1))[None], [part])

    def cost(self, caught: Blocks) -> float:
        """What one row of all logits costs, in the cost of one token in one block."""
        block = sum(p.numel() for p in caught.modules[0].parameters())
        return sum(p.numel() for p in self.unembed.head.parameters()) / max(1, block)


def tail_of(model: Model, prepared: Inputs, tokens: Tensor | None) -> Tail:
    """The final norm, head and rules, once they have been seen to give this model's own scores.

    Raises: CannotReenter where the model's scores are made in another way.
    """
    if "tail" not in model.plans:
        model.plans["tail"] = _trusted(model, prepared)
    found = model.plans["tail"]
    if isinstance(found, str):
        raise CannotReenter(found)
    return Tail(found, tokens)


def _trusted(model: Model, prepared: Inputs) -> Unembedding | str:
    try:
        unembed = unembedding(model)
        few = prepared.tokens[:1, -8:] if prepared.tokens is not None else None
        if few is None:
            return "its inputs are no tokens"
        off = reads_as_the_model_does(model, unembed, few)
    except ModelError as error:
        return str(error).splitlines()[0]
    except (InscapeError, RuntimeError, TypeError, ValueError) as error:
        return f"its head cannot be tried on a few tokens ({str(error).splitlines()[0][:80]})"
    return unembed if off <= OFF else f"scores made from the last stream differ from the model's own by {off:.1e}"
