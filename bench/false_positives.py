"""How often does each measure find something where there is nothing, and how often where there is?

Every row of `CASES` is a small function of a seed and an effect that gives a p value (or whether something was found):
effect 0 is random data, 1 planted data. A row is run with 200 seeds of random data at level 0.05: the share found, with
its binomial interval, must not lie above 0.05; and with 50 seeds of planted data, whose share found is the power.
To add a measure, add a function and its line. `python -m bench.false_positives NAME ...` runs the rows whose name has
one of these words in it.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.common import Row, set_up, write
from inscape.core import nulls
from inscape.core.interval import Interval
from inscape.read.geometry.graph import alignment, dirichlet_energy, spectral_embedding
from inscape.read.geometry.modular import ModularCode, modular_accuracy
from inscape.read.probes import CCS, LDA, LogisticProbe, MeanDifference, RidgeProbe, SiteScores, probe_sites, transfer
from inscape.read.similarity import CCA, RSA, MutualKNN, Procrustes, cka, similarity

LEVEL, SEEDS, POWER_SEEDS = 0.05, 200, 50
Case = Callable[[int, float], float]  # p value; 0.0 and 1.0 where a measure says yes or no


def rows(seed: int, effect: float, n: int = 120, d: int = 8) -> tuple[Tensor, Tensor]:
    """Rows of noise, and a yes or no that shifts the first unit by `effect`."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2 == 0
    x = torch.randn(n, d, generator=g)
    x[:, 0] += 1.5 * effect * y
    return x, y


def p_of(found: SiteScores) -> float:
    """How often shuffled labels give the only site as much."""
    assert found.null is not None
    return float(nulls.permutation_p(float(found.value), found.null[:, 0]))


def of_probe(probe: object) -> Case:
    """A permutation test of held-out accuracy (or R2), all of the fit repeated on shuffled labels."""

    def case(seed: int, effect: float) -> float:
        x, y = rows(seed, effect)
        target = y.double() if isinstance(probe, RidgeProbe) else y
        found = probe_sites({"x": x}, target, probe=probe, test=torch.arange(60, 120), shuffles=39, seed=seed)
        return p_of(found)

    return case


def best_of_six_layers(seed: int, effect: float) -> float:
    """The best of six layers, corrected for having looked at all; one of them knows."""
    layers = {f"{i}": rows(1000 * i + seed, effect if i == 3 else 0)[0] for i in range(6)}
    y = rows(seed, 0)[1]
    found = probe_sites(layers, y, test=torch.arange(60, 120), shuffles=39, seed=seed)
    return float(found.p.min())


def interval_above_chance(seed: int, effect: float) -> float:
    """Wilson's interval of held-out accuracy lies above a half (one side of 95 %: 0.025)."""
    x, y = rows(seed, effect)
    found = MeanDifference().fit(x[:60], y[:60]).score(x[60:], y[60:], interval=True)
    assert isinstance(found, Interval)
    return 0.0 if found.low > 0.5 else 1.0


def grouped_rows(seed: int, effect: float) -> float:
    """Five rows of each of 24 groups that carry one label: groups held out together, shuffled together."""
    g = torch.Generator().manual_seed(seed)
    group = torch.arange(24).repeat_interleave(5)
    y = (torch.arange(24) % 2 == 0)[group]
    x = torch.randn(24, 8, generator=g)[group] + 0.1 * torch.randn(120, 8, generator=g)
    x[:, 0] += 2 * effect * y
    found = probe_sites({"x": x}, y, groups=group, folds=4, shuffles=39, seed=seed)
    return p_of(found)


def ccs(seed: int, effect: float) -> float:
    """Accuracy of CCS in the better sense, beside that of 39 random directions."""
    g = torch.Generator().manual_seed(seed)
    true = torch.rand(80, generator=g) < 0.5
    sign = torch.where(true, 1.0, -1.0)[:, None] * torch.eye(8)[0] * 2 * effect
    x, y = sign + torch.randn(80, 8, generator=g), -sign + torch.randn(80, 8, generator=g)
    held = (x[40:], y[40:], true[40:])
    found = CCS(starts=4, steps=60, seed=seed).fit(x[:40], y[:40]).score(*held)
    null = [CCS(control="random", seed=1000 + i).fit(x[:40], y[:40]).score(*held) for i in range(39)]
    return float(nulls.permutation_p(float(found), torch.tensor(null, dtype=torch.float64)))


def transferred(seed: int, effect: float) -> float:
    """A probe of one data set on another: its interval lies above a half."""
    x, y = rows(seed, effect)
    other, label = rows(seed + 5000, effect)
    found = transfer({"a": LogisticProbe().fit(x, y)}, {"b": other}, label, control=None)
    return 0.0 if float(found.low[0, 0]) > 0.5 else 1.0


def two_sites(seed: int, effect: float, n: int = 60) -> tuple[Tensor, Tensor]:
    """Rows of two sites that have nothing, or one of eight directions, in common."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 8, generator=g), torch.randn(n, 10, generator=g)
    y[:, 0] += 2 * effect * x[:, 0]
    x[:, 0] *= 2
    return x, y


def of_similarity(measure: Any) -> Case:
    """A measure of two sites against 99 shuffled pairings of their rows."""

    def case(seed: int, effect: float) -> float:
        found = similarity(*two_sites(seed, effect), measure, n=99, seed=seed)
        assert found.p is not None
        return found.p

    return case


def of_cka(**settings: Any) -> Case:
    """CKA's own p value, from the exact moments of shuffled pairing."""

    def case(seed: int, effect: float) -> float:
        found = cka(*two_sites(seed, effect), **settings)
        assert found.p is not None
        return found.p

    return case


