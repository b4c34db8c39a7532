"""Which heads the last token reads the others with, in a model restricted to waiting and transfer layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.bank import Bank
from inscape.circuits.waiting import Conditions, restricted
from inscape.core.edits.attend import attend
from inscape.core.progress import Progress
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.tasks.pairs import Pairs


@dataclass(frozen=True, eq=False)
class HeadsNeeded:
    """Heads of the transfer layers by what their loss costs.

    order: (layer, head), the least needed first. alone: faithfulness without each of them alone, in this order.
    removed: faithfulness without the first 0, 1, 2, ... of them; removed_random: the same in random orders, on average.
    """

    order: tuple[tuple[str, int], ...]
    alone: Float[Tensor, " head"]
    removed: Float[Tensor, " n"]
    removed_random: Float[Tensor, " n"]

    def spare(self, share: int | float = 0.95) -> tuple[int, int]:
        """(heads, heads in random order) that can go before less than a share of the faithfulness is left."""
        found = [(curve < share * float(self.removed[0])).nonzero() for curve in (self.removed, self.removed_random)]
        n, n_random = (int(lost[0]) - 1 if len(lost) else len(self.order) for lost in found)
        return n, n_random


def heads_needed(
    model: Model, pairs: Pairs, bank: Bank, wait: int, transfer: int, *, among: str = "vocabulary", n_random: int = 3,
    batch: int = 128, seed: int = 0, progress: Progress = None,
) -> HeadsNeeded:  # fmt: skip
    """Which heads of the transfer layers the last token reads with, in the model restricted to (wait, transfer).

    A head is taken away by letting the last token look at itself and the first token alone with it. Heads are ranked
    by what is left without each of them alone, and taken away in that order, beside random orders.
    Cost: (2 + n_random) x heads runs. Raises: as `transfer_window`.
    Source: Mamidanna et al. 2025, arXiv:2509.09650.
    """
    known = pairs.filtered(pairs.answered_by(model, among=among, batch=batch))
    conditions = Conditions(model, known, bank, among, batch, seed, progress)
    base = restricted(model, bank, wait, transfer)
    names = conditions.layers[wait : wait + transfer]
    every = [(name, h) for name in names for h in range(_n_heads(model, name, known))]

    def without(chosen: Sequence[tuple[str, int]]) -> float:
        by_layer: dict[str, list[int]] = {}
        for name, h in chosen:
            by_layer.setdefault(name, []).append(h)
        cut = [attend(n, "only", keys=(), own=True, first=True, at=-1, heads=hs) for n, hs in by_layer.items()]
        return conditions.share([*base, *cut], f"without {len(chosen)} heads")

    alone = {head: without([head]) for head in every}
    order = sorted(every, key=lambda head: -alone[head])
    removed = [without(order[:k]) for k in range(len(order) + 1)]
    generator, random = torch.Generator().manual_seed(seed), []
    for _ in range(n_random):
        shuffled = [every[i] for i in torch.randperm(len(every), generator=generator).tolist()]
        random.append([without(shuffled[:k]) for k in range(len(every) + 1)])
    return HeadsNeeded(
        tuple(order), torch.tensor([alone[h] for h in order]), torch.tensor(removed), torch.tensor(random).mean(0)
    )


def _n_heads(model: Model, layer: str, pairs: Pairs) -> int:
    site = f"{layer}.attn.pattern"
    return run(model, [list(pairs.clean_ids[0])], read=site, output=False)[site].shape[1]
