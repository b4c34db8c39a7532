"""Entropy neurons: last-layer neurons that write much and favour no token, so that they can only change confidence.

1. The weights with which each neuron of an MLP writes to the stream; those of largest norm stay in the pool.
2. The cosine of each with what the head reads for every token; its variance over the vocabulary.
3. The neurons of least variance in the pool.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.circuits.weights.origins import plain_weight
from inscape.core.errors import InputError, ModelError
from inscape.engine.norms import norm_of
from inscape.engine.unembed import unembedding
from inscape.models.model import Model

CHUNK = 1 << 24  # cosines held at once


@dataclass(frozen=True, eq=False)
class EntropyNeurons:
    """The neurons of one layer by how much they write and how evenly over the vocabulary.

    neurons: those found, the most even first. norm, variance: of every neuron; ratio: norm / log(variance), of all.
    pool: the neurons of large norm they were chosen among. folded: were norms folded into the weights?
    """

    layer: str
    neurons: tuple[int, ...]
    norm: Float[Tensor, " neuron"]
    variance: Float[Tensor, " neuron"]
    pool: tuple[int, ...]
    folded: bool

    @property
    def ratio(self) -> Float[Tensor, " neuron"]:
        return self.norm / self.variance.clamp(min=1e-300).log()


@dataclass(frozen=True)
class Overlap:
    """Intersection over union of two sets of k neurons, beside chance.

    chance: of two sets of these sizes drawn from `n_pool` neurons, its exact mean; p: how often such have as many in
    common.
    """

    iou: float
    shared: tuple[int, ...]
    chance: float
    p: float
    n_pool: int

    def __float__(self) -> float:
        return self.iou


def entropy_neurons(
    model: Model, layer: int = -1, *, folded: bool = False, pool: float = 0.25, k: int = 10
) -> EntropyNeurons:
    """The k neurons among those of large norm whose writing is spread most evenly over the vocabulary.

    variance over tokens t of cos(w_out[neuron], unembed[t]); low variance: the neuron moves all logits alike and acts
    through the final norm alone, so it changes how sure the model is and not of what.
    folded: with the gain of the post-norm and of the final norm in the weights, means taken away where the final norm
    takes them, and every token's unembedding without the mean over tokens (TransformerLens' processed weights). Norms
    and cosines differ; say which was used. pool: share of neurons, by norm, that are looked at.
    Cost: neurons x vocabulary x d_model, in float32, in chunks. Weights are read, nothing runs.
    Raises: ModelError where MLP or head have no plain weights; InputError for more neurons than the pool has.
    Source: Stolfo et al. 2024, arXiv:2406.16254, and the settings of arXiv:2504.02904.
    """
    block = model.blocks[layer]
    point, head = block.points.get("mlp.act"), unembedding(model)
    down = plain_weight(point.module) if point is not None and point.side == "in" else None
    up = plain_weight(head.head)
    if down is None or up is None:
        raise ModelError(
            f"{block.name} of {type(model.module).__name__} has no neurons that one plain weight carries to the "
            "stream, or its head is no plain weight (experts, quantised weights): there are no rows to compare."
        )
    with torch.no_grad():
        writes, reads = down.float().clone(), up.float().T.clone()  # [neuron, d], [vocab, d]
        if folded:
            writes, reads = _folded(model, layer, writes, reads, head.norm)
        norm = writes.norm(dim=1)
        n_pool = max(1, int(len(norm) * pool))
        if not 1 <= k <= n_pool:
            raise InputError(
                f"k={k} neurons of a pool of {n_pool} ({pool:.0%} of {len(norm)}): take fewer, or more of them."
            )
        unit = writes / norm[:, None].clamp(min=1e-30)
        reads = reads / reads.norm(dim=1, keepdim=True).clamp(min=1e-30)
        rows = max(1, CHUNK // len(reads))
        variance = torch.cat([(part @ reads.T).double().var(1, correction=0) for part in unit.split(rows)]).cpu()
    chosen = norm.cpu().topk(n_pool).indices
    order = chosen[variance[chosen].argsort(stable=True)[:k]]
    return EntropyNeurons(
        block.name, tuple(order.tolist()), norm.cpu().double(), variance, tuple(chosen.tolist()), folded
    )


def overlap(one: EntropyNeurons, other: EntropyNeurons) -> Overlap:
    """How many of the neurons two models share. A number of a neuron means something only between a model and what was
    made of it: between unrelated ones it is chance, which is why that comparison is the control.

    Raises: InputError for layers of different widths.
    """
    n = len(one.norm)
    if n != len(other.norm):
        raise InputError(f"layers of {n} and {len(other.norm)} neurons share no numbering.")
    a, b = set(one.neurons), set(other.neurons)
    shared = sorted(a & b)
    n_pool = min(len(one.pool), len(other.pool))
    # Both sets drawn from all neurons: what unrelated models give, whose pools are unrelated too.
    chances = [_draws(i, len(a), len(b), n) for i in range(min(len(a), len(b)) + 1)]
    mean = sum(c * i / (len(a) + len(b) - i) for i, c in enumerate(chances))
    return Overlap(
        len(shared) / len(a | b), tuple(shared), mean, min(1.0, sum(chances[len(shared):])), n_pool
    )  # fmt: skip


def _draws(i: int, a: int, b: int, n: int) -> float:
    """How likely i neurons are shared by sets of a and b, drawn from n."""
    if i > min(a, b) or b - i > n - a:
        return 0.0
    return math.comb(a, i) * math.comb(n - a, b - i) / math.comb(n, b)


def _folded(
    model: Model, layer: int, writes: Tensor, reads: Tensor, final: torch.nn.Module | None
) -> tuple[Float[Tensor, "neuron d"], Float[Tensor, "vocab d"]]:
    """The weights with what stands between them and is linear."""
    width = (writes.shape[1],)
    point = model.blocks[layer].points.get("mlp_out")
    post = norm_of(point.module, width, writes) if point is not None and point.side == "out" else None
    if post is not None:
        writes = writes * post.gain.to(writes)
    norm = norm_of(final, width, writes) if final is not None else None
    if norm is not None:
        reads = reads * norm.gain.to(reads)
        if norm.centred:
            writes = writes - writes.mean(1, keepdim=True)
            reads = reads - reads.mean(1, keepdim=True)
    return writes, reads - reads.mean(0)


def same_neurons(layer: int = -1, *, folded: bool = False, pool: float = 0.25, k: int = 10) -> Callable[..., Any]:
    """A test for `compare_models`: are the entropy neurons of two models the same ones?

    Gives iou, and ratios: the correlation of norm / log(variance) over all neurons. Arguments as `entropy_neurons`.
    """

    def test(one: Model, other: Model) -> dict[str, float]:
        a, b = (entropy_neurons(m, layer, folded=folded, pool=pool, k=k) for m in (one, other))
        same = overlap(a, b)
        ratios = float(torch.corrcoef(torch.stack([a.ratio, b.ratio]))[0, 1])
        return {"iou": same.iou, "iou by chance": same.chance, "ratios": ratios}

    return test
