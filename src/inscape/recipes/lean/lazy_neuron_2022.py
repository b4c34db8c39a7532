"""Lazy neuron: training makes rectified neurons rest, wider layers more so, and a fixed budget of neurons is enough.

Small vision transformers with rectified neurons read digits: with their labels, with shuffled labels, and with noise in
place of the pixels. The share of neurons that are not 0 on held-out images is followed from the start. Then only the
largest 8 % of a layer's neurons may work (top-k), beside as many random ones; and both nets meet wrong labels.
A pilot of three single trainings with another seed was seen before the bounds were written; it chose how many steps.
Cost: some minutes. Differs from the source: digits of 8 x 8 pixels and two layers of width 64 in place of ImageNet and
text; the pressure on active neurons is measured on random output weights, not proven.
"""

from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import inscape as ins
from inscape.core.drawing import Drawing
from inscape.core.edits.sparsify import random_k, topk_activation
from inscape.core.extra import package
from inscape.core.nulls import bootstrap
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.dynamics.robustness import robustness, stood
from inscape.read.sparsity.profile import sparsity_meter
from inscape.tasks.digits import Images, digits
from inscape.train import cosine, fit

PAPER = Paper(
    name="lazy-neuron",
    title="The Lazy Neuron Phenomenon: On Emergence of Activation Sparsity in Transformers",
    authors="Li, You, Bhojanapalli, Li, Rawat, Reddi, Ye, Chern, Yu, Guo, Kumar",
    year=2022,
    link="https://arxiv.org/abs/2210.06313",
    control="random neurons in place of the largest; output weights in pairs that cancel",
    claims=(
        Claim("more_at_work", "the share of neurons that are not 0 falls in every layer, for real labels, random "
              "labels and random inputs: the largest change", below=0),
        Claim("wider_is_sparser", "a layer four times as wide ends with a smaller share at work: mean difference by "
              "seed", above=0),
        Claim("top_k_costs", "8 % of the neurons, the largest, cost at most two points of accuracy", at_most=0.02,
              control="8 % of the neurons, drawn at random"),
        Claim("noise_accuracy", "trained on 40 % wrong labels, the top-k net is at least as right on true ones",
              at_least=0),
        Claim("noise_calibration", "and its calibration error is smaller", above=0),
        Claim("pressure", "at the start the loss pushes active neurons down: their mean gradient over its standard "
              "error", at_least=3, control="every neuron twice, with output weights v and -v"),
    ),
)  # fmt: skip
QUICK = dict(seeds=1, noisy_seeds=2, steps=2, noisy_steps=2, images=64)
SITE, SHARE, RATE = "layers.*.mlp.act", 0.08, 1e-3


def run(*, seeds: int = 3, noisy_seeds: int = 5, steps: int = 300, noisy_steps: int = 500, images: int = 400,
        seed: int = 0, progress=None) -> Result:  # fmt: skip
    train, test = digits("train"), digits("test")
    top, some = topk_activation(SITE, SHARE, by="largest"), random_k(SITE, SHARE, seed=None)
    curves, changes, wider, costs, chance = {}, [], [], [], []
    for i in range(seeds):
        at = seed * 100 + i
        tell(progress, f"nets of seed {i + 1} of {seeds}", i / (seeds + noisy_seeds))
        made = {name: _net(x, steps, at, held=held) for name, (x, held) in _worlds(train, test, at).items()}
        wide = _net(train, steps, at, width=1024, held=test.pixels[:200])
        curves |= {f"{name} {i}": h.measured["neurons.nonzero"] for name, (_, h) in made.items()} if i == 0 else {}
        curves |= {"real labels, four times as wide 0": wide[1].measured["neurons.nonzero"]} if i == 0 else {}
        changes += [v[-1][1] - v[0][1] for _, h in made.values() for k, v in h.measured.items()
                    if k.startswith("neurons.nonzero.layers")]  # fmt: skip
        wider.append(_end(made["real labels"][1]) - _end(wide[1]))
        dense = stood(made["real labels"][0], test).accuracy
        costs.append(dense - stood(_net(train, steps, at, edits=[top])[0], test).accuracy)
        chance.append(dense - stood(_net(train, steps, at, edits=[some])[0], test).accuracy)
    noisy: list[tuple[float, float]] = []
    gains: list[dict[str, float]] = []
    for i in range(noisy_seeds):
        at = seed * 100 + 50 + i
        tell(progress, f"wrong labels, seed {i + 1} of {noisy_seeds}", (seeds + i) / (seeds + noisy_seeds))
        few = train.subset(torch.randperm(len(train), generator=torch.Generator().manual_seed(at))[:images])
        a, b = (robustness(lambda x, e=e, at=at: _net(x, noisy_steps, at, edits=e)[0], few, test, label_noise=[0.4],
                           seed=at) for e in ([], [top]))  # fmt: skip
        noisy.append((b["noise 0.4"].accuracy - a["noise 0.4"].accuracy, a["noise 0.4"].ece - b["noise 0.4"].ece))
        gains.append({k: b[k].accuracy - a[k].accuracy for k in a})
    right, surer = (bootstrap([n[j] for n in noisy], seed=seed) for j in (0, 1))
    mean = {k.replace("noise 0.4, ", ""): sum(g[k] for g in gains) / noisy_seeds for k in gains[0] if "," in k}
    return Result(
        PAPER,
        {"more_at_work": max(changes), "wider_is_sparser": sum(wider) / seeds, "top_k_costs": sum(costs) / seeds,
         "noise_accuracy": right, "noise_calibration": surer, "pressure": _pressure(seed, pairs=False)},
        controls={"top_k_costs": sum(chance) / seeds, "pressure": _pressure(seed, pairs=True)},
        series={name.rsplit(" ", 1)[0]: [v for _, v in curve] for name, curve in curves.items()},
        also={"smallest_width_gap": min(wider), **{f"noisy_gain_under_{k}": v for k, v in mean.items()}},
        seed=seed,
        notes=f"AdamW without decay, rate {RATE}, cosine, {steps} steps of 64 images; wrong labels: {images} images, "
        f"{noisy_steps} steps. Top-k and random-k are in force in training and in testing.",
        figure=Drawing("lines", x=tuple(float(s) for s, _ in curves["real labels 0"]), x_title="training steps",
                       y_title="share of neurons that are not 0"),
    )  # fmt: skip


