"""PPL-p%: how few neurons a language model needs when its perplexity may rise by p percent."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.edits.sparsify import random_k, threshold_activation, topk_activation
from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.engine.forward import run
from inscape.engine.inputs import prepare
from inscape.engine.token_losses import perplexity
from inscape.models.model import Model
from inscape.read.sparsity.cett import Cett, cett_curves
from inscape.read.sparsity.gates import gate_sites
from inscape.read.sparsity.profile import neurons_of, profile

RULES = ("cett", "fat", "topk")


@dataclass(frozen=True, eq=False)
class PplSparsity:
    """The sparsest setting of one rule that keeps perplexity within (1 + p / 100) of the whole model's.

    setting: the one number that all layers share: a CETT, an eps, or a share of neurons. kept: share of neurons that
    are not 0 at a token, by layer. dense, sparse: perplexities. edits: what cuts; they can be saved and generated with.
    held_out: the ratio of perplexities on other texts; random: with as many random neurons in each layer; NaN where
    not asked for. reached: False where even the sparsest setting costs less than was allowed.
    """

    rule: str
    p: float
    setting: float
    sites: tuple[str, ...]
    kept: Float[Tensor, " site"]
    dense: float
    sparse: float
    edits: tuple[Edit, ...]
    held_out: float
    random: float
    reached: bool
    n_evaluations: int
    cett: Cett | None = None

    @property
    def ratio(self) -> float:
        """Perplexity with few neurons over that of the whole model."""
        return self.sparse / self.dense

    @property
    def activation(self) -> float:
        """The activation ratio: the mean over layers of the share of neurons kept; sparsity is 1 minus it."""
        return float(self.kept.mean())


def ppl_sparsity(
    model: Model,
    texts: Sequence[Any],
    *,
    p: int | float = 1.0,
    rule: str = "cett",
    held_out: Sequence[Any] = (),
    sites: Any = None,
    control: str | None = "random",
    tolerance: float = 1e-3,
    max_evaluations: int = 25,
    max_tokens: int = 512,
    seed: int = 0,
    progress: Progress = None,
) -> PplSparsity:
    """PPL-p%: the activation ratio at which perplexity has risen by p percent.

    rule: "cett", thresholds on what a neuron writes, |x_i| ||W_d[:, i]||, with the same relative error in every layer;
    "fat", |act(gate)| < eps with one eps; "topk", a share of |act(gate)|, the same in every layer, per token.
    Choose "cett" for the number that compares models of any activation function; the others are its baselines.
    A root in one number, by false position with bisection (the source bisects); perplexity is taken to rise with it.
    texts: one entry a run; both perplexities are of these. held_out: texts on which the found edits are tried.
    control: "random", as many random neurons a layer at the same texts. tolerance: of the ratio of perplexities.
    Cost: about ten forwards with the head; "cett" also `cett_curves`.
    Raises: InputError for p <= 0 or another rule; ModelError without mlp.act, a plain down projection or a gate's site.
    Source: Luo et al. 2024, arXiv:2411.02335; their Top-k sorts over the whole batch, ours over each token.
    """
    if not p > 0 or rule not in RULES or control not in (None, "random"):
        raise InputError(
            f"ppl_sparsity(p={p}, rule={rule!r}, control={control!r}): p is above 0 (percent), the rule one of "
            f"{', '.join(RULES)}, the control 'random' or None."
        )
    names = neurons_of(model, sites)
    curves: Cett | None = None
    if rule == "cett":
        curves = cett_curves(model, texts, names, max_tokens=max_tokens, seed=seed, progress=progress)
    make, scale = _cutter(model, texts, names, rule, curves)
    dense = perplexity(model, texts)
    target, tried = math.log1p(p / 100), 0

    def over(u: float) -> float:
        nonlocal tried
        tried += 1
        tell(progress, f"perplexity at {rule} {scale(u):.3g}", min(0.95, tried / 12))
        return math.log(perplexity(model, texts, edits=make(scale(u))) / dense) - target

    u, excess, reached = _root(over, target, tolerance / (1 + p / 100), max_evaluations)
    edits = make(scale(u))
    kept = profile(model, texts, names, edits=edits, control=None).nonzero
    other = float("nan")
    if held_out:
        other = perplexity(model, held_out, edits=edits) / perplexity(model, held_out)
    drawn = float("nan")
    if control:
        chance = [random_k(n, max(float(k), 1e-6), seed=seed) for n, k in zip(names, kept, strict=True)]
        drawn = perplexity(model, texts, edits=chance) / dense
    sparse = dense * math.exp(excess + target)
    return PplSparsity(rule, p, scale(u), tuple(names), kept, dense, sparse, tuple(edits), other, drawn, reached, tried,
                       curves)  # fmt: skip


def _cutter(
    model: Model, texts: Sequence[Any], names: Sequence[str], rule: str, curves: Cett | None
) -> tuple[Callable[[float], list[Edit]], Callable[[float], float]]:
    """(setting -> edits, number in [0, 1] that grows sparser -> setting)"""
    if curves is not None:
        return curves.edits, lambda u: u
    gates = [gate_sites(model, names)[n] for n in names]
    if rule == "topk":
        return (lambda share: [topk_activation(g, max(share, 1e-6)) for g in gates]), lambda u: 1.0 - u
    sample: list[Tensor] = []

    def see(x: Tensor) -> Tensor:
        flat = x.float().abs().reshape(-1)
        sample.append(flat[:: max(1, len(flat) // 5000)].cpu())
        return x.new_zeros(0)

    for one in texts:
        run(model, prepare(model, one), read={g: (g, see) for g in gates})
    size = torch.cat(sample).sort().values

    def eps(u: float) -> float:
        at = u * (len(size) - 1)
        low = int(at)
        high = min(low + 1, len(size) - 1)
        return float(size[low] + (at - low) * (size[high] - size[low]))

    return (lambda e: [threshold_activation(g, e) for g in gates]), eps


def _root(excess: Callable[[float], float], target: float, tolerance: float, most: int) -> tuple[float, float, bool]:
    """(u, excess there, found) where a function that rises from -target crosses 0 in [0, 1]; see `ppl_sparsity`.

    False position on values cut at 2 target, with every third step a bisection: far from the root perplexities explode.
    """
    low, high = 0.0, 1.0
    at_low, at_high = -target, excess(1.0)
    if at_high < 0:
        return 1.0, at_high, False
    best = (0.0, -target)
    for step in range(most):
        a, b = at_low, min(at_high, 2 * target)
        u = (low + high) / 2 if step % 3 == 2 or b - a <= 0 else low - a * (high - low) / (b - a)
        found = excess(u)
        if abs(found) < abs(best[1]):
            best = (u, found)
        if abs(found) <= tolerance:
            break
        if found < 0:
            low, at_low = u, found
        else:
            high, at_high = u, found
    return *best, abs(best[1]) <= max(10 * tolerance, 1e-9)
