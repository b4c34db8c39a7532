"""Latent trajectories: how the stream drifts over a rationale tells right traces from wrong ones, without training.

A net that works sums out in writing answers each question eight times; signals of its states over the written steps
are scored, compared at equal length, and used to stop sampling early. Scales and thresholds come from other questions.
Cost: a few minutes. Differs from the source: a four-layer net that was trained for it in place of reasoning models, and
blocks of twelve tokens, about one written step, in place of hundreds. Bounds were written before any run of this file;
the net was known to be right in about half of its samples. A first full run compared streamed signals with those of
another generation, whose wording differed in a near tie; the same generation is compared now. Gemma 3 270M runs end to
end, and nothing is claimed of it.
"""

from typing import Any

import numpy as np
import torch

import inscape as ins
from inscape.core.drawing import Drawing
from inscape.core.nulls import auc, bootstrap
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.read.generation.sampling import Pool, sample_traces
from inscape.read.generation.selection import choose_threshold, select_traces
from inscape.read.generation.trace_score import TraceScore
from inscape.read.generation.trajectory import SIGNALS, SIGNS, null_signals, trajectory_signals
from inscape.read.generation.trajectory_stream import TrajectoryStream
from inscape.tasks.chains import answer_of, chains

PAPER = Paper(
    name="latent-trajectory",
    title="Tracing the Traces: Latent Temporal Signals for Efficient and Accurate Reasoning",
    authors="Vilas, Yousefi, Nushi, Horvitz, Balachandran",
    year=2025,
    link="https://arxiv.org/abs/2510.10494",
    control="labels in another order, random scores, segments in another order, equal length",
    claims=(
        Claim("combined", "the sum of z-scored signals ranks right traces above wrong ones: the low end of the area's "
              "95 % interval, by question", above=0.5, control="the same traces, labels in another order"),
        Claim("at_equal_length", "the best of the three does so among traces of equal length: the low end at a level "
              "that allows for three", above=0.5, control="labels in another order"),
        Claim("order", "and the order of the segments matters: what the area loses when they are shuffled, low end",
              above=0.0),
        Claim("tokens", "accepting the first trace that is good enough spends fewer tokens than eight votes: ratio",
              below=0.95),
        Claim("accuracy", "at an accuracy within one point of voting", at_least=-0.01,
              control="a random score that accepts as many traces"),
        Claim("streamed", "signals that are kept while generating are those of all states, to", at_most=1e-5),
    ),
)  # fmt: skip
QUICK = dict(model="toy-reasoner", questions=10, calibration=10, k=4, prompts=2, resamples=50)
BLOCK = 12