def _worlds(train: Images, test: Images, seed: int) -> dict[str, tuple[Images, Any]]:
    """What is learned, and the images on which neurons are counted: never those that are learned."""
    g = torch.Generator().manual_seed(seed)
    labels = train.labels[torch.randperm(len(train), generator=g)]
    noise = torch.randn(len(train) + 200, *train.pixels.shape[1:], generator=g)
    return {
        "real labels": (train, test.pixels[:200]),
        "random labels": (Images(train.pixels, labels, train.chance), test.pixels[:200]),
        "random inputs": (Images(noise[200:], train.labels, train.chance), noise[:200]),
    }


def _net(images: Images, steps: int, seed: int, *, width: int = 256, edits: Any = (), held: Any = None) -> Any:
    """(pixels -> logits with the edits in force, history) of a trained net."""
    transformers = package("transformers", "hf", "training a net")
    config = transformers.ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=width, hidden_act="relu", num_labels=10, hidden_dropout_prob=0.0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.ViTForImageClassification(config).eval()
    model = ins.open(module)

    def scores(pixels: Any) -> Any:
        if not edits:
            return module(pixel_values=pixels).logits
        with ins.editing(model, list(edits)):
            return module(pixel_values=pixels).logits

    meters = {"neurons": sparsity_meter(model, [{"pixel_values": held}])} if held is not None else {}
    history = fit(
        module, partial(_batch, images, seed), lambda _, b: cross_entropy(scores(b[0]), b[1]), steps=steps, lr=RATE,
        schedule=cosine, warmup=min(50, steps // 4), seed=seed, meters=meters,
        measure=range(0, steps, max(1, steps // 20)) if meters else None,
    )  # fmt: skip
    return scores, history


def _batch(images: Images, seed: int, step: int) -> tuple[Any, Any]:
    chosen = torch.randint(len(images), (64,), generator=torch.Generator().manual_seed((seed << 32) + step))
    return images.pixels[chosen], images.labels[chosen]


def _end(history: Any) -> float:
    return history.measured["neurons.nonzero"][-1][1]


def _pressure(seed: int, *, pairs: bool, n: int = 4000, width: int = 256, classes: int = 10) -> float:
    """Mean of dL/da over active neurons of f = V relu(p), V random, cross-entropy, over its standard error by item."""
    g = torch.Generator().manual_seed(seed)
    half = width // 2 if pairs else width
    v = torch.randn(classes, half, generator=g, dtype=torch.float64) / width**0.5
    a = torch.randn(n, half, generator=g, dtype=torch.float64).relu()
    v, a = (torch.cat([v, -v], 1), torch.cat([a, a], 1)) if pairs else (v, a)
    wrong = (a @ v.T).softmax(-1)
    wrong[torch.arange(n), torch.randint(classes, (n,), generator=g)] -= 1
    each = (wrong @ v * (a > 0)).sum(1) / (a > 0).sum(1)
    return float(each.mean() / (each.std() / n**0.5).clamp(min=1e-12))
