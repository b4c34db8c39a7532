"""How a model's states rearrange with context: one run a walk, measured at every length, beside what must not show it.

1. The walk runs once: a causal model at word t has read t words, so all lengths of context are in one run.
2. At each length, the states of each node's last occurrences are averaged (`class_means`), and how far neighbours lie
   apart is compared with how far nodes lie apart at all (the ratio of `dirichlet_energy`: 1 when the graph means
   nothing).
3. The same with another graph of the same nodes, without what a state holds of the token before it, and on the same
   words in shuffled order.
4. What the model predicts: the mass on the neighbours of the word it stands at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.nulls import Intervals, bootstrap_each
from inscape.core.progress import Progress, tell
from inscape.engine.forward import run
from inscape.engine.planning import names_of
from inscape.engine.unembed import Unembedding, unembedding
from inscape.models.model import Model
from inscape.read.geometry.class_means import apart_without_predecessors, class_means
from inscape.read.geometry.graph import DirichletEnergy, alignment, dirichlet_energy, spectral_embedding
from inscape.tasks.graph_walk import GraphWalks

RATIOS = ("graph", "other_graph", "no_predecessor", "shuffled_text")


@dataclass(frozen=True, eq=False)
class ContextSweep:
    """Curves over lengths of context, one a walk.

    mass: probability of the neighbours of the current node, [walk, length]; share: the same among the nodes' words
    alone, which `chance` is for. shuffled_share: `share` on the shuffled text.
    ratio: energy over its mean for exchanged names, [walk, length, site]: "graph", and the controls "other_graph" (a
    graph in which the nodes have changed places), "no_predecessor" (for each pair of nodes without occurrences right
    after each other), "shuffled_text". means: of all walks together, site -> [length, node, d].
    aligned: R^2 of the two first principal components of those means with the graph's own layout, [length, site];
    aligned_p: with names exchanged. coverage: share of nodes that the window holds, [walk, length].
    sees: tokens back that the attention of a site's layer sees; None for all.
    """

    lengths: tuple[int, ...]
    sites: tuple[str, ...]
    links: Bool[Tensor, "node node"]
    window: int
    mass: Float[Tensor, "walk length"]
    share: Float[Tensor, "walk length"]
    shuffled_share: Float[Tensor, "walk length"]
    chance: float
    ratio: dict[str, Float[Tensor, "walk length site"]]
    means: dict[str, Float[Tensor, "length node d"]]
    aligned: Float[Tensor, "length site"]
    aligned_p: Float[Tensor, "length site"]
    coverage: Float[Tensor, "walk length"]
    sees: tuple[int | None, ...]

    def interval(self, name: str = "graph", *, level: float = 0.95, seed: int = 0) -> Intervals:
        """A curve's mean over walks with its interval: "mass", "share", or one of the ratios."""
        curves = {"mass": self.mass, "share": self.share, "shuffled_share": self.shuffled_share, **self.ratio}
        if name not in curves:
            raise InputError(f"{name!r} is none of the curves: {', '.join(curves)}.")
        if len(self.mass) < 2:
            raise InputError("an interval over walks takes at least two of them; this sweep has one.")
        return bootstrap_each(curves[name], level=level, seed=seed)

    def energy(self, site: str, *, n: int = 1000, seed: int = 0) -> DirichletEnergy:
        """The energy of the means of all walks at every length, beside exchanged names."""
        if site not in self.means:
            raise InputError(f"this sweep has no {site!r}; its sites are {', '.join(self.sites)}.")
        means = self.means[site]
        return dirichlet_energy(means.nan_to_num(), self.links, mask=~means.isnan().any(-1), n=n, seed=seed)

    @property
    def is_global(self) -> Bool[Tensor, " site"]:
        """Sites whose layer sees the whole of the longest context."""
        return torch.tensor([s is None or s >= max(self.lengths) for s in self.sees])

    def best(self) -> int:
        """The site with the lowest ratio at the longest context. It was chosen by looking: judge it on other walks."""
        return int(self.ratio["graph"][:, -1].mean(0).argmin())

    def __repr__(self) -> str:
        at = self.best()
        first, last = (float(self.ratio["graph"][:, i, at].mean()) for i in (0, -1))
        return (
            f"ContextSweep({len(self.mass)} walks, {self.lengths[0]} to {self.lengths[-1]} words: share on neighbours "
            f"{float(self.share[:, 0].mean()):.2f} to {float(self.share[:, -1].mean()):.2f} ({self.chance:.2f} by "
            "chance), "
            f"energy / exchanged names at {self.sites[at]} {first:.2f} to {last:.2f})"
        )


