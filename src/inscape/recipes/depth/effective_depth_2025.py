"""Effective depth: later layers change little of what other layers do, and hard questions need more of them.

Who minds a skipped layer, when the lens has settled, which layer of a deeper net holds what a shallow one's layer
holds, and whether more hops use later layers. On a net written by hand every number is known; on Gemma 3 270M the
claims are the paper's; two small byte models and a net that follows arrows are trained for the other two.
Cost: about ten minutes of one core, half of it Gemma. Differs from the source: a 270M model and public texts in place
of 8B and more and of GSM8K, ridge maps in place of AdamW, KL of the answer in place of the largest softmax change.
The difference between the halves is of means: maxima over tokens, as in the source, stand in the table. Points of
the integrated gradients were cut from 64 to 16 before any full run.
"""

from functools import partial
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import inscape as ins
from inscape import tasks
from inscape.circuits.attribution.integrated import integrated_gradients
from inscape.core.drawing import Drawing
from inscape.core.metrics import probability
from inscape.core.nulls import bootstrap, rank_correlation
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.models.toy.arrows import arrow_model
from inscape.models.toy.layered import READS, layered_net
from inscape.read.depth.downstream import downstream_effects
from inscape.read.depth.last_token import last_effects
from inscape.read.depth.report import depth_report, half_difference
from inscape.read.similarity.maps import map_layers
from inscape.tasks.python_docs import N_BYTES, byte_ids, python_docs, windows
from inscape.train import cosine, fit, next_token

PAPER = Paper(
    name="effective-depth",
    title="Do Language Models Use Their Depth Efficiently?",
    authors="Csordás, Manning, Potts",
    year=2025,
    link="https://arxiv.org/abs/2505.13898",
    code="https://github.com/RobertCsordas/llm_effective_depth",
    control="the same net with random weights; shuffled pairs of tokens; an untrained net; noise as long as the update",
    claims=(
        Claim("planted_effects", "who reads whom is found in the net written by hand: the largest error of E, direct "
              "or not", at_most=0.01, control="the same net with random weights"),
        Claim("planted_depth", "and from which layer on nobody minds a skip", at_least=4, at_most=4,
              control="the same net with random weights"),
        Claim("upstream", "skipping a layer changes nothing before it", at_most=0),
        Claim("future_halves", "skipping a layer of the first half changes later tokens' updates more than one of the "
              "second: low end of the paired difference", above=0),
        Claim("lens_falls", "over the last third of the layers the lens comes nearer to the final prediction: low end "
              "of the fall of its KL", above=0),
        Claim("maps_rise", "the layer of a net twice as deep that a layer maps to best rises with its depth: Spearman",
              at_least=0.8, control="shuffled pairs of tokens"),
        Claim("maps_relative", "and lies nearer to equal relative depth than to equal depth: mean distance to the one "
              "minus to the other, in layers", below=0),
        Claim("hops_deeper", "four hops use later layers than one: low end of the difference of depth scores", above=0,
              control="an untrained net"),
    ),
)  # fmt: skip
QUICK = dict(model="toy-arithmetic", prompts=3, steps=30, questions=8, rows=24, points=4)


