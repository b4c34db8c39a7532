"""Probes of rows that say nothing of the labels, and of rows that do."""

import torch

from bench.nothing_there.case import Case, above, found, rows
from inscape.core.interval import Interval
from inscape.read.compare_scores import compare_scores
from inscape.read.probes import (
    CCS,
    LDA,
    LogisticProbe,
    MeanDifference,
    MLPProbe,
    RidgeProbe,
    SiteScores,
    probe_sites,
    selectivity,
    transfer,
)  # fmt: skip
from inscape.read.probes.direction_transfer import direction_transfer


def p_of(scores: SiteScores) -> float:
    """How often shuffled labels give the only site as much."""
    assert scores.null is not None
    return above(float(scores.value), scores.null[:, 0])


def of_probe(probe: object) -> Case:
    """A permutation test of held-out accuracy (or R2), all of the fit repeated on shuffled labels."""

    def case(seed: int, effect: float) -> float:
        x, y = rows(seed, effect)
        target = y.double() if isinstance(probe, RidgeProbe) else y
        return p_of(probe_sites({"x": x}, target, probe=probe, test=torch.arange(60, 120), shuffles=39, seed=seed))

    return case


def best_of_six_layers(seed: int, effect: float) -> float:
    """The best of six layers, corrected for having looked at all; one of them knows."""
    layers = {f"{i}": rows(1000 * i + seed, effect if i == 3 else 0)[0] for i in range(6)}
    y = rows(seed, 0)[1]
    scores = probe_sites(layers, y, test=torch.arange(60, 120), shuffles=19, seed=seed)
    return float(scores.p.min())


def of_interval(probe: object) -> Case:
    """Wilson's interval of held-out accuracy lies above a half (one side of 95 %: 0.025)."""

    def case(seed: int, effect: float) -> float:
        x, y = rows(seed, effect)
        fitted = probe.fit(x[:60], y[:60])  # type: ignore[attr-defined]
        score = fitted.score(x[60:], y[60:], interval=True)
        assert isinstance(score, Interval)
        return found(score.low > 0.5)

    return case


def grouped_rows(seed: int, effect: float) -> float:
    """Five rows of each of 24 groups that carry one label: groups held out together, shuffled together."""
    g = torch.Generator().manual_seed(seed)
    group = torch.arange(24).repeat_interleave(5)
    y = (torch.arange(24) % 2 == 0)[group]
    x = torch.randn(24, 8, generator=g)[group] + 0.1 * torch.randn(120, 8, generator=g)
    x[:, 0] += 2 * effect * y
    return p_of(probe_sites({"x": x}, y, groups=group, folds=4, shuffles=19, seed=seed))


def ccs(seed: int, effect: float) -> float:
    """Accuracy of CCS in the better sense, beside that of 39 random directions."""
    g = torch.Generator().manual_seed(seed)
    true = torch.rand(80, generator=g) < 0.5
    sign = torch.where(true, 1.0, -1.0)[:, None] * torch.eye(8)[0] * 2 * effect
    x, y = sign + torch.randn(80, 8, generator=g), -sign + torch.randn(80, 8, generator=g)
    held = (x[40:], y[40:], true[40:])
    value = CCS(starts=4, steps=60, seed=seed).fit(x[:40], y[:40]).score(*held)
    null = [CCS(control="random", seed=1000 + i).fit(x[:40], y[:40]).score(*held) for i in range(39)]
    return above(float(value), [float(v) for v in null])


def transferred(seed: int, effect: float) -> float:
    """A probe of one data set on another: its interval lies above a half."""
    x, y = rows(seed, effect)
    other, label = rows(seed + 5000, effect)
    scores = transfer({"a": LogisticProbe().fit(x, y)}, {"b": other}, label, control=None)
    return found(float(scores.low[0, 0]) > 0.5)


def selective(seed: int, effect: float) -> float:
    """Accuracy above that on labels drawn for each of forty types, which no row tells."""
    g = torch.Generator().manual_seed(seed)
    types = torch.arange(160) % 40
    x = torch.randn(160, 16, generator=g)
    y = torch.rand(160, generator=g) < 0.5
    x[:, 0] += 4 * effect * y
    made = selectivity(
        MeanDifference(), x[:80], y[:80], x[80:], y[80:], types=types[:80], held_types=types[80:], by=types[80:]
    )
    return found(made.value.low > 0)


def of_direction(what: str) -> Case:
    """The direction of one model in another: their cosine, and what it reads there beside random ones."""

    def case(seed: int, effect: float) -> float:
        x, y = rows(seed, effect, n=80)
        other = rows(seed + 5000, effect, n=80)[0]
        made = direction_transfer(x, other, y, n=199, seed=seed)
        return made.p if what == "cosine" else found(made.moved.value > made.random)

    return case


def of_scores(what: str) -> Case:
    """A score against shuffled labels, and against another score that says as much."""

    def case(seed: int, effect: float) -> float:
        x, y = rows(seed, 0, n=80)
        plain = x[:, 0] + y
        scores = {"plain": plain, "mine": x[:, 1] + y * (2 * effect + (what == "gain"))}
        made = compare_scores(scores, y, against="plain", repeats=2, n=99, seed=seed)["mine"]
        if what == "p":
            return made.p
        assert made.gain is not None
        return found(made.gain.low > 0)

    return case


CASES: dict[str, Case] = {
    "LogisticProbe, held-out accuracy against 39 shuffles": of_probe(LogisticProbe(tol=1e-4)),
    "MeanDifference, held-out accuracy against 39 shuffles": of_probe(MeanDifference()),
    "LDA, held-out accuracy against 39 shuffles": of_probe(LDA()),
    "RidgeProbe, held-out R2 against 39 shuffles": of_probe(RidgeProbe()),
    "MLPProbe, interval above a half": of_interval(MLPProbe(hidden=8, steps=40, batch=60, lr=3e-2)),
    "MeanDifference, interval above a half": of_interval(MeanDifference()),
    "probe_sites, best of six layers, corrected": best_of_six_layers,
    "probe_sites, rows in groups": grouped_rows,
    "CCS, accuracy against 39 random directions": ccs,
    "transfer, interval above a half": transferred,
    "selectivity, interval above 0": selective,
    "direction_transfer, cosine among random directions": of_direction("cosine"),
    "direction_transfer, accuracy above 95 of 100 random directions": of_direction("accuracy"),
    "compare_scores, p of shuffled labels": of_scores("p"),
    "compare_scores, gain over as good a score": of_scores("gain"),
}
