"""Edges chosen by masks that are trained: keep few, and stay near the whole model's prediction.

Every edge has a mask z in [0, 1]; a reader hears z of what its writer says in this run and 1 - z of what it says on
the corrupted prompt. z is a hard-concrete variable (a stretched sigmoid of noise, cut at 0 and 1), so that it is
exactly 0 or 1 most of the time and still has a gradient. The expected number of open edges is held at a target by
Lagrange multipliers, which climb while it is off.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from inscape.circuits.edges.best import first_connected
from inscape.circuits.edges.exact import EdgeRuns
from inscape.core.circuit import Circuit
from inscape.core.errors import InputError
from inscape.core.metrics import kl
from inscape.core.progress import Progress
from inscape.models.model import Model
from inscape.train import fit, frozen

HEAT, LOW, HIGH = 2 / 3, -0.1, 1.1  # temperature and stretch of Louizos et al.
OPEN = 2.0  # log odds that a mask begins with: 97 % of all are above 0


class HardConcrete(nn.Module):
    """Masks with learned log odds, and the two multipliers that hold their number."""

    allowed: Tensor

    def __init__(self, allowed: Tensor, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.odds = nn.Parameter(OPEN + 0.01 * torch.randn(allowed.shape, generator=generator))
        self.pull = nn.Parameter(torch.zeros(2))
        self.pull.register_hook(torch.neg)  # the multipliers climb where the masks descend
        self.register_buffer("allowed", allowed)

    def sample(self) -> Float[Tensor, "writer reader"]:
        """One draw; edges that are none are open."""
        noise = torch.rand_like(self.odds).clamp(1e-6, 1 - 1e-6)
        soft = ((noise.log() - (-noise).log1p() + self.odds) / HEAT).sigmoid()
        return torch.where(self.allowed, (soft * (HIGH - LOW) + LOW).clamp(0, 1), 1.0)

    def share(self) -> Float[Tensor, ""]:
        """The expected share of edges that are not closed."""
        return (self.odds - HEAT * math.log(-LOW / HIGH)).sigmoid()[self.allowed].mean()


def learned_edges(
    model: Model,
    clean: Any,
    corrupted: Any = None,
    *,
    n: int,
    metric: Any = None,
    split: str = "heads",
    steps: int = 400,
    batch: int = 16,
    draws: int = 8,
    lr: float = 0.05,
    climb: float = 0.02,
    warmup: float = 0.5,
    padding_side: str | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> Circuit:
    """The n edges whose masks stay open when all are trained together to keep the whole model's prediction.

    Minimises `KL(whole model || masked model) + p1 gap + p2 gap^2` over masks, with gap the log of the expected share
    of open edges over the target's, and p1, p2 climbing. Choose it where edges stand in for each other or only work
    together, which scores of single edges and greedy cuts cannot see, and where there are many pairs. It alone of the
    three has to be tuned: `about` ends with the divergence and the share that training came to.
    clean, corrupted: as in `sweep`; prompts that line up, the more the better. n: edges; the target, and after training
        the n that hang together with the largest odds (more, where so few do not).
    metric: what is minimised, `kl()` when left out.
    steps, batch, lr: of the training, Adam; batch in pairs. draws: masks a step; few of them lose edges that matter
        before their gradient is heard. climb: lr of the multipliers; a high one overshoots the target. warmup: share of
        the steps in which the target falls from all edges to n, by a constant factor a step.
    Cost: steps x batch x draws forwards and backwards in which every reader has a stream of its own; their graph.
    Weights: the probability that the mask is open. Deterministic by `seed`.
    Raises: as `EdgeRuns.of`; InputError for n out of range, NotFiniteError from the training.
    Source: Bhaskar et al. 2024 (Edge Pruning), arXiv:2406.16778; masks of Louizos et al. 2018, arXiv:1712.01312. Ours
    has no masks of nodes beside those of edges, and cuts off at n edges, not at a sparsity.
    """
    made = kl() if metric is None else metric
    runs = EdgeRuns.of(model, clean, corrupted, made, split=split, padding_side=padding_side)
    total = runs.wiring.n_edges
    if not 1 <= n <= total:
        raise InputError(f"n={n}: this model has {total} edges to choose from.")
    masks = HardConcrete(runs.all.clone(), seed).to(runs.clean.device)
    size, target, at = min(batch, runs.n_pairs), n / total, iter(range(steps))

    def loss(module: Any, rows: Int[Tensor, " batch"]) -> tuple[Tensor, Mapping[str, Any]]:
        done = min(1.0, next(at) / max(1.0, warmup * steps))
        share = module.share()
        off = share.log() - done * math.log(target)
        away = runs.values(torch.stack([module.sample() for _ in range(draws)]), rows.tolist()).mean()
        held = module.pull[0] * off + module.pull[1] * off.square()
        return away.to(held.device) + held, {"away": away.detach(), "share": share.detach()}

    def adam(parameters: Any, lr: float) -> torch.optim.Optimizer:
        odds, pull = parameters
        return torch.optim.Adam([{"params": [odds]}, {"params": [pull], "lr": climb}], lr=lr)

    with frozen(model.module):
        history = fit(
            masks, partial(_rows, runs.n_pairs, size, seed), loss, steps=steps, lr=lr, optimizer=adam, clip=None,
            seed=seed, progress=progress,
        )  # fmt: skip
    odds = masks.odds.detach().cpu()
    where = [(int(w), int(r)) for w, r in runs.all.nonzero()]
    order = sorted(where, key=lambda e: -float(odds[e]))
    keep = first_connected(runs.wiring, order, n, or_more=True)
    last = history.extra["away"][-max(1, steps // 10) :]
    about = (
        f"learned masks, {int(keep.sum())} of {total} edges, {steps} steps on {runs.n_pairs} pairs; at the end "
        f"{runs.metric!r} {sum(last) / len(last):.3g} with {history.extra['share'][-1]:.1%} of the edges open"
    )
    return runs.wiring.circuit(keep, odds.sigmoid(), about)


def _rows(n: int, batch: int, seed: int, step: int) -> Int[Tensor, " batch"]:
    """The pairs of a step: every epoch another order."""
    per_epoch = math.ceil(n / batch)
    order = torch.randperm(n, generator=torch.Generator().manual_seed((seed << 32) + step // per_epoch))
    return order[(step % per_epoch) * batch :][:batch]
