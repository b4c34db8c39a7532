"""Two sites that have nothing in common, or one of eight directions."""

from typing import Any

import torch
from torch import Tensor

from bench.nothing_there.case import Case, above, found
from inscape.read.similarity import CCA, RSA, MutualKNN, Procrustes, cka, map_layers, similarity, similarity_matrix


def two_sites(seed: int, effect: float, n: int = 60) -> tuple[Tensor, Tensor]:
    """Rows of two sites that have nothing, or one of eight directions, in common."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 8, generator=g), torch.randn(n, 10, generator=g)
    y[:, 0] += 2 * effect * x[:, 0]
    x[:, 0] *= 2
    return x, y


def of_measure(measure: Any) -> Case:
    """A measure of two sites against 99 shuffled pairings of their rows."""

    def case(seed: int, effect: float) -> float:
        made = similarity(*two_sites(seed, effect), measure, n=99, seed=seed)
        assert made.p is not None
        return made.p

    return case


def crossnobis(seed: int, effect: float) -> float:
    """Twelve conditions in two folds at either site."""
    conditions, folds = torch.arange(48) % 12, torch.arange(48) // 24
    g = torch.Generator().manual_seed(seed)
    one, two = torch.randn(12, 8, generator=g), torch.randn(12, 8, generator=g)
    two = two + 2 * effect * one
    x, y = (v[conditions] + 0.5 * torch.randn(48, 8, generator=g) for v in (one, two))
    measure = RSA("crossnobis", "pearson", conditions=conditions.tolist(), folds=folds.tolist())
    made = similarity(x, y, measure, n=99, seed=seed)
    assert made.p is not None
    return made.p


def of_cka(**settings: Any) -> Case:
    """CKA's own p value, from the exact moments of shuffled pairing."""

    def case(seed: int, effect: float) -> float:
        made = cka(*two_sites(seed, effect), **settings)
        assert made.p is not None
        return made.p

    return case


def cka_interval(seed: int, effect: float) -> float:
    """The interval of the debiased CKA lies above 0 (one side of 95 %: 0.025)."""
    made = cka(*two_sites(seed, effect), resamples=100, seed=seed)
    assert made.interval is not None
    return found(made.interval.low > 0)


def pairs_of_sites(seed: int, effect: float) -> float:
    """All pairs of three sites at once: one pair by its own p."""
    x, y = two_sites(seed, effect)
    made = similarity_matrix({"x": x, "y": y, "z": two_sites(seed + 5000, 0)[0]}, measure=Procrustes(), n=99, seed=seed)
    assert made.p is not None
    return float(made.p[0, 1])


def of_maps(how: str) -> Case:
    """Held-out R2 of a map among those of 19 maps learned from shuffled pairs."""

    def case(seed: int, effect: float) -> float:
        x, y = two_sites(seed, 2 * effect)
        made = [map_layers({"x": x}, {"y": y}, how=how, seed=19 * seed + i) for i in range(19)]
        null = [float(m.shuffled_r2) for m in made if m.shuffled_r2 is not None]
        return above(float(made[0].r2), null)

    return case


CASES: dict[str, Case] = {
    "cka, debiased": of_cka(),
    "cka, not debiased": of_cka(debiased=False),
    "cka, rbf": of_cka(kernel="rbf"),
    "cka, interval above 0": cka_interval,
    "RSA, 99 shuffled pairings": of_measure(RSA()),
    "RSA, crossnobis, 99 shuffled pairings": crossnobis,
    "Procrustes, 99 shuffled pairings": of_measure(Procrustes()),
    "Procrustes distance, 99 shuffled pairings": of_measure(Procrustes("distance")),
    "CCA, 99 shuffled pairings": of_measure(CCA("cca")),
    "SVCCA, 99 shuffled pairings": of_measure(CCA("svcca")),
    "PWCCA, 99 shuffled pairings": of_measure(CCA("pwcca")),
    "MutualKNN, 99 shuffled pairings": of_measure(MutualKNN()),
    "MutualKNN, euclidean, 99 shuffled pairings": of_measure(MutualKNN(metric="euclidean")),
    "similarity_matrix, a pair of three sites": pairs_of_sites,
    "map_layers, ridge, R2 among 19 of shuffled pairs": of_maps("ridge"),
    "map_layers, orthogonal, R2 among 19 of shuffled pairs": of_maps("orthogonal"),
}