def run(model="gemma-3-270m", *, prompts: int = 5, steps: int = 300, questions: int = 32, rows: int = 160,
        points: int = 16, seed: int = 20, progress=None) -> Result:  # fmt: skip
    real = ins.open(model, dtype=torch.float32) if isinstance(model, str) else model
    tell(progress, "the net written by hand", 0.0)
    planted, random = (_planted(net) for net in (layered_net(), _untrained(layered_net(), seed)))
    texts = tasks.plain_text(prompts)
    tell(progress, f"skipping layers of {real.source or 'the model'}", 0.05)
    made = depth_report(real, texts, seed=seed, progress=progress)
    assert made.future is not None
    assert made.lens is not None
    assert made.future.control is not None
    halves = bootstrap(half_difference(made.future.reach_per_input), seed=seed)
    third = 2 * len(made.layers) // 3
    fall = bootstrap(made.lens.kl[:, third] - made.lens.kl[:, -2], seed=seed)
    tell(progress, "two byte models", 0.5)
    best, shuffled, by_r2, losses = _maps(steps, rows, seed, progress)
    depth = torch.arange(len(best)) + 1.0
    tell(progress, "hops", 0.8)
    scores, attributed = _hops(arrow_model(), questions, points, seed)
    blank, _ = _hops(arrow_model(trained=False, seed=seed), questions, 0, seed)
    curves = made.curves(seed=seed)
    return Result(
        PAPER,
        {
            "planted_effects": planted[0], "planted_depth": planted[1], "upstream": _upstream(real, texts[0]),
            "future_halves": halves.low, "lens_falls": fall.low, "maps_rise": _rank(best),
            "maps_relative": float(((best + 1 - 2 * depth).abs() - (best + 1 - depth).abs()).mean()),
            "hops_deeper": _difference(scores, seed),
        },
        controls={"planted_effects": random[0], "planted_depth": random[1], "maps_rise": _rank(shuffled),
                  "hops_deeper": _difference(blank, seed)},
        series={
            "effect on present tokens": made.present.reach_per_input.mean(0),
            "effect on later tokens": made.future.reach_per_input.mean(0),
            "noise as long, later tokens": made.future.control.reach_per_input.mean(0),
            "size of the update": made.relative.mean(0)[:-1], "KL of the lens": made.lens.kl.mean(0)[:-1],
        },
        also={
            "future_first_minus_second": halves, "kl_fall": fall,
            "noise_first_minus_second": bootstrap(half_difference(made.future.control.reach_per_input), seed=seed),
            "present_first_minus_second": bootstrap(half_difference(made.present.reach_per_input), seed=seed),
            "relative_first_minus_second": bootstrap(half_difference(made.relative), seed=seed),
            **{f"effective_{k.replace(' ', '_')}": -1 if v is None else v for k, v in made.effective.items()},
            **{f"score_of_{k + 1}_hops": bootstrap(s, _score, method="percentile", seed=seed)
               for k, s in enumerate(scores)},
            **{f"gradients_of_{k + 1}_hops": g for k, g in enumerate(attributed)},
            "maps_rise_by_variance": _rank(by_r2),
            "maps_relative_by_variance": float(((by_r2 + 1 - 2 * depth).abs() - (by_r2 + 1 - depth).abs()).mean()),
            "loss_of_4_layers": losses[0], "loss_of_8_layers": losses[1],
        },
        seed=seed,
        notes=f"Best layers of the deep net: {[int(b) + 1 for b in best]}; with shuffled pairs "
              f"{[int(b) + 1 for b in shuffled]}. Effective depths at {made.thresholds}: {made.effective}.",
        figure=Drawing("lines", show=("effect on present tokens", "effect on later tokens"),
                       control=("noise as long, later tokens",), x_title="layer skipped",
                       y_title="mean relative change of later updates"),
        tables={"layers": [
            {"layer": name, "relative": float(made.relative.mean(0)[i]), "cosine": float(made.cosine.mean(0)[i]),
             "kl": float(made.lens.kl.mean(0)[i]), "overlap": float(made.lens.overlap.mean(0)[i]),
             "reach": float(curves["reach"].value[i]) if i + 1 < len(made.layers) else None,
             "future_reach": float(curves["future reach"].value[i]) if i + 1 < len(made.layers) else None,
             "largest_future_effect": float(made.future.max[i, i + 1:].max()) if i + 1 < len(made.layers) else None}
            for i, name in enumerate(made.layers)]},
    )  # fmt: skip


def _planted(module: Any) -> tuple[float, float]:
    """Largest error of both matrices, and the effective depth by reach (-1: none)."""
    model, ids = ins.open(module), [[0, 3, 5, 2, 7, 1], [1, 2, 3, 4, 5, 6, 7]]
    worst = 0.0
    for direct in (False, True):
        made = downstream_effects(model, ids, direct=direct, control=None)
        known = torch.zeros_like(made.mean)
        for (skipped, layer), straight in READS.items():
            known[skipped, layer] = float(straight or not direct)
        worst = max(worst, float((made.mean.triu(1) - known).abs().max()))
    found = depth_report(model, ids, lens=False, control=None).effective["reach"]
    return worst, -1.0 if found is None else float(found)


