"""Integrated information of a layer's token-by-token sequence: it says less about right answers than a plain average.

Published networks give their known Phi and networks without integration 0; coupled noisy networks are told from
independent ones by the Phi of their sequences, and not when time is shuffled. In a language model that reads stories of
a false belief, the Phi of a layer's sequence is compared with chance, with the span's mean (no dynamics), and with the
Phi of the same sequence in another order. Bounds were set before any run on the model; nothing here is about
experience.
Cost: about five minutes of one core. Differs from the source: Gemma 3 270M and synthetic stories in place of 8B to 70B
models and five tests of theory of mind; three components in place of four; answers judged by the score of two places;
difference of means in place of logistic regression for the AUC.
"""

from typing import Any

import numpy as np
import torch

import inscape as ins
from inscape.core.drawing import Drawing
from inscape.core.nulls import auc
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.read.compare_scores import compare_scores
from inscape.read.integrated import mean_over_states, network_of, phi3, phi4, sequence_scores, simulated
from inscape.read.integrated.causal import states_of
from inscape.tasks.false_belief import false_belief

PAPER = Paper(
    name="integrated-information",
    title="Can consciousness be observed from large language model internal states? Dissecting LLM representations "
    "obtained from Theory of Mind test with Integrated Information Theory and Span Representation analysis",
    authors="Li, J.",
    year=2025,
    link="https://arxiv.org/abs/2506.22516",
    control="sequences with their time shuffled, the mean of the span, and shuffled labels",
    claims=(
        Claim("published_error", "published networks have their known Phi (3.0 and 4.0)", at_most=1e-5),
        Claim("without_integration", "networks without integration have a Phi of 0", at_most=1e-9,
              control="the published networks"),
        Claim("planted_auc", "the mean Phi of sequences tells coupled networks from independent ones", at_least=0.9,
              control="the same sequences with their time shuffled"),
        Claim("planted_shuffled", "shuffling time leaves nothing of it", at_least=0.4, at_most=0.6),
        Claim("label_null", "shuffled labels give an AUC of one half", at_least=0.43, at_most=0.57),
        Claim("layers_that_count", "in no layer is Phi above chance, above the span's mean and above shuffled time",
              at_most=0),
        Claim("span_over_phi", "the span's mean has the higher AUC, over layers", above=0),
    ),
)  # fmt: skip
QUICK = dict(series=3, steps=5, stories=6, layers=(9,), n=20)
OR_COPY_XOR = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 1, 0]], float)
OR_AND_XOR = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0], [1, 0, 0], [1, 1, 1], [1, 0, 1], [1, 1, 0]], float)
SCORES = ("phi_3", "phi_3_surrogate", "phi_4", "mean")
THREE_XOR = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1], [0, 0, 0]], float)


def run(model="gemma-3-270m", *, series: int = 40, steps: int = 100, stories: int = 120, layers: tuple = (5, 9, 14),
        n: int = 500, seed: int = 0, progress=None) -> Result:  # fmt: skip
    known = ((phi3, OR_AND_XOR, (1, 0, 0), 23 / 12), (phi3, OR_COPY_XOR, (1, 0, 0), 2.3125),
             (phi3, THREE_XOR, (0, 0, 0), 1.875), (phi4, OR_COPY_XOR, (1, 0, 0), float(np.log2(4 / 3))),
             (phi4, THREE_XOR, (0, 0, 0), 1.5))  # fmt: skip
    found = [(version(net, state).phi, value) for version, net, state, value in known]
    copies = states_of(3).astype(float)
    chain = np.stack([np.full(8, 0.5), copies[:, 0], copies[:, 1]], 1)
    none = [version(net, (1, 1, 1)).phi for version in (phi3, phi4) for net in (copies, chain, np.full((8, 3), 0.5))]
    planted = _planted(series, steps, seed, progress)
    read = _stories(model, stories, layers, 3 if stories > 20 else 2, seed, progress)  # two: a quick look
    tables, shuffled, rng = {}, [], np.random.default_rng(seed)
    for layer, scores in read["scores"].items():
        kept = {name: scores[name] for name in SCORES}
        tables[layer] = {
            against: compare_scores(kept, read["right"], against=against, by=read["by"], n=n, seed=seed)
            for against in ("mean", "phi_3_surrogate")
        }
        for draw in range(20):
            other = compare_scores({"phi_3": kept["phi_3"]}, rng.permutation(read["right"]), n=1, repeats=1, seed=draw)
            shuffled.append(other["phi_3"].auc.value)
    value = {name: [t["mean"][name].auc.value for t in tables.values()] for name in SCORES}
    counts = sum(all(t[against]["phi_3"].counts for against in t) for t in tables.values())
    average = {
        name: float(np.mean([s[name].mean() for s in read["scores"].values()]))
        for name in ("phi_3", "phi_3_surrogate", "phi_4", "phi_4_surrogate", "factorisation_error")
    }
    return Result(
        PAPER,
        {
            "published_error": max(abs(a - b) for a, b in found),
            "without_integration": max(none),
            "planted_auc": planted["auc"],
            "planted_shuffled": planted["auc_shuffled"],
            "label_null": float(np.mean(shuffled)),
            "layers_that_count": counts,
            "span_over_phi": float(np.mean(value["mean"]) - np.mean(value["phi_3"])),
        },
        controls={"without_integration": min(a for a, _ in found), "planted_auc": planted["auc_shuffled"]},
        series=value,
        also={"right": float(np.mean(read["right"])), "phi_coupled": planted["coupled"], "phi_alone": planted["alone"],
              **average},
        tables={"auc": [{"layer": layer, "score": name, "auc": s.auc.value, "low": s.auc.low, "high": s.auc.high,
                         "p": s.p, "above_mean": s.gain.low if s.gain else None}
                        for layer, t in tables.items() for name, s in t["mean"].items()]},
        figure=Drawing("bars", x=tuple(f"layer {layer}" for layer in read["scores"]), control=("phi_3_surrogate",),
                       chance=0.5, y_title="AUC for right answers") if len(layers) > 1 else None,
        notes="Phi of a text is positive for noise as well: the shuffled sequences say how much.",
        seed=seed,
    )  # fmt: skip


