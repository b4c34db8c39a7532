"""Sparsing law: how few neurons a model needs at one percent of perplexity, by activation function, data and shape.

Small gated language models of bytes learn Python's own documentation, with ReLU and with SiLU. PPL-1 % (thresholds on
what a neuron writes, at one relative error for all layers) is followed through training, compared with a threshold on
the gate and with top-k at the same perplexity, carried to other text, and measured on nets of unlike shape; the rules
are compared on a real model too.
The bounds are those of the plan, written before anything was run.
Cost: some minutes. Differs from the source: 0.1 M in place of 0.1 to 1.2 B parameters, half a million bytes read once
or twice; the activation ratio is the mean over layers; Top-k here is per token.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

import inscape as ins
from inscape import tasks
from inscape.core.curves import fit as fit_curve
from inscape.core.drawing import Drawing
from inscape.core.extra import package
from inscape.core.nulls import correlation
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.read.sparsity.ppl import PplSparsity, ppl_sparsity
from inscape.tasks.python_docs import N_BYTES, byte_ids, python_docs, windows
from inscape.train import cosine, fit, next_token

PAPER = Paper(
    name="sparsing-law",
    title="Sparsing Law: Towards Large Language Models with Greater Activation Sparsity",
    authors="Luo, Song, Han, Chen, Xiao, Liu, Sun",
    year=2024,
    link="https://arxiv.org/abs/2411.02335",
    code="https://github.com/thunlp/SparsingLaw",
    control="SiLU beside ReLU; random neurons, as many in each layer",
    claims=(
        Claim("budget", "the perplexity found is the one asked for: largest distance from 1.01 of the ratio",
              at_most=1e-3),
        Claim("beats_gate", "at that perplexity thresholds on what neurons write keep fewer of them than one threshold "
              "on the gate: smallest difference of the shares, SiLU nets and real model", above=0),
        Claim("beats_top_k", "and fewer than the same share everywhere", above=0),
        Claim("relu_trend", "nets with ReLU need fewer neurons with more data: rank correlation of the share with "
              "steps, mean over seeds", below=0, control="nets with SiLU"),
        Claim("relu_below_silu", "at the end ReLU needs fewer than SiLU: smallest difference by seed", above=0),
        Claim("wide_needs_more", "at equal parameters wide and shallow nets need a larger share: rank correlation with "
              "width over depth", above=0),
        Claim("carries_over", "on text that the thresholds were not found on perplexity stays within two percent: "
              "largest ratio", below=1.02, control="random neurons, as many, on the same text as found"),
        Claim("not_any_neurons", "as many random neurons raise perplexity at least ten times as much: smallest ratio "
              "of excesses", at_least=10),
    ),
)  # fmt: skip
SHAPES = {"96 x 1": (96, 1), "64 x 2": (64, 2), "48 x 4": (48, 4), "40 x 6": (40, 6)}  # all 0.11 to 0.13 M in blocks
QUICK = dict(real="", seeds=1, steps=4, texts=1, shapes=2)


def run(real="gemma-3-270m", *, seeds: int = 3, steps: int = 500, texts: int = 4, shapes: int = 4, seed: int = 0,
        progress=None) -> Result:  # fmt: skip
    train, test = byte_ids(python_docs()), byte_ids(python_docs("test"))
    found, held = (windows(x, 10**6 + i, size=4 * texts, width=128, seed=seed) for i, x in enumerate((train, test)))
    curves: dict[str, list[list[tuple[int, float]]]] = {"relu": [], "silu": []}
    ends: dict[str, list[PplSparsity]] = {"relu": [], "silu": []}
    beats: dict[str, list[float]] = {"fat": [], "topk": []}
    for i in range(seeds):
        for act in curves:
            tell(progress, f"{act} nets, seed {i + 1} of {seeds}", 0.7 * i / seeds)
            model, curve = _net(act, 64, 2, train, found, steps, seed * 100 + i)
            curves[act].append(curve)
            ends[act].append(ppl_sparsity(model, [found], held_out=[held], seed=seed))
            if act == "silu":
                _compared(model, [found], ends[act][-1], beats)
    tell(progress, "nets of unlike shape", 0.7)
    shaped = {name: ppl_sparsity(_net("relu", d, n, train, found, steps, seed * 100, measure=False)[0], [found])
              for name, (d, n) in list(SHAPES.items())[:shapes]}  # fmt: skip
    every = [*ends["relu"], *ends["silu"]]
    also = {f"end_{act}": sum(e.activation for e in made) / seeds for act, made in ends.items()}
    if real:
        tell(progress, f"{real}", 0.8)
        model = ins.open(real, dtype=torch.float32)
        words = tasks.plain_text(2 * texts)
        every.append(ppl_sparsity(model, words[:texts], held_out=words[texts:], seed=seed))
        also |= _compared(model, words[:texts], every[-1], beats)
        also |= {"real_cett": every[-1].activation, "real_setting": every[-1].setting}
    wide = [float(torch.tensor(d / n)) for d, n in list(SHAPES.values())[:shapes]]
    trend = {act: sum(_trend(c) for c in made) / seeds for act, made in curves.items()}
    laws = {"relu": "logspace_power", "silu": "power"}
    also |= {f"r2_{act}": _r2(curves[act], laws[act]) for act in curves}
    return Result(
        PAPER,
        {"budget": max(abs(e.ratio - 1.01) for e in every), "beats_gate": min(beats["fat"]),
         "beats_top_k": min(beats["topk"]), "relu_trend": trend["relu"],
         "relu_below_silu": min(b.activation - a.activation for a, b in zip(ends["relu"], ends["silu"], strict=True)),
         "wide_needs_more": _rank(wide, [e.activation for e in shaped.values()]),
         "carries_over": max(e.held_out for e in every),
         "not_any_neurons": min((e.random - 1) / max(1e-9, e.ratio - 1) for e in every)},
        controls={"relu_trend": trend["silu"], "carries_over": min(e.random for e in every)},
        series={f"{act}": torch.tensor([[v for _, v in c] for c in made]).mean(0) for act, made in curves.items()},
        tables={"shapes": [{"shape": k, "share": e.activation, "perplexity": e.dense} for k, e in shaped.items()]},
        also=also,
        seed=seed,
        notes=f"Byte models, {steps} steps of 16 x 64 bytes, AdamW, rate 3e-3, cosine. Perplexities of the nets (a "
        f"byte): {', '.join(f'{e.dense:.2f}' for e in every[: 2 * seeds])}. Shares at PPL-1 %.",
        figure=Drawing("lines", x=tuple(float(s) for s, _ in curves["relu"][0]), x_title="training steps",
                       y_title="share of neurons needed at PPL-1 %"),
    )  # fmt: skip


def _net(act: str, d: int, layers: int, train: Tensor, found: Tensor, steps: int, seed: int, *, measure: bool = True
         ) -> tuple[Any, list[tuple[int, float]]]:  # fmt: skip
    transformers = package("transformers", "hf", "training a net")
    config = transformers.LlamaConfig(
        vocab_size=N_BYTES, hidden_size=d, intermediate_size=3 * d, num_hidden_layers=layers, num_attention_heads=4,
        max_position_embeddings=256, hidden_act=act, tie_word_embeddings=True, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.LlamaForCausalLM(config)
    model = ins.open(module)

    def needed(_: Any) -> float:
        return ppl_sparsity(model, [found[:8]], control=None).activation

    at = sorted({max(1, round(steps * x)) for x in (0.1, 0.15, 0.22, 0.33, 0.48, 0.7, 0.85)})
    history = fit(
        module, partial(windows, train, seed=seed), next_token, steps=steps, lr=3e-3, warmup=min(30, steps // 4),
        schedule=partial(cosine, floor=0.1), seed=seed, meters={"needed": needed} if measure else {}, measure=at,
    )  # fmt: skip
    module.eval()
    return model, history.measured.get("needed", [])


def _compared(model: Any, texts: Any, by_cett: PplSparsity, beats: dict[str, list[float]]) -> dict[str, float]:
    """How many more neurons the other rules keep at the same perplexity."""
    kept = {rule: ppl_sparsity(model, texts, rule=rule, control=None).activation for rule in beats}
    for rule, share in kept.items():
        beats[rule].append(share - by_cett.activation)
    return {f"real_{rule}": share for rule, share in kept.items()}


def _trend(curve: list[tuple[int, float]]) -> float:
    return _rank([s for s, _ in curve], [v for _, v in curve])


def _rank(x: list[Any], y: list[float]) -> float:
    return float(correlation(x, y, n=100)) if len(x) > 2 and len(set(y)) > 1 else float("nan")


def _r2(made: list[list[tuple[int, float]]], law: str) -> float:
    points = [(s, v) for curve in made for s, v in curve]
    return fit_curve([s for s, _ in points], [v for _, v in points], law).r2 if len(points) > 5 else float("nan")