def _untrained(module: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    return type(module)(module.config).eval()


def _upstream(model: Any, text: str) -> float:
    """The largest change of any stream before a skipped layer, for three layers."""
    read = [f"{b.name}.resid_pre" for b in model.blocks]
    clean, worst = ins.run(model, text, read=read), 0.0
    for layer in (1, model.n_layers // 2, model.n_layers - 1):
        gone = ins.run(model, text, read=read, edits=[ins.skip(model.blocks[layer].name, at=slice(1, None))])
        worst = max(worst, *(float((gone[s] - clean[s]).abs().max()) for s in read[: layer + 1]))
    return worst


def _maps(
    steps: int, rows: int, seed: int, progress: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[float]]:
    """Best layer of the deep net for each of the shallow one, with shuffled pairs, and by variance; both losses."""
    ids, states, losses = windows(byte_ids(python_docs("test")), 0, size=rows, seed=seed), [], []
    batches = partial(windows, byte_ids(python_docs()), size=24, seed=seed)
    for n_layers in (4, 8):
        torch.manual_seed(seed + n_layers)
        module = LlamaForCausalLM(LlamaConfig(
            vocab_size=N_BYTES, hidden_size=64, intermediate_size=128, num_hidden_layers=n_layers,
            num_attention_heads=4, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        ))  # fmt: skip
        history = fit(module, batches, next_token, steps=steps, lr=3e-3, schedule=cosine,
                      warmup=20, seed=seed, progress=progress)  # fmt: skip
        losses.append(sum(history.loss[-10:]) / len(history.loss[-10:]))
        trace = ins.run(ins.open(module.eval()), ids, read="layers.*.resid_post")
        states.append({name: x[:, 1:].flatten(0, 1) for name, x in trace.items()})
    made = map_layers(states[0], states[1], by=torch.arange(rows).repeat_interleave(ids.shape[1] - 1), seed=seed)
    assert made.shuffled_error is not None
    return made.best.float(), made.shuffled_error.argmin(1).float(), made.r2.argmax(1).float(), losses


def _hops(model: Any, n: int, points: int, seed: int) -> tuple[list[torch.Tensor], list[float]]:
    """Effects of skipping each layer at the question, for 1 to 4 hops; depths of integrated gradients."""
    effects, depths = [], []
    for k in (1, 2, 3, 4):
        asked = tasks.hops(n, k, seed=seed + 100 * k)
        effects.append(last_effects(model, list(asked.texts)).kl)
        if points:
            shares = []
            for block in model.blocks:
                made = integrated_gradients(
                    model, list(asked.texts), probability(list(asked.answers)), f"{block.name}.attn_out",
                    baseline="mean", at=-1, steps=points, tolerance=None,
                )  # fmt: skip
                shares.append(float(made.total().abs().mean()))
            weight = torch.tensor(shares)
            depths.append(float((weight @ torch.arange(len(shares)).float()) / weight.sum().clamp(min=1e-9)))
    return effects, depths


def _score(rows: torch.Tensor) -> float:
    weight = rows.mean(0)
    return float(weight @ torch.arange(len(weight)).double() / weight.sum().clamp(min=1e-12))


def _difference(effects: list[torch.Tensor], seed: int) -> float:
    """Low end of the depth score of four hops minus that of one; the prompts are drawn apart, so both are resampled."""
    made = bootstrap((effects[3], effects[0]), lambda a, b: _score(a) - _score(b), method="percentile", seed=seed)
    return made.low


def _rank(best: torch.Tensor) -> float:
    if len(set(best.tolist())) < 2:
        return 0.0  # one layer is best for all: nothing rises
    return rank_correlation(torch.arange(len(best)), best)
