"""Paths of neurons: in every layer the neuron that, scaled together with those below it, moves the output most.

How a path is searched (search="progressive"), from the first layer up:
1. the neurons of the path so far and all neurons of this layer are set to a x their clean value, the rest of these
   layers' activations at the position is held clean; the gradient of the target is averaged over a from 0 to 1;
2. each neuron is scored together with the path: by the product (sum of activations) x (sum of averaged gradients), or
   by integrated gradients, sum of activation x averaged gradient;
3. the k best join the path.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.circuits.neuron_scaling import Scaling
from inscape.core.edit import Edit
from inscape.core.edits.sources import ablate
from inscape.core.edits.values import replace, scale
from inscape.core.errors import EditError, InputError
from inscape.core.nulls.values import generator
from inscape.core.progress import Progress, tell
from inscape.engine.planning import Read
from inscape.models.model import Model

SEARCHES = ("progressive", "activation", "influence", "layer_ig", "random")
SCORES = ("product", "ig")


@dataclass(frozen=True, eq=False)
class NeuronPaths:
    """One path a row of the inputs: `indices[row, layer, k]` are the units chosen at `sites[layer]`.

    product: (sum of activations) x (sum of averaged gradients), the paper's joint attribution score; not a share of
    anything, since it multiplies one neuron's gradient with another's activation. ig: sum of activation x averaged
    gradient; equals `drop`, what the target loses with the path's neurons at the baseline, but for `error`.
    clean: the target in the clean run. at: the position, as edits take it; None for all.
    """

    indices: Int[Tensor, "row layer k"]
    sites: tuple[str, ...]
    product: Float[Tensor, " row"]
    ig: Float[Tensor, " row"]
    drop: Float[Tensor, " row"]
    clean: Float[Tensor, " row"]
    at: int | None
    search: str = "given"

    @property
    def gap(self) -> float:
        """How far the `ig` scores are from adding up: mean |drop - ig| over mean |drop|."""
        return float((self.drop - self.ig).abs().mean() / self.drop.abs().mean().clamp(min=1e-12))

    def edits(self, op: str = "zero", factor: float | int = 2.0) -> list[Edit]:
        """Edits of every row's own path: "zero" removes it, "scale" multiplies by factor, "set" sets to it."""
        out = []
        for layer, site in enumerate(self.sites):
            where: dict[str, Any] = {"units": self.indices[:, layer], "at": self.at}
            if op == "zero":
                out.append(ablate(site, "zero", **where))
            elif op in ("scale", "set"):
                out.append((scale if op == "scale" else replace)(site, factor, **where))
            else:
                raise EditError(f"op={op!r}: it can be 'zero', 'scale' or 'set'.")
        return out


def neuron_path(
    model: Model,
    inputs: Any,
    target: Any,
    *,
    sites: Read = "layers.*.mlp.act",
    position: str | int = "cls",
    k: int = 1,
    score: str = "product",
    search: str = "progressive",
    value: str = "probability",
    baseline: str = "zero",
    steps: int = 20,
    rule: str = "left",
    batch_tokens: int = 4096,
    seed: int = 0,
    progress: Progress = None,
) -> NeuronPaths:
    """The most influential path of neurons of every input, and how much it carries.

    target: a class (or token) for all rows, or one a row; say whether it is the label or the prediction. value: its
    softmax "probability" or its "logit". sites: one a layer, in order. position: "cls", the class token; a position;
    "all", a neuron is its entries at all real positions together; "mean", the same with activations averaged.
    search: "progressive" (see above); or, as baselines: "activation", the largest; "influence", a chain from the output
        down, each neuron the one with the largest gradient on the one above; "layer_ig", every layer by itself;
        "random". k: neurons a layer. score: what "progressive" maximises, "product" or "ig".
    baseline: what a neuron is scaled down to: "zero", or "mean" over the batch, which GELU neurons are nearer to.
    steps, rule: of the integral: "left" as the paper's code, "midpoint" or "gauss" for scores that add up sooner.
    Cost: "progressive" and "layer_ig", `steps` forwards and backwards a layer; all, as many again to score the path.
    Raises: InputError for position="cls" without a class token, a target that is no class, sites without a gradient.
    Source: Discovering Influential Neuron Path in Vision Transformers, 2025, arXiv:2503.09046. Its scores and search;
    the baselines "influence" (Lu et al. 2021, arXiv:2012.13985) and "layer_ig" are ours in its setting.
    """
    for name, given, known in (("search", search, SEARCHES), ("score", score, SCORES)):
        if given not in known:
            raise InputError(f"{name}={given!r}: it can be {', '.join(known)}.")
    work = Scaling.of(model, inputs, target, sites, position, value, baseline, steps, rule, batch_tokens)
    if not 1 <= k <= min(work.n_units):
        raise InputError(f"k={k}: a layer has {min(work.n_units)} neurons to choose from.")
    tell(progress, f"searching paths ({search})")
    if search == "progressive":
        indices = _progressive(work, k, score, progress)
    elif search == "layer_ig":
        alone = [
            work.averaged({i: torch.ones(work.n_rows, n, dtype=torch.bool)})[i] for i, n in enumerate(work.n_units)
        ]
        indices = torch.stack([made.shares.topk(k).indices for made in alone], 1)
    elif search == "activation":
        indices = torch.stack([a.topk(k).indices for a in work.activations], 1)
    elif search == "influence":
        indices = _influence(work, k)
    else:
        drawn = generator(seed)
        indices = torch.stack(
            [torch.from_numpy(drawn.random((work.n_rows, n)).argsort(1)[:, :k].copy()) for n in work.n_units], 1
        )
    return _scored(work, indices, search)