def run(model="gemma-3-270m", *, toy: str = "toy-reasoner", questions: int = 150, calibration: int = 75, k: int = 8,
        prompts: int = 30, resamples: int = 1000, seed: int = 7, progress=None) -> Result:  # fmt: skip
    net = ins.open(toy)
    stop = (net.tokenizer.convert_tokens_to_ids("answer"),)
    pools, rights, truths = [], [], []
    for n, part in ((calibration, 1), (questions, 2)):
        asked = chains(n, (6, 8), seed=10 * seed + part)
        pools.append(sample_traces(net, [c.prompt for c in asked], answer_of, k=k, block=BLOCK, stop=stop,
                                   max_new_tokens=160, seed=seed + part, progress=progress))  # fmt: skip
        truths.append([c.answer for c in asked])
        rights.append(torch.tensor([a == truths[-1][i // k] for i, a in enumerate(pools[-1].answers)]))
    tell(progress, "scoring", 0.7)
    (fitted, held), (known, right) = pools, rights
    how: dict[str, Any] = {"n": resamples, "seed": seed}
    areas: dict[str, Any] = {}
    for name, normalize in (("raw", False), ("normalised", True)):
        score = TraceScore().fit(fitted.signals.table(normalize), known)
        areas[name] = _area(score.transform(held.signals.table(normalize)), right, held, how)
    score = TraceScore().fit(fitted.signals.table(True), known)
    combined = score.transform(held.signals.table(True))
    turned = score.transform(null_signals(held.means, "shuffle", seed=seed).table(True))
    mixed = right[torch.from_numpy(np.random.default_rng(seed).permutation(len(right)))]
    length = held.signals.n_tokens
    table = held.signals.table(True) * torch.tensor([SIGNS[name] for name in SIGNALS])
    level = 1 - 0.05 / 3
    alone = {s: [auc(c.nan_to_num(0), y, by=length, n_strata=100, level=level, **how) for y in (right, mixed)]
             for s, c in zip(SIGNALS, table.T, strict=True)}  # fmt: skip
    rows = [{"score": name, "area": float(a), "low": a.low, "high": a.high} for name, a in areas.items()]
    rows += [
        _row(name, auc(c, right, by=length, n_strata=100, **how)) for name, c in _baselines(held, combined).items()
    ]
    chosen = _selected(fitted, held, score, truths, seed)
    full = _streamed(net, seed)
    lost = bootstrap((combined, turned, right.double()), _gap, by=held.question, n=resamples, method="percentile")
    measured = {
        "combined": areas["normalised"].low,
        "at_equal_length": max(a[0].interval.low for a in alone.values()),
        "order": lost.low, "tokens": chosen["sequential"][1] / chosen["majority"][1],
        "accuracy": chosen["sequential"][0] - chosen["majority"][0], "streamed": full,
    }  # fmt: skip
    controls = {
        "combined": _area(combined, mixed, held, how).low, "accuracy": chosen["random"][0] - chosen["majority"][0],
        "at_equal_length": max(a[1].interval.low for a in alone.values()),
    }  # fmt: skip
    tell(progress, "running the language model", 0.9)
    opened = ins.open(model) if isinstance(model, str) else model
    asked = [f"Solve step by step: {c.prompt}" for c in chains(prompts, 4, seed=seed)]
    wild = sample_traces(opened, asked, answer_of, k=1, block=4, max_new_tokens=24, batch=8)
    by_block = [_area(score.transform(s.table(True)), right, held, how) for s in (held.early, held.signals)]
    return Result(
        PAPER, measured, controls=controls, seed=seed,
        series={"area at equal length": [r["area"] for r in rows[2:]]},
        also={"right": float(right.double().mean()), "area": float(areas["normalised"]), "order_area": float(lost),
              "shuffled_area": float(_area(turned, right, held, how)), "area_after_two_blocks": float(by_block[0]),
              "language_model_known": float(torch.isfinite(wild.signals.table()).all(1).double().mean()),
              **{f"{s}_at_equal_length": a[0].value for s, a in alone.items()},
              **{f"{s}_plain": a[0].plain for s, a in alone.items()},
              **{f"accuracy_{p}": v[0] for p, v in chosen.items()}, **{f"tokens_{p}": v[1] for p, v in chosen.items()}},
        tables={"scores": rows},
        figure=Drawing("bars", show=("area at equal length",), chance=0.5, x=tuple(r["score"] for r in rows[2:]),
                       y_title="area under the curve, traces of equal length"),
    )  # fmt: skip


def _area(score: Any, right: Any, pool: Pool, how: dict[str, Any]) -> Any:
    """The area with its interval by question: traces of one question are not independent."""
    return bootstrap((score, right.double()), _auc, by=pool.question, n=how["n"], method="percentile", seed=how["seed"])


def _auc(score: Any, right: Any) -> float:
    yes = torch.as_tensor(right) > 0.5
    order = torch.as_tensor(score).argsort().argsort().double() + 1
    n = int(yes.sum())
    return float((order[yes].sum() - n * (n + 1) / 2) / max(n * (len(yes) - n), 1))


def _gap(score: Any, other: Any, right: Any) -> float:
    return _auc(score, right) - _auc(other, right)


def _baselines(pool: Pool, combined: Any) -> dict[str, Any]:
    net, cumulative, aligned = pool.signals.table(True).nan_to_num(0).T
    return {"combined": combined, "net": net, "less cumulative": -cumulative, "aligned": aligned,
            "log probability": pool.confidence[:, 0], "less entropy": -pool.confidence[:, 1],
            "margin": pool.confidence[:, 2], "step across layers": pool.geometry[:, 0],
            "angle across layers": pool.geometry[:, 1]}  # fmt: skip


def _row(name: str, found: Any) -> dict[str, Any]:
    return {"score": name, "area": found.value, "low": found.interval.low, "high": found.interval.high,
            "plain": found.plain, "p": found.p}  # fmt: skip


def _selected(fitted: Pool, held: Pool, score: TraceScore, truths: list, seed: int) -> dict[str, tuple[float, float]]:
    """Accuracy and tokens of every policy; thresholds from the calibration questions."""
    k = fitted.k
    n = len(held.answers) // k
    shape = (len(fitted.answers) // k, k)
    answers = [fitted.answers[i * k : i * k + k] for i in range(shape[0])]
    scores = score.transform(fitted.signals.table(True)).reshape(shape)
    bar, accepted = choose_threshold(scores, answers, fitted.tokens.reshape(shape).double(), truths[0], seed=seed)
    blind = np.random.default_rng(seed)
    asks: dict[str, tuple[str, Any, Any]] = {
        "majority": ("majority", None, None), "best": ("best_of_k", score.transform, None),
        "early": ("early", score.transform, None), "sequential": ("sequential", score.transform, bar),
        "random": ("sequential", lambda x: torch.from_numpy(blind.random(len(x))), 1 - accepted),
    }  # fmt: skip
    made = {}
    for name, (policy, scorer, threshold) in asks.items():
        one = select_traces(n, held.sampler(True), scorer, policy, k=k, threshold=threshold)
        made[name] = (one.accuracy(truths[1]), sum(one.tokens) / n)
    return made


def _streamed(net: Any, seed: int) -> float:
    """The largest difference, relative, between streamed signals and those of a trace that kept everything."""
    prompts, path = [c.prompt for c in chains(4, 6, seed=seed)], TrajectoryStream(BLOCK)
    out = ins.generate(net, prompts, watch=path, read="layers.*.resid_post", max_new_tokens=60)
    kept = [torch.stack([v[i, -out.tokens.shape[1] :] for v in out.trace.values()], 1) for i in range(4)]
    n = path.signals.n_tokens.tolist()
    offline = trajectory_signals([s[:m] for s, m in zip(kept, n, strict=True)], block=BLOCK)
    a, b = path.signals.table(), offline.table()
    return float(((a - b).abs() / b.abs().clamp(min=1e-9)).max())
