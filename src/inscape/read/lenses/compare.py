"""Lenses side by side: how far each is from what the model says in the end, on text that none was fitted on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.nulls.bootstrap import Intervals, bootstrap_each
from inscape.core.progress import Progress, tell
from inscape.engine.unembed import BUDGET
from inscape.models.model import Model
from inscape.read.lenses.kl import kl_rows
from inscape.read.lenses.logit import checked_unembedding
from inscape.read.lenses.states import stream
from inscape.read.lenses.tuned import TunedLens
from inscape.read.lenses.vocabulary import read_vocabulary


@dataclass(frozen=True, eq=False)
class LensComparison:
    """Every lens on the same positions.

    kl: mean KL(p_final | p_lens), in nats, drawn by input for its interval. rank: median rank of the model's own top
    token. agreement: share of positions where the lens's top token is the model's own.
    """

    lenses: tuple[str, ...]
    layers: tuple[str, ...]
    kl: Intervals  # [lens, layer]
    rank: Float[Tensor, "lens layer"]
    agreement: Float[Tensor, "lens layer"]
    n_positions: int
    n_inputs: int


def compare_lenses(
    model: Model,
    inputs: Any,
    lenses: Mapping[str, TunedLens | None],
    layers: Any = None,
    *,
    n: int = 2000,
    seed: int = 0,
    budget: int = BUDGET,
    progress: Progress = None,
) -> LensComparison:
    """Read held-out inputs with several lenses; None stands for the logit lens.

    Give the tuned lens, the logit lens and the lens trained with `control="shuffle"`: what the last one gains over the
    logit lens is known without looking at the state. The interval is by input, as positions of one text are alike.
    Cost: one forward without its head, and for every lens two products with the head a layer and position.
    Raises: InputError for no lens or fewer than two inputs.
    """
    if not lenses:
        raise InputError("no lenses to compare: give {'logit': None, 'tuned': lens}.")
    unembed = checked_unembedding(model, inputs)
    read = stream(model, inputs, layers, progress=progress)
    if read.mask.shape[0] < 2:
        raise InputError("one input has no interval: give at least two held-out texts.")
    final = read_vocabulary(unembed, read.ends[None], k=1, budget=budget).top[0]
    kls, ranks, agreements = [], [], []
    for i, (name, lens) in enumerate(lenses.items()):
        tell(progress, f"reading with the {name} lens", i / len(lenses))
        states = read.states if lens is None else lens.translated(read.states, read.layers, model)
        kls.append(kl_rows(unembed, states, read.ends, budget=budget).cpu())
        rank = read_vocabulary(unembed, states, tokens=final, budget=budget).rank[..., 0]
        ranks.append(rank.double().quantile(0.5, dim=1).float())
        agreements.append((rank == 1).float().mean(1))
    each = torch.stack(kls).permute(2, 0, 1)  # [row, lens, layer]
    return LensComparison(
        tuple(lenses),
        read.layers,
        bootstrap_each(each, by=read.items, n=n, seed=seed),
        torch.stack(ranks),
        torch.stack(agreements),
        len(read.ends),
        read.mask.shape[0],
    )
