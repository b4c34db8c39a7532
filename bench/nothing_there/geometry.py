"""Clouds of noise: no graph, no classes, no common direction, no bend."""

from typing import Any

import torch
from torch import Tensor

from bench.nothing_there.case import Case, above, found, paired, rows, tokens, told
from inscape.read.geometry import (
    alignment,
    anisotropy,
    class_separation,
    dirichlet_energy,
    spectral_embedding,
    spectrum,
    subspace_angles,
    two_nn,
    wasserstein,
)  # fmt: skip
from inscape.read.geometry.context_sweep import context_sweep
from inscape.read.geometry.modular import ModularCode, modular_accuracy
from inscape.read.geometry.two_way import transfer_accuracy
from inscape.read.geometry.updates import contributions
from inscape.tasks.graph_walk import graph_walk


def ring(n: int = 12) -> Tensor:
    return torch.eye(n).roll(1, 0) + torch.eye(n).roll(-1, 0)


def on_a_ring(seed: int, effect: float) -> Tensor:
    """Vectors of twelve nodes, at random or with a circle in them."""
    angle = torch.arange(12) * torch.pi / 6
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(seed))
    x[:, :2] += 2 * effect * torch.stack([angle.cos(), angle.sin()], 1)
    return x


def energy(seed: int, effect: float) -> float:
    """Dirichlet energy on a ring, names exchanged."""
    made = dirichlet_energy(on_a_ring(seed, effect), ring(), n=199, seed=seed)
    assert made.p is not None
    return float(made.p)


def of_alignment(how: Any) -> Case:
    """Vectors of nodes aligned with the spectral layout of their graph, names exchanged."""

    def case(seed: int, effect: float) -> float:
        layout = spectral_embedding(ring())
        made = alignment(on_a_ring(seed, effect), layout, how=how, components=3, n=199, seed=seed)
        assert made.p is not None
        return made.p

    return case


def swept(seed: int, effect: float) -> float:
    """Words of a walk whose vectors are random, or lie as the ring does: what the first layer's means say of it."""
    model = told(seed)
    walks = graph_walk(model, 2, graph="ring", size={"nodes": 12}, words=[f"w{i}" for i in range(20, 44)], length=40,
                       seed=seed)  # fmt: skip
    if effect:
        with torch.no_grad():
            model.module.transformer.wte.weight[walks.tokens, :6] += 2 * on_a_ring(seed, 2.0)
    made = context_sweep(model, walks, "layers.0.resid_post", [40], window=40, shuffled=False, n=199, seed=seed)
    return float(made.aligned_p[0, 0])


def modular(seed: int, effect: float) -> float:
    """Residues of numbers never seen, read above those of 19 shuffles of residues among numbers."""
    g = torch.Generator().manual_seed(seed)
    values = torch.arange(40)
    x = torch.randn(40, 8, generator=g) + 3 * effect * torch.randn(5, 8, generator=g)[values % 5]
    null, value = [], 0.0
    for i in range(19):
        value, shuffled = modular_accuracy(x, values, ModularCode(5), seed=100 * seed + i)
        assert shuffled is not None
        null.append(shuffled)
    return above(value, null)


def two_way(seed: int, effect: float) -> float:
    """Cells of three classes and four indices decoded from their parts, beside 19 shuffles of the indices."""
    g = torch.Generator().manual_seed(seed)
    classes, indices = torch.arange(12) // 4, torch.arange(12) % 4
    x = torch.randn(12, 8, generator=g) + 4 * effect * torch.randn(4, 8, generator=g)[indices]
    made = [transfer_accuracy(x, classes, indices, seed=100 * seed + i) for i in range(19)]
    return above(made[0][0], [m[1] for m in made if m[1] is not None])


def angles(seed: int, effect: float) -> float:
    """Two planes of a space of twelve dimensions, or two that share a direction."""
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 12, generator=g), torch.randn(2, 12, generator=g)
    b[0] += 5 * effect * a[0]
    made = subspace_angles(a, b, n=199, seed=seed)
    assert made.p is not None
    return made.p


def one_way(seed: int, effect: float) -> float:
    """Mean cosine above two deviations of what even directions give (0.023)."""
    made = anisotropy(rows(seed, 0, n=60)[0] + effect)
    return found(made.value > made.chance)


def bent(seed: int, effect: float) -> float:
    """Fewer dimensions than normal rows of the same covariance have, among 19 such sets; planted: a bent sheet."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(100, 5, generator=g)
    if effect:
        u = torch.rand(100, 2, generator=g) * 6
        x = torch.stack([u[:, 0].cos(), u[:, 0].sin(), u[:, 1].cos(), u[:, 1].sin(), (u[:, 0] + u[:, 1]).sin()], 1)
    made = [two_nn(x, seed=100 * seed + i) for i in range(19)]
    return above(made[0].value, [m.gaussian for m in made if m.gaussian is not None], "less")


def uneven(seed: int, effect: float) -> float:
    """A smaller participation ratio than units shuffled apart have, 19 times."""
    x, _ = rows(seed, 0, n=60)
    x[:, 1] += effect * x[:, 0]
    made = [spectrum(x, seed=100 * seed + i) for i in range(19)]
    null = [m.shuffled.participation_ratio for m in made if m.shuffled is not None]
    return above(made[0].participation_ratio, null, "less")


def separated(seed: int, effect: float) -> float:
    """Variance between two classes, labels shuffled."""
    made = class_separation(*rows(seed, effect, n=60), silhouette=False, n=99, seed=seed)
    assert made.p is not None
    return made.p


def of_distance(grouped: bool) -> Case:
    """The unit that differs most between two sets, after looking at all; grouped: rows of ten items a set."""

    def case(seed: int, effect: float) -> float:
        g = torch.Generator().manual_seed(seed)
        item = torch.arange(40) // 4 if grouped else torch.arange(40)
        x, y = (torch.randn(40, 6, generator=g)[item] + 0.3 * torch.randn(40, 6, generator=g) for _ in range(2))
        y[:, 0] += 2 * effect
        by = (item.tolist(), item.tolist()) if grouped else None
        made = wasserstein(x, y, by=by, n=99, seed=seed)
        assert made.p_family is not None
        return float(made.p_family.min())

    return case


def added(seed: int, effect: float) -> float:
    """The cosine of what the last layer adds with the stream, beside that of what it adds at another token."""
    model, ids = told(seed, effect), tokens(seed, 8, 6)
    made = [contributions(model, [one], seed=seed) for one in ids.tolist()]
    own, other = (torch.stack([m["mlp_out"][2] for m in side]) for side in
                  ([m.cosine for m in made], [m.control for m in made]))  # fmt: skip
    return paired(own, other, seed)


CASES: dict[str, Case] = {
    "dirichlet_energy, names exchanged": energy,
    "alignment by Procrustes, names exchanged": of_alignment("procrustes"),
    "alignment by CCA, names exchanged": of_alignment("cca"),
    "alignment by distance correlation, names exchanged": of_alignment("distance_corr"),
    "context_sweep, alignment with the graph": swept,
    "ModularCode, residues shuffled among numbers": modular,
    "TwoWay, transfer_accuracy, indices shuffled": two_way,
    "subspace_angles, random planes": angles,
    "anisotropy, above chance": one_way,
    "two_nn, fewer dimensions than 19 normal sets": bent,
    "spectrum, more uneven than 19 shuffles of units": uneven,
    "class_separation, labels shuffled": separated,
    "wasserstein, any of six units": of_distance(False),
    "wasserstein, any of six units, rows of items": of_distance(True),
    "contributions, cosine beside another token's part": added,
}
