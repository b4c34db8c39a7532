"""From which layer on a wrong answer is decided: as a lens reads it, and as exchanging states shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import inscape.core.edits.sources as sources
from inscape.core.errors import InputError, ShapeError
from inscape.core.progress import Progress
from inscape.engine.cells import Cell, run_cells
from inscape.engine.forward import run
from inscape.engine.unembed import unembedding
from inscape.models.model import Model

NEVER = -1


@dataclass(frozen=True, eq=False)
class Commitment:
    """layer: the first from which on the wrong answer leads, for each item; -1 where it never does for good.

    margin: logit of the wrong answer less that of the right one, [item, layer]: read by the lens after each layer, or
    in the corrected run with the failing run's state put in after that layer.
    """

    layer: Int[Tensor, " item"]
    margin: Float[Tensor, "item layer"]
    layers: tuple[str, ...]
    how: str


def commitment_layer(
    model: Model,
    prompts: Sequence[Any],
    wrong: Sequence[int] | Tensor,
    right: Sequence[int] | Tensor,
    *,
    how: str = "lens",
    corrected: Sequence[Any] | None = None,
    progress: Progress = None,
) -> Commitment:
    """The smallest layer from which on the wrong answer leads at the last token.

    "lens": after which the lens margin stays above 0. It needs nothing else, and says what the head would make of a
    state, which is not what later layers make of it. "causal": after which the failing run's last state, copied into
    the corrected prompt's run, gives the wrong answer there, for all later layers too: what a state does.
    prompts: texts or token ids of runs that go wrong. wrong, right: a token id an item. corrected: prompts that are
        answered rightly, for "causal"; only the last positions meet, so lengths may differ.
    Cost: a forward; "causal" one more of the corrected prompts, restarted once a layer.
    Raises: InputError for another `how`, or "causal" without corrected prompts; ShapeError for unequal lists.
    Source: arXiv:2510.06107.
    """
    w, r = (torch.as_tensor(t, dtype=torch.long) for t in (wrong, right))
    if len(w) != len(prompts) or len(r) != len(prompts):
        raise ShapeError(f"{len(prompts)} prompts, {len(w)} wrong and {len(r)} right answers: one of each an item.")
    if how == "lens":
        margin, names = _lens_margins(model, prompts, w, r)
    elif how == "causal":
        if corrected is None or len(corrected) != len(prompts):
            raise InputError("how='causal' copies states into runs that go right: give corrected=, one prompt an item.")
        margin, names = transplanted(model, corrected, prompts, w, r, at=-1, progress=progress)
    else:
        raise InputError(f"how={how!r}: it can be 'lens' or 'causal'.")
    leads = (margin > 0).flip(1).long().cumprod(1).flip(1)
    layer = torch.where(leads.any(1), leads.argmax(1), NEVER)
    return Commitment(layer, margin, names, how)


def transplanted(
    model: Model,
    into: Sequence[Any],
    source: Sequence[Any],
    wrong: Int[Tensor, " item"],
    right: Int[Tensor, " item"],
    *,
    at: Any = -1,
    progress: Progress = None,
) -> tuple[Float[Tensor, "item layer"], tuple[str, ...]]:
    """Margins (wrong less right) of `into` with the states of `source` copied in after each layer in turn, at `at`.

    at: positions among the real tokens, counted alike in both runs: -1, slice(0, -1) for all the context, or a list of
    tuples of them, one an item; but for -1 both prompts of an item must have as many tokens. All the context of a
    corrected run put into the failing one makes the same states meet as the failing run's last state put into the
    corrected one: ask the words that differ. Raises: ShapeError for other lengths.
    """
    names = tuple(f"{block.name}.resid_post" for block in model.blocks)
    trace = run(model, list(source), read=list(names))
    here = run(model, list(into), read=names[0])
    if trace.mask is None or here.mask is None:
        raise InputError("states are exchanged by position: these inputs have none.")
    lengths, others = trace.mask.sum(1), here.mask.sum(1)
    each = list(at) if isinstance(at, list) else [at] * len(source)
    if len(each) != len(source):
        raise ShapeError(f"{len(source)} items and {len(each)} places: give one an item.")
    if at != -1 and not torch.equal(lengths, others):
        i = int((lengths != others).nonzero()[0])
        raise ShapeError(
            f"the prompts of item {i} have {int(lengths[i])} and {int(others[i])} tokens, so their positions do not "
            "correspond.\n  write them equally long, or exchange the last state alone (at=-1)."
        )
    cells = []
    for i in range(len(source)):
        real = trace.mask[i].bool()
        for name in names:
            state = trace[name][i][real]
            state = state[-1:].expand(int(others[i]), -1) if at == -1 else state
            cells.append(Cell((sources.patch(name, state[None].clone(), at=each[i]),), i))
    pair = torch.stack([wrong, right], 1)
    ran = run_cells(model, list(into), cells, tokens=pair, progress=progress,
                    measure=lambda logits, _: logits[:, 0].float() - logits[:, 1].float())  # fmt: skip
    assert ran.measured is not None
    return ran.measured.reshape(len(source), len(names)), names


def _lens_margins(
    model: Model, prompts: Sequence[Any], wrong: Tensor, right: Tensor
) -> tuple[Float[Tensor, "item layer"], tuple[str, ...]]:
    names = tuple(f"{block.name}.resid_post" for block in model.blocks)
    trace, unembed = run(model, list(prompts), read=list(names), reduce="last"), unembedding(model)
    pair = torch.stack([wrong, right], 1)
    with torch.no_grad():
        scores = [unembed.columns(trace[name], pair) for name in names]
    return torch.stack([(s[:, 0] - s[:, 1]).cpu().float() for s in scores], 1), names