def score_paths(
    model: Model,
    inputs: Any,
    target: Any,
    indices: Int[Tensor, "row layer k"],
    *,
    sites: Read = "layers.*.mlp.act",
    position: str | int = "cls",
    value: str = "probability",
    baseline: str = "zero",
    steps: int = 20,
    rule: str = "left",
    batch_tokens: int = 4096,
) -> NeuronPaths:
    """Both scores of paths that are given, one a row: of another method, of another input, of chance."""
    work = Scaling.of(model, inputs, target, sites, position, value, baseline, steps, rule, batch_tokens)
    if indices.shape[:2] != (work.n_rows, len(work.sites)):
        raise InputError(
            f"indices of shape {tuple(indices.shape)} are no paths of {work.n_rows} rows through {len(work.sites)} "
            "layers; give [row, layer, k]."
        )
    return _scored(work, indices, "given")


def _scored(work: Scaling, indices: Tensor, search: str) -> NeuronPaths:
    marks = {layer: work.marked(layer, indices[:, layer]) for layer in range(len(work.sites))}
    made = work.averaged(marks)
    step = torch.stack([(work.steps[i] * m).sum(1) for i, m in marks.items()]).sum(0)
    grad = torch.stack([(made[i].grads * m).sum(1) for i, m in marks.items()]).sum(0)
    ig = torch.stack([(made[i].shares * m).sum(1) for i, m in marks.items()]).sum(0)
    drop = work.clean - work.at_baseline(marks)
    return NeuronPaths(indices, tuple(work.sites), step * grad, ig, drop, work.clean, work.at, search)


def _progressive(work: Scaling, k: int, score: str, progress: Progress) -> Tensor:
    marks: dict[int, Tensor] = {}
    indices = []
    for layer in range(len(work.sites)):
        tell(progress, f"searching layer {layer}", layer / len(work.sites))
        made = work.averaged({**marks, layer: torch.ones(work.n_rows, work.n_units[layer], dtype=torch.bool)})
        if score == "ig":  # the path's own share is the same for every candidate
            scores = made[layer].shares
        else:
            step = sum((work.steps[i] * m).sum(1, keepdim=True) for i, m in marks.items())
            grad = sum((made[i].grads * m).sum(1, keepdim=True) for i, m in marks.items())
            scores = (work.steps[layer] + step) * (made[layer].grads + grad)
        indices.append(scores.topk(k).indices)
        marks[layer] = work.marked(layer, indices[-1])
    return torch.stack(indices, 1)


def _influence(work: Scaling, k: int) -> Tensor:
    """From the output down: the neurons with the largest gradient on those chosen above."""
    values, above = work.graph()
    indices = []
    for layer in reversed(range(len(work.sites))):
        (grad,) = torch.autograd.grad(above.sum(), values[layer], retain_graph=True)
        indices.append(work.pooled(layer, grad.float()).topk(k).indices)
        above = work.pooled(layer, values[layer].float()).gather(1, indices[-1])
    return torch.stack(indices[::-1], 1)
