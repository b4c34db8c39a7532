"""Do vectors lie as the nodes of a graph do? Energy on the graph, the graph's own layout, and how well layouts agree.

Rows are nodes (class means, words, days, time steps), in the order of the graph's rows. Every number stands beside the
same number with the nodes' names exchanged, which keeps the vectors and the graph and breaks only which is which.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls.permutation import permutation_p
from inscape.core.nulls.values import check_draws, generator, shuffles

How = Literal["procrustes", "cca", "distance_corr"]
EQUAL = 1e-9  # relative: eigenvalues nearer than this are one
HELD = 1 << 22  # numbers held at once while names are exchanged


@dataclass(frozen=True, eq=False)
class DirichletEnergy:
    """How far neighbours lie apart, beside the same with the nodes' names exchanged.

    value: the energy. expected: its exact mean over all exchanges of names. ratio: value / expected; 1 when the graph
    means nothing, below 1 when neighbours lie together. null: values under exchanged names, the same exchanges at every
    place (fit for `max_over_family`); p: how often one is as low. n_nodes: nodes with a value; weight: of the edges
    between them.
    """

    value: Float[Tensor, "*axes"]
    expected: Float[Tensor, "*axes"]
    ratio: Float[Tensor, "*axes"]
    p: Float[Tensor, "*axes"] | None
    null: Float[Tensor, "draws *axes"] | None
    n_nodes: Int[Tensor, "*axes"]
    weight: Float[Tensor, "*axes"]

    def __float__(self) -> float:
        return float(self.value)


@dataclass(frozen=True, eq=False)
class SpectralEmbedding:
    """The graph's own layout: eigenvectors of its Laplacian, smoothest first, the constant one left out.

    vectors: orthonormal columns. values: their eigenvalues, which are their energies. is_cut: the last column has an
    equal among those left out (a ring has pairs, for instance), so that which of them is kept is arbitrary.
    """

    vectors: Float[Tensor, "nodes k"]
    values: Float[Tensor, " k"]
    is_cut: bool


@dataclass(frozen=True, eq=False)
class Alignment:
    """How well two layouts of the same nodes agree, 1 at best, beside the same with the nodes' names exchanged."""

    value: float
    p: float | None
    null: Float[Tensor, " draws"] | None
    how: str
    n_nodes: int

    def __float__(self) -> float:
        return self.value


def dirichlet_energy(
    x: Float[Tensor, "*axes nodes d"],
    graph: Shaped[Tensor, "rows columns"],
    *,
    normalize: Literal["variance"] | None = "variance",
    pairs: Literal["unordered", "ordered"] = "unordered",
    mask: Bool[Tensor, "*axes nodes"] | None = None,
    control: Literal["shuffle"] | None = "shuffle",
    n: int = 1000,
    seed: int = 0,
) -> DirichletEnergy:
    """The energy of vectors on a graph: `E = sum_{i<j} A_ij |x_i - x_j|^2`, beside exchanged names.

    Low when neighbours in the graph lie together. normalize: "variance" divides by
    `sum_i |x_i - mean|^2 / (nodes - 1)`, so that E does not fall when all vectors shrink or move together; its mean
    over exchanged names is then exactly 2 x the weight of the edges. None keeps squared units of x.
    pairs: "ordered" counts every edge twice, as some papers do. mask: nodes that have a value; the others are left out
    with their edges (windows that miss a word).

    Axes before the nodes (layers, context lengths) are measured one by one. graph: symmetric weights, diagonal ignored.
    Choose `alignment` when the layout of the graph is itself the claim; energy asks only that edges are short.
    In a text made by walking on the graph neighbours also stand next to each other: energy on another graph of the same
    nodes is the control for that, which exchanged names are not.
    Cost: nodes^2 d, and n x edges, at each place.
    Raises: InputError for a graph that is directed, has negative weights or no edge between nodes with a value, or
    vectors that are all alike; ShapeError when vectors and graph have different numbers of nodes.
    Source: Park et al. 2024, arXiv:2501.00070, section 4 (ordered sum, standardised); the exact mean is ours.
    """
    if normalize not in ("variance", None) or pairs not in ("unordered", "ordered") or control not in ("shuffle", None):
        raise InputError(
            f"normalize={normalize!r}, pairs={pairs!r}, control={control!r}: there are 'variance' or None, 'unordered' "
            "or 'ordered', 'shuffle' or None."
        )
    check_draws(n)
    weights = _weights(graph, x.shape[-2])
    axes = x.shape[:-2]
    flat = x.detach().cpu().double().reshape(-1, *x.shape[-2:])
    kept = torch.ones(flat.shape[:2], dtype=torch.bool) if mask is None else mask.cpu().reshape(flat.shape[:2])
    twice = 2.0 if pairs == "ordered" else 1.0
    found = [
        _energy(rows[k], weights[k][:, k], normalize, n if control else 0, seed)
        for rows, k in zip(flat, kept, strict=True)
    ]
    value, expected, weight = (
        twice * torch.tensor([f[i] for f in found], dtype=torch.float64).reshape(axes) for i in range(3)
    )
    null = twice * torch.stack([f[3] for f in found], 1).reshape(n, *axes) if control else None
    p = permutation_p(value, null, "less") if null is not None else None
    n_nodes = kept.sum(1).reshape(axes)
    return DirichletEnergy(value, expected, value / expected, p, null, n_nodes, weight / twice)


