"""Neuron paths: one neuron a layer, chosen together, carries a class through a vision transformer.

Searches the path of every held-out digit by joint attribution at the class token, and compares it with other searches,
with the effect of removing and doubling its neurons, and with the paths of other images of the class. The target is
the probability of the label.
Cost: about ten minutes on one core: 200 images, 20 scaled copies of each a layer, five searches, and 400 training
images for the frequencies. Differs from the source: a six-layer transformer trained on 8 x 8 digits in place of ViT-B,
L and MAE on ImageNet; the influence and per-layer searches are written here; removals have a control of equal size.
"""

import torch

import inscape as ins
from inscape.circuits.neuron_path import SEARCHES, neuron_path, score_paths
from inscape.circuits.path_stats import any_units, keep_only, path_stats, size_matched
from inscape.core.drawing import Drawing
from inscape.core.nulls import bootstrap, sign_flip_test
from inscape.core.paper import Claim, Paper, Result
from inscape.tasks import digits

PAPER = Paper(
    name="neuron-path",
    title="Discovering Influential Neuron Path in Vision Transformers",
    authors="Yifan Wang, Yifei Liu, Yingdong Shi, Changming Li, Anqi Pang, Sibei Yang, Jingyi Yu, Kan Ren",
    year=2025,
    link="https://arxiv.org/abs/2503.09046",
    code="https://github.com/foundation-model-research/NeuronPath",
    control="random paths; other neurons of the same layer and size; shuffled labels; the neurons of another class",
    claims=(
        Claim("beats_every_search", "progressive paths have a larger joint score than those of the activation, "
              "influence, per-layer and random searches: the largest p of the four paired tests", below=0.01),
        Claim("adds_up", "the integrated-gradients form explains what the path carries: its gap at 20 midpoints",
              at_most=0.05),
        Claim("left_rule_shrinks", "the error of the left rule shrinks with its points: gap at 40 over gap at 10",
              below=0.5),
        Claim("removal", "removing a path lowers the label's probability at least twice as much as removing other "
              "neurons of the same size", at_least=2.0),
        Claim("doubling", "doubling a path raises the label's probability", above=0.0,
              control="other neurons of the same size"),
        Claim("classes", "paths of one class overlap more than those of two: p against shuffled labels", below=0.01,
              control="labels shuffled beforehand"),
        Claim("top_tenth", "the tenth of neurons that a class uses most keeps at least 0.10 more accuracy than a "
              "random tenth", at_least=0.10, control="the tenth that another class uses most"),
    ),
)  # fmt: skip
QUICK = dict(images=60, steps=2, training=60, keep=4)


def run(
    model="toy-digits-vit", *, images: int = 200, steps: int = 20, training: int = 400, keep: int = 10, seed: int = 0,
    progress=None,
) -> Result:  # fmt: skip
    model = ins.open(model)
    test, known = digits("test", images, seed=seed), digits("train", training, seed=seed)
    inputs, labels = {"pixel_values": test.pixels}, test.labels
    paths = {
        name: neuron_path(model, inputs, labels, search=name, steps=steps, seed=seed, progress=progress)
        for name in SEARCHES
    }
    own = paths["progressive"]
    scores = [bootstrap(path.product, seed=seed) for path in paths.values()]
    tests = {
        name: sign_flip_test(own.product - other.product, alternative="greater", seed=seed)
        for name, other in paths.items() if name != "progressive"
    }  # fmt: skip
    gaps = {
        (rule, n): score_paths(model, inputs, labels, own.indices, rule=rule, steps=n).gap
        for rule, n in (("midpoint", steps), ("left", steps // 2), ("left", steps * 2))
    }
    acts = ins.run(model, inputs, read="layers.*.mlp.act", reduce="first")
    sizes = torch.stack([acts[site] for site in own.sites], 1)
    other = score_paths(model, inputs, labels, size_matched(sizes, own.indices, seed=seed), steps=steps)
    moved = {
        (who, op): _outcome(model, inputs, path.edits(op)).gather(1, labels[:, None])[:, 0] - own.clean
        for who, path in (("path", own), ("matched", other), ("random", paths["random"])) for op in ("zero", "scale")
    }  # fmt: skip
    removal = bootstrap((moved["path", "zero"], moved["matched", "zero"]), lambda a, b: float(a.mean() / b.mean()))
    stats = path_stats(own.indices, labels, sizes.shape[2], seed=seed)
    used = neuron_path(
        model, {"pixel_values": known.pixels}, known.labels, k=keep, steps=steps, seed=seed, progress=progress
    )
    often = path_stats(used.indices, known.labels, sizes.shape[2], n=10, seed=seed).most_used(0.1, seed=seed)
    kept = {
        name: _right(model, inputs, labels, keep_only(mask, labels, own.sites, at=0))
        for name, mask in {
            "own class": often, "random": any_units(often, seed=seed), "another class": often.roll(1, 0),
        }.items()
    }  # fmt: skip
    measured = {
        "beats_every_search": max(float(t.p) for t in tests.values()),
        "adds_up": gaps["midpoint", steps],
        "left_rule_shrinks": gaps["left", steps * 2] / gaps["left", steps // 2],
        "removal": removal,
        "doubling": bootstrap(moved["path", "scale"], seed=seed),
        "classes": stats.test.p,
        "top_tenth": kept["own class"] - kept["random"],
    }
    return Result(
        PAPER, measured,
        controls={
            "doubling": float(moved["matched", "scale"].mean()),
            "classes": stats.control.p,
            "top_tenth": kept["another class"] - kept["random"],
        },
        series={"joint score": [x.value for x in scores], "low": [x.low for x in scores],
                "high": [x.high for x in scores]},
        figure=Drawing("bars", show=("joint score",), band={"joint score": ("low", "high")}, x=tuple(paths),
                       x_title="search", y_title="joint attribution score",
                       title="Joint attribution score of the paths that each search finds"),
        tables={
            "searches": [
                {"search": name, "joint score": float(p.product.mean()), "share that adds up": float(p.ig.mean()),
                 "carried": float(p.drop.mean()), "p": float(tests[name].p) if name in tests else None}
                for name, p in paths.items()
            ],
            "edits": [{"neurons": who, "edit": op, "change of probability": float(x.mean())}
                      for (who, op), x in moved.items()],
            "kept": [{"neurons": name, "accuracy": x} for name, x in kept.items()],
        },
        also={"accuracy": _right(model, inputs, labels, []), "same_class": stats.same, "two_classes": stats.different,
              **{f"gap_{rule}_{n}": gap for (rule, n), gap in gaps.items()}},
        seed=seed, notes="the target is the label; neurons are edited at the class token alone",
    )  # fmt: skip


def _outcome(model, inputs, edits) -> torch.Tensor:
    """Probabilities of the classes, with these edits."""
    return ins.run(model, inputs, edits=edits).output.logits.softmax(-1)


def _right(model, inputs, labels, edits) -> float:
    return float((_outcome(model, inputs, edits).argmax(-1) == labels).float().mean())