def context_sweep(
    model: Model,
    walks: GraphWalks,
    sites: Any = "layers.*.resid_post",
    lengths: Sequence[int] | None = None,
    window: int = 50,
    *,
    shuffled: bool = True,
    mass_at: int = 8,
    n: int = 500,
    seed: int = 0,
    progress: Progress = None,
) -> ContextSweep:
    """Do the states of words come to lie as the graph does that the context walks on, and from which length on?

    walks: from `tasks.graph_walk`; one graph and one naming, so that their means can be joined. lengths: of context, in
    words; eight from the window to the whole, each about as many times longer, when left out. window: occurrences among
    the last so many words are averaged. shuffled: also run each walk's words in another order. mass_at: at how many of
    the window's last words the prediction is read. n: exchanges of names for `aligned_p`.
    Cost: one forward a walk (two with `shuffled`), without the head but at lengths x mass_at positions; then sites x
    lengths x nodes^2 d. Memory: the sites of one walk.
    Raises: InputError for lengths that do not fit; else as `run`.
    Source: Park et al. 2024, arXiv:2501.00070. Ours adds the controls for what neighbours share by standing next to
    each other in the text, the interval over walks, and the layers' reach.
    """
    chosen = _lengths(walks, lengths, window)
    names = names_of(model, sites)
    head = unembedding(model)
    last = f"{model.blocks[-1].name}.resid_post"
    order = torch.randperm(walks.n_nodes, generator=torch.Generator().manual_seed(seed))
    other = walks.links[order][:, order]
    job = _Job(model, walks, names, last, head, chosen, window, mass_at, other)
    mixed = walks.shuffled(seed) if shuffled else None
    rows, controls, total = [], [], None
    for row in range(len(walks)):
        one, states = job.measured(walks, row)
        rows.append(one)
        total = states if total is None else {s: _joined(total[s], states[s]) for s in states}
        controls.append(job.measured(mixed, row)[0] if mixed is not None else None)
        tell(progress, f"walk {row + 1} of {len(walks)}", (row + 1) / len(walks))
    assert total is not None
    means = {s: value / count[..., None].double() for s, (value, count) in total.items()}
    ratio = {name: torch.stack([r[name] for r in rows]) for name in RATIOS[:3]}
    nothing = torch.full_like(ratio["graph"], torch.nan)
    ratio["shuffled_text"] = torch.stack([c["graph"] for c in controls]) if shuffled else nothing
    aligned = [[_aligned(means[s][i], walks.links, n, seed) for s in names] for i in range(len(chosen))]
    return ContextSweep(
        chosen, tuple(names), walks.links, window, torch.stack([r["mass"] for r in rows]),
        torch.stack([r["share"] for r in rows]),
        torch.stack([c["share"] for c in controls]) if shuffled else torch.full_like(nothing[..., 0], torch.nan),
        walks.chance, ratio, means, torch.tensor([[a for a, _ in row] for row in aligned]),
        torch.tensor([[p for _, p in row] for row in aligned]), torch.stack([r["coverage"] for r in rows]),
        tuple(_reach(model, s) for s in names),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Job:
    model: Model
    walks: GraphWalks
    names: list[str]
    last: str
    head: Unembedding
    lengths: tuple[int, ...]
    window: int
    mass_at: int
    other: Tensor

    def measured(self, walks: GraphWalks, row: int) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
        """(numbers of one walk, sums and counts of its nodes' states by site)."""
        read = list(dict.fromkeys([*self.names, self.last]))
        trace = run(self.model, [list(walks.ids[row])], read=read, output=False)
        at, nodes = walks.at[row], walks.nodes[row]
        out = self._mass(trace[self.last][0], at, nodes)
        ratios, states = {name: [] for name in RATIOS[:3]}, {}
        for site in self.names:
            x = trace[site][0].float()[at.to(trace[site].device)]
            means = class_means(x, nodes, self.window, ends=self.lengths, n_classes=walks.n_nodes)
            filled, mask = means.mean.nan_to_num(), means.mask
            for name, graph in (("graph", walks.links), ("other_graph", self.other)):
                ratios[name].append(_energy_ratio(filled, graph, mask))
            ratios["no_predecessor"].append(torch.stack([
                _ratio(apart_without_predecessors(x[max(0, t - self.window): t], nodes[max(0, t - self.window): t],
                                                  walks.n_nodes), walks.links) for t in self.lengths
            ]))  # fmt: skip
            states[site] = (filled * means.count[..., None], means.count)
            out["coverage"] = means.coverage
        return out | {name: torch.stack(values, 1) for name, values in ratios.items()}, states

    def _mass(self, stream: Tensor, at: Tensor, nodes: Tensor) -> dict[str, Tensor]:
        """Probability of the neighbours of the current node, over the vocabulary and among the nodes' words."""
        mass, share = [], []
        for t in self.lengths:
            first = max(1, t - self.window)
            steps = torch.linspace(first, t - 1, min(self.mass_at, t - first)).round().long().unique()
            scores = self.head(stream[at[steps].to(stream.device)])
            chosen = scores[:, self.walks.tokens.to(scores.device)].double()
            linked = self.walks.links[nodes[steps]].to(scores.device)
            probability = (chosen - scores.double().logsumexp(-1, keepdim=True)).exp()
            among = chosen.softmax(-1)
            mass.append((probability * linked).sum(-1).mean().cpu())
            share.append((among * linked).sum(-1).mean().cpu())
        return {"mass": torch.stack(mass), "share": torch.stack(share)}


def _lengths(walks: GraphWalks, lengths: Sequence[int] | None, window: int) -> tuple[int, ...]:
    whole = walks.nodes.shape[1]
    if lengths is None:
        first = min(window, max(2, whole // 4))
        steps = torch.linspace(0, 1, 8).double()
        lengths = sorted({round(first * (whole / first) ** float(s)) for s in steps})
    if not lengths or min(lengths) < 2 or max(lengths) > whole or window < 2 or sorted(set(lengths)) != list(lengths):
        raise InputError(
            f"lengths {list(lengths)[:8]} and a window of {window}: give rising lengths of 2 to {whole} words (the "
            "walk), and a window of at least 2."
        )
    return tuple(int(t) for t in lengths)


def _joined(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return one[0] + other[0], one[1] + other[1]


def _energy_ratio(means: Tensor, graph: Tensor, mask: Tensor) -> Tensor:
    """The ratio at every length; NaN where no edge of the graph joins two nodes that have a value."""
    edges = (mask[:, :, None] & mask[:, None, :] & graph).flatten(1).any(1)
    out = torch.full((len(means),), torch.nan, dtype=torch.float64)
    if bool(edges.any()):
        out[edges] = dirichlet_energy(means[edges], graph, mask=mask[edges], control=None).ratio
    return out


def _ratio(apart: Tensor, links: Tensor) -> Tensor:
    """Mean squared distance of linked nodes over that of all pairs; NaN pairs have no value."""
    known = ~apart.isnan() & ~torch.eye(len(apart), dtype=torch.bool)
    linked = known & links
    return apart[linked].mean() / apart[known].mean()


def _aligned(means: Tensor, links: Tensor, n: int, seed: int) -> tuple[float, float]:
    known = ~means.isnan().any(-1)
    if int(known.sum()) < 4:
        return float("nan"), float("nan")
    goal = spectral_embedding(links, 2).vectors[known]
    found = alignment(means[known], goal, components=2, n=n, seed=seed)
    return found.value, float(found.p) if found.p is not None else float("nan")


def _reach(model: Model, site: str) -> int | None:
    """Tokens back that the attention of a site's layer sees, by the model's config; None for all."""
    block = next((b for b in model.blocks if site.startswith(f"{b.name}.")), None)
    config: Any = model.config
    text = getattr(config, "get_text_config", lambda: config)() if config is not None else None
    window, kinds = getattr(text, "sliding_window", None), getattr(text, "layer_types", None)
    if block is None or not isinstance(window, int):
        return None
    if kinds is not None:
        return window if "sliding" in kinds[model.layer_of(site)] else None
    return window if getattr(text, "use_sliding_window", True) else None