def spectral_embedding(graph: Shaped[Tensor, "rows columns"], k: int = 2) -> SpectralEmbedding:
    """The k smoothest layouts of a graph: eigenvectors of `L = D - A` after the constant one.

    Among centred orthonormal layouts these have the least `dirichlet_energy`, which is their eigenvalue: what vectors
    arrange to when they minimise it. Signs are fixed (the entry of largest magnitude is positive); where eigenvalues
    are equal only the plane they span means anything: compare with `alignment`, which turns.
    Cost: one eigendecomposition, nodes^3.
    Raises: InputError for a graph in several pieces, a directed one, or more layouts than nodes less one.
    Source: Belkin & Niyogi 2003, unnormalised; used for representations by Park et al. 2024, arXiv:2501.00070.
    """
    weights = _weights(graph, len(graph))
    if not 1 <= k < len(weights):
        raise InputError(f"{k} layouts of {len(weights)} nodes: there are {len(weights) - 1} besides the constant one.")
    values, vectors = torch.linalg.eigh(torch.diag(weights.sum(1)) - weights)
    near = EQUAL * float(values[-1])
    pieces = int((values <= near).sum())
    if pieces != 1:
        raise InputError(
            f"the graph is in {pieces} pieces, which have no layout against each other.\n  embed each by itself."
        )
    chosen = vectors[:, 1 : k + 1]
    at = chosen.abs().argmax(0, keepdim=True)
    chosen = chosen * chosen.gather(0, at).sign()
    is_cut = k + 1 < len(values) and float(values[k + 1] - values[k]) <= near
    return SpectralEmbedding(chosen, values[1 : k + 1], is_cut)


def alignment(
    x: Float[Tensor, "nodes d"],
    target: Float[Tensor, "rows k"] | SpectralEmbedding,
    *,
    how: How = "procrustes",
    components: int | None = None,
    control: Literal["shuffle"] | None = "shuffle",
    n: int = 1000,
    seed: int = 0,
) -> Alignment:
    """How well vectors lie as a target layout of the same nodes does, beside exchanged names.

    how: "procrustes": R^2 after moving, turning and scaling, `|X^T T|_*^2 / (|X|^2 |T|^2)`, the same from either side:
    the shape itself must agree. "cca": mean squared canonical correlation, over the smaller of both widths: a linear
    map each may stretch. "distance_corr": distance correlation without its bias (squared; may be a little below 0): any
    dependence, also a bent one.
    components: keep only so many leading principal components of x first. All dimensions are kept by default, which
    asks of procrustes that the target be most of what varies; 2 asks "do the top two components show it?". cca needs
    it where d is not well below the number of nodes, as it then fits anything.

    Cost: one decomposition of x; n products of nodes x widths (distance_corr: nodes^2).
    Raises: InputError for layouts that do not vary, and for a cca that would fit any target; ShapeError when x and the
    target have different nodes.
    Source: Gower 1975; Hotelling 1936; Szekely & Rizzo 2013 (bias-corrected, eq. 3.4). p: Phipson & Smyth 2010.
    """
    if how not in get_args(How) or control not in ("shuffle", None):
        raise InputError(f"how={how!r}, control={control!r}: there are {', '.join(get_args(How))}; 'shuffle' or None.")
    check_draws(n)
    goal = target.vectors if isinstance(target, SpectralEmbedding) else target
    if len(goal) != len(x):
        raise ShapeError(f"an alignment takes the same nodes on both sides; got {len(x)} and {len(goal)}.")
    mine, goal = _scores(x, "x"), _scores(goal, "the target")
    if components is not None:
        if not 1 <= components <= mine.shape[1]:
            raise InputError(f"components={components}: these {len(x)} vectors vary in {mine.shape[1]} dimensions.")
        mine = mine[:, :components]
    of = {"procrustes": _procrustes, "cca": _cca, "distance_corr": _distance_corr}[how](mine, goal)
    every = torch.arange(len(x))[None]
    value = float(of(every)[0])
    if control is None:
        return Alignment(value, None, None, how, len(x))
    null = torch.cat([of(orders) for orders in _orders(len(x), n, seed, len(x) * max(mine.shape[1], len(x)))])
    return Alignment(value, float(permutation_p(value, null)), null, how, len(x))