def _planted(series: int, steps: int, seed: int, progress: Any) -> dict[str, float]:
    """Mean Phi of noisy sequences of random coupled networks and of three independent nodes, and with time shuffled."""
    rng, values = np.random.default_rng(seed), {"coupled": [], "alone": [], "coupled_s": [], "alone_s": []}
    bits = states_of(3)
    for i in range(series):
        if i % 10 == 0:
            tell(progress, f"planted sequences, {i} of {series}", 0.4 * i / series)
        ring = bits[:, rng.permutation([1, 2, 0])] if rng.random() < 0.5 else bits[:, [2, 0, 1]]
        coupled = (ring ^ (bits[:, [1, 2, 0]] & rng.integers(0, 2, 3))).astype(float)
        alone = np.where(bits == 1, rng.uniform(0.6, 0.95, 3), rng.uniform(0.05, 0.4, 3))
        for name, net in (("coupled", coupled), ("alone", alone)):
            states = simulated(net, steps, noise=0.1, seed=seed * 1000 + i)
            values[name].append(mean_over_states(network_of([states], 3)).phi)
            values[f"{name}_s"].append(mean_over_states(network_of([rng.permutation(states)], 3)).phi)
    label = [1] * series + [0] * series
    return {"auc": float(auc(values["coupled"] + values["alone"], label, seed=seed)),
            "auc_shuffled": float(auc(values["coupled_s"] + values["alone_s"], label, seed=seed)),
            "coupled": float(np.mean(values["coupled"])), "alone": float(np.mean(values["alone"]))}  # fmt: skip


def _stories(model: Any, stories: int, layers: tuple, n: int, seed: int, progress: Any) -> dict[str, Any]:
    """Phi of every story in every layer, with its controls, and whether the model's answer was right."""
    model = ins.open(model, dtype=torch.float32) if isinstance(model, str) else model
    told = false_belief(stories, seed=seed)
    sites, held, right = [f"layers.{i}.resid_post" for i in layers], {i: [] for i in layers}, []

    def first(word: str) -> int:
        return model.tokenizer(word, add_special_tokens=False)["input_ids"][0]

    for start in range(0, stories, 8):
        batch = told[start : start + 8]
        trace = ins.run(model, [s.text for s in batch], read=sites, output="last")
        logits, real = trace.output.logits[:, -1], trace.mask
        assert real is not None
        right += [bool(logits[k, first(s.answer)] > logits[k, first(s.lure)]) for k, s in enumerate(batch)]
        for i, site in zip(layers, sites, strict=True):
            held[i] += [trace[site][k][real[k]][1:].float() for k in range(len(batch))]  # without the first token
    scores = {i: sequence_scores(texts, n, seed=seed, progress=progress) for i, texts in held.items()}
    return {"scores": scores, "right": np.array(right), "by": [s.place for s in told]}