def on_a_ring(seed: int, effect: float) -> tuple[Tensor, Tensor]:
    """Vectors of twelve nodes, at random or with a circle in them, and the graph of a ring."""
    g = torch.Generator().manual_seed(seed)
    angle = torch.arange(12) * torch.pi / 6
    x = torch.randn(12, 6, generator=g)
    x[:, :2] += 2 * effect * torch.stack([angle.cos(), angle.sin()], 1)
    ring = torch.eye(12).roll(1, 0) + torch.eye(12).roll(-1, 0)
    return x, ring


def energy(seed: int, effect: float) -> float:
    """Dirichlet energy on a ring, names exchanged."""
    found = dirichlet_energy(*on_a_ring(seed, effect), n=199, seed=seed)
    assert found.p is not None
    return float(found.p)


def of_alignment(how: Any) -> Case:
    """Vectors of nodes aligned with the spectral layout of their graph, names exchanged."""

    def case(seed: int, effect: float) -> float:
        x, ring = on_a_ring(seed, effect)
        found = alignment(x, spectral_embedding(ring), how=how, components=3, n=199, seed=seed)
        assert found.p is not None
        return found.p

    return case


def modular(seed: int, effect: float) -> float:
    """Residues of numbers never seen, read above those of 19 shuffles of residues among numbers."""
    g = torch.Generator().manual_seed(seed)
    values = torch.arange(40)
    x = torch.randn(40, 8, generator=g) + 3 * effect * torch.randn(5, 8, generator=g)[values % 5]
    null = []
    for i in range(19):
        found, shuffled = modular_accuracy(x, values, ModularCode(5), seed=100 * seed + i)
        assert shuffled is not None
        null.append(shuffled)
    return float(nulls.permutation_p(found, torch.tensor(null, dtype=torch.float64)))


def of_null_kit(kind: str) -> Case:
    """The tests of the null kit, on 60 items."""

    def case(seed: int, effect: float) -> float:
        x, y = rows(seed, effect, n=60)
        score = x[:, 0]
        if kind == "auc":
            return nulls.auc(score, y, n=199, seed=seed).p
        if kind == "correlation":
            return nulls.correlation(score, y.double() + 0.1 * x[:, 1], n=199, seed=seed).p
        if kind == "sign flip":
            return nulls.sign_flip_test(x[:, 1] + effect, n=199, seed=seed).p
        return 0.0 if nulls.bootstrap(x[:, 1] + effect, seed=seed).excludes(0.0) else 1.0

    return case


CASES: dict[str, Case] = {
    "cka, debiased": of_cka(),
    "cka, rbf": of_cka(kernel="rbf"),
    "RSA, 99 shuffled pairings": of_similarity(RSA()),
    "Procrustes, 99 shuffled pairings": of_similarity(Procrustes()),
    "SVCCA, 99 shuffled pairings": of_similarity(CCA("svcca")),
    "PWCCA, 99 shuffled pairings": of_similarity(CCA("pwcca")),
    "MutualKNN, 99 shuffled pairings": of_similarity(MutualKNN()),
    "dirichlet_energy, names exchanged": energy,
    "alignment by Procrustes, names exchanged": of_alignment("procrustes"),
    "alignment by distance correlation, names exchanged": of_alignment("distance_corr"),
    "ModularCode, residues shuffled among numbers": modular,
    "nulls.auc": of_null_kit("auc"),
    "nulls.correlation": of_null_kit("correlation"),
    "nulls.sign_flip_test": of_null_kit("sign flip"),
    "nulls.bootstrap, 95 % interval without 0": of_null_kit("bootstrap"),
    "LogisticProbe, held-out accuracy against 39 shuffles": of_probe(LogisticProbe(tol=1e-4)),
    "MeanDifference, held-out accuracy against 39 shuffles": of_probe(MeanDifference()),
    "LDA, held-out accuracy against 39 shuffles": of_probe(LDA()),
    "RidgeProbe, held-out R2 against 39 shuffles": of_probe(RidgeProbe()),
    "probe_sites, best of six layers, corrected": best_of_six_layers,
    "probe_sites, rows in groups": grouped_rows,
    "MeanDifference, interval above a half": interval_above_chance,
    "CCS, accuracy against 39 random directions": ccs,
    "transfer, interval above a half": transferred,
}


def main(words: Sequence[str] = ()) -> None:
    set_up()
    torch.set_num_threads(1)  # small tensors
    seeds, planted = SEEDS, POWER_SEEDS
    if "INSCAPE_BENCH_SMALL" in os.environ:
        seeds, planted = 10, 5
    made: list[Row] = []
    for name, case in CASES.items():
        if words and not any(w.lower() in name.lower() for w in words):
            continue
        found = nulls.share([case(seed, 0.0) <= LEVEL for seed in range(seeds)])
        power = nulls.share([case(10_000 + seed, 1.0) <= LEVEL for seed in range(planted)])
        met = found.low <= LEVEL
        print(f"  {name}: found in noise {found}, planted {power}  ({'kept' if met else 'ABOVE 0.05'})", flush=True)
        made.append(
            {
                "title": "false positives",
                "case": name,
                "found": [found.value, found.low, found.high],
                "power": [power.value, power.low, power.high],
                "seeds": seeds,
                "met": met,
            }
        )
    if not words and seeds == SEEDS:
        write("false_positives", made, level=LEVEL)


if __name__ == "__main__":
    main(sys.argv[1:])