def _weights(graph: Tensor, nodes: int) -> Float[Tensor, "nodes nodes"]:
    if graph.shape != (nodes, nodes):
        raise ShapeError(
            f"a graph of {nodes} nodes is a matrix {nodes} x {nodes}; got {tuple(graph.shape)}.\n"
            "  one row of vectors belongs to each node, in the graph's order."
        )
    weights = graph.detach().cpu().double()
    if not torch.equal(weights, weights.T):
        raise InputError(
            "the graph is directed (A differs from its transpose).\n  give (A + A.T) / 2 if edges go both ways."
        )
    if not bool((weights >= 0).all()):
        raise InputError("an edge has a negative weight (or NaN), and an energy with it has no lowest value.")
    return weights - torch.diag(weights.diagonal())


def _energy(
    x: Tensor, weights: Tensor, normalize: str | None, n: int, seed: int
) -> tuple[float, float, float, Float[Tensor, " draws"]]:
    """(energy, its mean over exchanged names, weight of the edges, energies under exchanged names)."""
    i, j = weights.triu(1).nonzero(as_tuple=True)
    if not len(i):
        raise InputError(f"no edge joins the {len(x)} nodes that have a value, so there is no energy.")
    if not bool(torch.isfinite(x).all()):
        raise InputError("a node's vector is NaN or infinite.\n  give mask= with the nodes that have a value.")
    edge = weights[i, j]
    centred = x - x.mean(0)
    total = float(centred.square().sum()) / (len(x) - 1)
    if not total > 0:
        raise InputError("all nodes have the same vector, which no graph can order.")
    gram = centred @ centred.T
    lengths = gram.diagonal()
    apart = (lengths[:, None] + lengths - 2 * gram).clamp(min=0) / (total if normalize else 1.0)
    weight = float(edge.sum())
    null = [(apart[o[:, i], o[:, j]] @ edge) for o in _orders(len(x), n, seed, len(i))] if n else []
    expected = 2 * weight * (1.0 if normalize else total)  # the mean |x_i - x_j|^2 over pairs is twice the variance
    return float(apart[i, j] @ edge), expected, weight, torch.cat(null) if null else torch.empty(0)


def _orders(nodes: int, n: int, seed: int, each: int) -> Iterator[Int[Tensor, "chunk nodes"]]:
    """n orders of the nodes, as many at a time as hold `each` numbers."""
    for chunk in shuffles(n, np.zeros(nodes, dtype=int), generator(seed)):
        yield from torch.from_numpy(chunk).split(max(1, HELD // each))


def _scores(x: Tensor, what: str) -> Float[Tensor, "nodes r"]:
    """Centred rows in their own principal axes, leading ones first, empty ones left out: distances stay."""
    wide = x.detach().cpu().double()
    if not bool(torch.isfinite(wide).all()):
        raise InputError(f"{what} holds NaN or infinity.")
    u, s, _ = torch.linalg.svd(wide - wide.mean(0), full_matrices=False)
    kept = s > float(s[0]) * 1e-10 if float(s[0]) > 1e-12 * max(1.0, float(wide.abs().max())) else s < 0
    if not bool(kept.any()):
        raise InputError(f"{what} has the same vector at every node, and lies as nothing does.")
    return u[:, kept] * s[kept]


def _procrustes(x: Tensor, goal: Tensor) -> Callable[[Tensor], Tensor]:
    size = float(x.square().sum() * goal.square().sum())

    def of(orders: Tensor) -> Tensor:
        both = x.T @ goal[orders]  # (chunk, r, k)
        if both.shape[1] > both.shape[2]:
            both = both.mT
        return torch.linalg.eigvalsh(both @ both.mT).clamp(min=0).sqrt().sum(-1).square() / size

    return of


def _cca(x: Tensor, goal: Tensor) -> Callable[[Tensor], Tensor]:
    (nodes, r), k = x.shape, goal.shape[1]
    if r + k >= nodes - 1 + min(
        r, k
    ):  # one side fills the space of centred layouts: it holds the other, whatever it is
        raise InputError(
            f"vectors of {r} dimensions on {nodes} nodes correlate perfectly with anything.\n"
            f"  give components= well below {nodes - 1}, or how='procrustes'."
        )
    mine, theirs = x / x.norm(dim=0), goal / goal.norm(dim=0)  # principal axes are orthogonal already
    return lambda orders: (mine.T @ theirs[orders]).square().sum((1, 2)) / min(r, k)


def _distance_corr(x: Tensor, goal: Tensor) -> Callable[[Tensor], Tensor]:
    if len(x) < 4:
        raise InputError(f"a distance correlation without bias takes four nodes or more; there are {len(x)}.")
    a, b = (_u_centred(torch.cdist(v, v, compute_mode="donot_use_mm_for_euclid_dist")) for v in (x, goal))
    size = float(a.norm() * b.norm())
    return lambda orders: torch.stack([(a * b[o][:, o]).sum() for o in orders]) / size


def _u_centred(d: Tensor) -> Tensor:
    """Distances without what a row and a column bring, so that independent layouts have mean product 0."""
    n = len(d)
    rows = d.sum(1)
    out = d - rows[:, None] / (n - 2) - rows / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    return out.fill_diagonal_(0.0)
