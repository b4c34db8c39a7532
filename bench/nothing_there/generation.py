"""What happens over tokens: walks that head nowhere, voids that know nothing, rationales that are not about it."""

import torch
from torch import Tensor

from bench.nothing_there.case import Case, above, paired, tokens, told
from inscape.core import nulls
from inscape.read.generation.commitment import commitment_layer, early_answers
from inscape.read.generation.selection import Drawn, select_traces
from inscape.read.generation.trace_score import TraceScore, signal_areas
from inscape.read.generation.trajectory import null_signals, signals_of_means
from inscape.read.generation.void_nulls import fixed_voids, magnitude_matched_voids, random_voids
from inscape.read.generation.voids import VoidMap, voids_of_norms
from inscape.read.lenses.logit import logit_lens


def of_path(how: str) -> Case:
    """Net change of a random walk among 39 with turned steps; aligned change of noise among 39 other orders."""

    def case(seed: int, effect: float) -> float:
        x = torch.randn(10, 2, 6, generator=torch.Generator().manual_seed(seed)).double()
        path = x.cumsum(0) if how == "random" else x
        path = path + effect * torch.arange(10)[:, None, None]
        name = "net" if how == "random" else "aligned"
        measure = lambda s: float(getattr(s, name).mean(1)[0])  # noqa: E731
        null = [measure(null_signals([path], how, seed=1000 * seed + i)) for i in range(39)]
        return above(measure(signals_of_means(path)), null)

    return case


def _signals(seed: int, effect: float) -> tuple[Tensor, Tensor]:
    """Three signals of eighty traces, and which were right."""
    g = torch.Generator().manual_seed(seed)
    right = torch.rand(80, generator=g) < 0.5
    signs = torch.tensor([1.0, -1.0, 1.0])
    return torch.randn(80, 3, generator=g) + effect * signs * right[:, None], right


def trace_score(seed: int, effect: float) -> float:
    """Calibrated on forty traces, its area on forty others."""
    x, right = _signals(seed, effect)
    return TraceScore().fit(x[:40], right[:40]).area(x[40:], right[40:], n=199, seed=seed).p


def areas(seed: int, effect: float) -> float:
    """The best of three signals, after all were looked at."""
    x, right = _signals(seed, effect)
    made = signal_areas(x, ("net", "cumulative", "aligned"), right, signs=(1, -1, 1), n=499, seed=seed)
    return float(nulls.benjamini_hochberg([a.p for a in made.values()]).min())


def selected(seed: int, effect: float) -> float:
    """The best of eight by a score, against the first of them."""
    g = torch.Generator().manual_seed(seed)
    right = torch.rand(40, 8, generator=g) < 0.4
    score = torch.randn(40, 8, 1, generator=g) + 2 * effect * right[..., None]
    made = select_traces(40, lambda q, i: Drawn(bool(right[q, i]), 1, score[q, i]), lambda s: s[:, 0], k=8)
    return nulls.mcnemar(torch.tensor(made.answers), right[:, 0], alternative="greater")


def committed(seed: int, effect: float) -> float:
    """The layer from which the final token is on top, beside another position's token; the last one says it anyway."""
    read = logit_lens(told(seed, 2 * effect), tokens(seed, 4, 12), seed=seed)
    assert read.control is not None
    own, other = (commitment_layer(r[:-1]).flatten() for r in (read.rank, read.control))
    return paired(-own, -other, seed)


def early(seed: int, effect: float) -> float:
    """A label after each row's own rationale, beside that of another row; planted: it is what the net says there."""
    model, ids = told(seed, carry=2.0), tokens(seed, 12, 6)
    options = tokens(seed + 500, 1, 4)[0].tolist()
    asked, wanted = [ids[0, -1].item()], torch.randint(4, (12,), generator=torch.Generator().manual_seed(seed))
    made = early_answers(model, ids[:, :1].tolist(), ids[:, 1:5].tolist(), [int(asked[0])], options, every=4, seed=seed)
    if effect:
        wanted = made.probability[-1].argmax(-1)
    assert made.control is not None
    at = torch.arange(12)
    return paired(made.probability[-1, at, wanted], made.control[-1, at, wanted], seed)


def _lengths(seed: int, effect: float) -> Tensor:
    """Lengths of the stream of eight layers, six rows of twelve tokens, half of them response; planted: it rests."""
    change = torch.randn(8, 6, 12, generator=torch.Generator().manual_seed(seed)) + 1
    change[2:, :, 6:] -= 2 * effect
    return torch.cat([torch.full_like(change[:1], 20.0), change]).cumsum(0)


def phases(seed: int, effect: float) -> float:
    """Layers used in the prompt and in the response, paired by row."""
    norm = _lengths(seed, effect)
    void, change, threshold = voids_of_norms(norm)
    used = []
    for row in range(6):
        one = slice(row, row + 1)
        mask = torch.ones(1, 12, dtype=torch.bool)
        names = tuple(f"layers.{i}" for i in range(8))
        made = VoidMap(void[:, one], change[:, one], norm[:, one], threshold[:, one], change[:, one].abs(), mask, 6,
                       0.8, "trace", names)  # fmt: skip
        used.append(made.used("prompt") - made.used("response"))
    return nulls.sign_flip_test(used, n=199, seed=seed).p


def of_voids(how: str) -> Case:
    """What skipping costs, mean over a token's voids, beside masks of as many skips; planted: voids cost less."""

    def case(seed: int, effect: float) -> float:
        norm = _lengths(seed, 0)[:, 0]  # [layer, token]
        norm = torch.cat([norm, _lengths(seed + 5000, 0)[:, 0]], 1)
        void, change, _ = voids_of_norms(norm)
        if how == "random":
            other = random_voids(void, seed=seed)
        elif how == "fixed":
            other = fixed_voids(void)
        else:
            other = magnitude_matched_voids(void, change.abs())
        cost = torch.rand(void.shape, generator=torch.Generator().manual_seed(seed + 1)) + effect * ~void
        known = (void.sum(0) > 0) & (other.sum(0) > 0)
        own, less = ((cost * m).sum(0)[known] / m.sum(0)[known] for m in (void, other))
        return paired(-own, -less, seed)

    return case


CASES: dict[str, Case] = {
    "trajectory, net change among 39 walks of turned steps": of_path("random"),
    "trajectory, aligned change among 39 other orders": of_path("shuffle"),
    "TraceScore, area on other traces": trace_score,
    "signal_areas, best of three, corrected": areas,
    "select_traces, best of 8 against the first": selected,
    "commitment_layer, beside another position's token": committed,
    "early_answers, beside another row's rationale": early,
    "voids, prompt against response": phases,
    "random_voids, cost of the skips": of_voids("random"),
    "fixed_voids, cost of the skips": of_voids("fixed"),
    "magnitude_matched_voids, cost of the skips": of_voids("magnitude"),
}
