"""Decoding a state by putting it into another prompt and reading what the model then says (Patchscopes)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.edits.values import replace
from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.engine.cells import Cell, run_cells
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.read.lenses.logit import checked_unembedding
from inscape.read.lenses.states import layer_names
from inscape.read.lenses.vocabulary import read_vocabulary

IDENTITY = "cat -> cat\n1135 -> 1135\nhello -> hello\n?"


@dataclass(frozen=True, eq=False)
class PatchReading:
    """What the model says at the end of the other prompt, with each state in it.

    top, probability: the k most probable next tokens. entropy: in nats. log_prob, rank: of the answers asked for, None
    without. Those with `control_` were read with a state of another position of the same input in the same place.
    plain: what the prompt says with nothing patched, its k best tokens. sites: where states went, a layer each.
    """

    layers: tuple[str, ...]
    sites: tuple[str, ...]
    top: Int[Tensor, "layer item k"]
    probability: Float[Tensor, "layer item k"]
    entropy: Float[Tensor, "layer item"]
    log_prob: Float[Tensor, "layer item"] | None
    rank: Int[Tensor, "layer item"] | None
    control_top: Int[Tensor, "layer item k"]
    control_log_prob: Float[Tensor, "layer item"] | None
    control_rank: Int[Tensor, "layer item"] | None
    plain: Int[Tensor, " k"]
    how: str


def patch_lens(
    model: Model,
    prompts: Any,
    into: str = IDENTITY,
    layers: Any = None,
    *,
    at: int = -1,
    to: str | None = None,
    to_at: int = -1,
    answers: Sequence[int] | None = None,
    k: int = 5,
    seed: int = 0,
    progress: Progress = None,
) -> PatchReading:
    """Put the state of every layer at position `at` into another prompt, and read its next token.

    Choose it where the head does not read early layers: the model's own later layers do the reading. What they make of
    the state depends on the prompt, so compare several. Choose `logit_lens` for the state's own next token.
    into: the prompt that decodes; the default repeats what stands at its last token. to: the site that takes states,
    for all of them; without it a state goes where it came from. to_at: the position it replaces there.
    answers: a token an input, whose rank and log probability are wanted.
    Control: the state of another position of the same input (drawn by `seed`), patched in the same way.
    Cost: one forward without its head, then two rows of `into` a layer and input from the patched layer on (many at
    once, see `engine.cells`), and one head row each.
    Raises: InputError for inputs of a single token, and answers that do not fit; SiteError.
    Source: Ghandeharioun et al. 2024, arXiv:2401.06102; run as cells that share the unpatched part.
    """
    unembed = checked_unembedding(model, into)
    names = layer_names(model, layers)
    sites = tuple(to or name for name in names)
    tell(progress, "reading the states", None)
    trace = run(model, prompts, read=list(names))
    mask = trace.mask if trace.mask is not None else torch.ones(trace[names[0]].shape[:2], dtype=torch.bool)
    n_items = len(mask)
    if answers is not None and len(answers) != n_items:
        raise InputError(f"{len(answers)} answers for {n_items} inputs: give one a token each.")
    places = [_places(row, at, i, seed) for i, row in enumerate(mask.cpu().bool())]
    last = f"{model.blocks[-1].name}.resid_post"
    cells = [
        Cell((replace(site, trace[name][item, column].detach(), at=to_at),))
        for which in (0, 1)
        for name, site in zip(names, sites, strict=True)
        for item, column in enumerate(p[which] for p in places)
    ]
    tell(progress, "reading them in the other prompt", 0.3)
    ends = run_cells(model, into, cells, read=last, reduce="last", progress=progress)
    states = torch.as_tensor(ends[last]).reshape(2 * len(names), n_items, -1)
    asked = None if answers is None else torch.tensor([int(x) for x in answers])[:, None]
    found = read_vocabulary(unembed, states, k=k, tokens=asked)
    plain = read_vocabulary(unembed, torch.as_tensor(ends.base[last]).reshape(1, 1, -1), k=k).top[0, 0]
    half = len(names)
    own, other = slice(0, half), slice(half, None)
    return PatchReading(
        names,
        sites,
        found.top[own],
        found.top_log[own].exp(),
        found.entropy[own],
        None if asked is None else found.asked[own, :, 0],
        None if asked is None else found.rank[own, :, 0],
        found.top[other],
        None if asked is None else found.asked[other, :, 0],
        None if asked is None else found.rank[other, :, 0],
        plain,
        f"states of position {at} at position {to_at} of {into!r}, {unembed.how}",
    )


def _places(real: Tensor, at: int, item: int, seed: int) -> tuple[int, int]:
    """The column of position `at`, and that of another real position, not the first if there is a choice."""
    columns = real.nonzero()[:, 0].tolist()
    if not -len(columns) <= at < len(columns) or len(columns) < 2:
        raise InputError(
            f"input {item} has {len(columns)} tokens: position {at} and another one as a control are needed."
        )
    own = columns[at]
    others = [c for c in columns[1:] if c != own] or [c for c in columns if c != own]
    g = torch.Generator().manual_seed((seed << 20) + item)
    return own, others[int(torch.randint(len(others), (), generator=g))]
