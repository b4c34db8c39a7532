"""In-context learning of representations: with enough of a walk, words come to lie as the graph that it walks on.

A small net that only learned to repeat what came before reads walks on a grid of 3 x 4: its predictions, the energy of
its states on the grid at every length, and what moving a state does. Gemma 3 270M reads a grid of 4 x 4 in its own
words, and a ring of weekdays that contradicts the week. The site is chosen on walks apart from those measured. Bounds
are those of the page, written before any energy was looked at; the mass of this net on neighbours was seen before
(0.97 late, 0.66 after eight words), when nets trained on walks for minutes stayed below it (0.45 to 0.67).
Cost: six minutes on one core, nearly all for Gemma. Differs from the source: an induction net and a model of 270
million parameters in place of Llama-3.1-8B, shorter walks, and controls for what neighbours share by standing next to
each other. The net predicts the neighbours and does not lie as the graph: states that hold their neighbours are alike
two steps apart, and on a grid nodes two steps apart are no neighbours. Gemma's energy falls in one layer and rises on
average over layers.
"""

from typing import Any

import torch

import inscape as ins
from inscape import tasks
from inscape.core.drawing import Drawing
from inscape.core.nulls import bootstrap, changepoint, random_directions
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.read.compare_models import shuffled_weights
from inscape.read.geometry.context_sweep import ContextSweep, context_sweep
from inscape.read.geometry.graph import alignment, spectral_embedding
from inscape.tasks.graph_walk import DAYS
from inscape.tasks.graphs import ring

PAPER = Paper(
    name="in-context-representations",
    title="ICLR: In-Context Learning of Representations",
    authors="Park, Lee, Lubana, Yang, Okawa, Nishi, Wattenberg, Tanaka",
    year=2024,
    link="https://arxiv.org/abs/2501.00070",
    control="shuffled weights; words in shuffled order; another graph; states without their predecessor; random moves",
    claims=(
        Claim("mass", "late in the walk the net puts at least 0.8 on the neighbours of the word it stands at",
              at_least=0.8, control="after eight words"),
        Claim("energy_p", "late, neighbours lie together: energy below the 5th percentile of exchanged names",
              at_most=0.05, control="shuffled weights"),
        Claim("energy_p_early", "and not yet after eight words", above=0.05),
        Claim("aligned_p", "the two first components lie as the grid's own layout, better than 95 of 100 exchanges",
              at_most=0.05, control="shuffled weights"),
        Claim("without_predecessor", "energy is below that of exchanged names (1) also without what a state holds of "
              "the word before", below=0.9, control="another graph"),
        Claim("moved", "moving the last state in the plane of the two first components to another node's place moves "
              "at least 0.02 of the mass to that node's neighbours", at_least=0.02, control="a random move as far"),
        Claim("gemma_share", "Gemma's share on neighbours among the words rises from 50 words to the whole walk",
              above=0, control="words in shuffled order"),
        Claim("gemma_energy", "its energy falls from 50 words to the whole walk in the layer where it fell most on "
              "other walks", above=0, control="words in shuffled order"),
        Claim("gemma_days", "weekdays on a ring that contradicts the week still lie as the week in the first two "
              "components of some layer: p over all layers", at_most=0.05),
    ),
)  # fmt: skip
QUICK = dict(walks=2, length=32, gemma="toy-induction", gemma_walks=4, gemma_length=56)
SHORT = 8


def run(model="toy-induction", *, walks: int = 24, length: int = 80, gemma: str = "gemma-3-270m",
        gemma_walks: int = 6, gemma_length: int = 600, seed: int = 0, progress=None) -> Result:  # fmt: skip
    model = ins.open(model) if isinstance(model, str) else model
    words = sorted(w for w in model.tokenizer.get_vocab() if w.isalpha())  # a vocabulary has no order of its own
    lengths = [t for t in (SHORT, 16, 24, 32, 48, 64, 80) if t <= length]
    grid: dict[str, Any] = dict(graph="grid", size={"rows": 3, "columns": 4}, words=words, length=length)
    common: dict[str, Any] = dict(lengths=lengths, window=32, seed=seed)
    first = tasks.graph_walk(model, walks, **grid, seed=seed + 1)
    at = context_sweep(model, first, shuffled=False, **common).best()
    site = f"layers.{at}.resid_post"
    made = tasks.graph_walk(model, walks, **grid, seed=seed + 2)
    found = context_sweep(model, made, **common)
    blank = context_sweep(shuffled_weights(model, seed), made, site, shuffled=False, **common)
    tell(progress, "moving states", 0.1)
    moved, random = _moved(model, made, found, site, seed)
    tell(progress, f"walks of {gemma}", 0.15)
    big = _gemma(gemma, gemma_walks, gemma_length, seed, progress)
    ratio = {name: values[..., at] for name, values in found.ratio.items()}
    mass = found.interval("mass")
    where = changepoint(found.mass, torch.tensor(lengths).log2(), margin=2, seed=seed) if len(lengths) > 4 else None
    p, aligned = found.energy(site, seed=seed).p, found.aligned_p[:, at]
    assert p is not None
    measured = {
        "mass": bootstrap(found.mass[:, -1], seed=seed), "energy_p": p[-1], "energy_p_early": p[0],
        "aligned_p": aligned[-1], "without_predecessor": bootstrap(ratio["no_predecessor"][:, -1], seed=seed),
        "moved": bootstrap(moved, seed=seed), **big["measured"],
    }  # fmt: skip
    blank_p = blank.energy(site, seed=seed).p
    assert blank_p is not None
    controls = {
        "mass": mass.value[0], "energy_p": blank_p[-1], "aligned_p": blank.aligned_p[-1, 0],
        "without_predecessor": ratio["other_graph"][:, -1].mean(), "moved": random.mean(), **big["controls"],
    }  # fmt: skip
    curves = {"the graph": "graph", "without predecessor": "no_predecessor", "another graph": "other_graph",
              "shuffled words": "shuffled_text"}  # fmt: skip
    break_at = f" Its mass on neighbours breaks (log2 words): {where}." if where is not None else ""
    return Result(
        PAPER, measured, controls, seed=seed,
        series={said: ratio[name].mean(0) for said, name in curves.items()} | {"mass on neighbours": mass.value},
        also={"ratio_late": ratio["graph"][:, -1].mean(), "aligned_late": found.aligned[-1, at],
              "aligned_early": found.aligned[0, at], "ratio_shuffled_weights": blank.ratio["graph"][:, -1].mean(),
              "chance": found.chance, "coverage_early": found.coverage[:, 0].mean(), **big["also"]},
        tables={"gemma by layer": big["layers"]},
        notes=f"{site} of the net: {found}.{break_at} {big['said']}",
        figure=Drawing("lines", show=("the graph", "without predecessor"), control=("another graph", "shuffled words"),
                       x=tuple(map(float, lengths)), x_title="words of context", scale="linear", chance=1,
                       y_title="energy over that of exchanged names"),
    )  # fmt: skip


def _moved(model: Any, walks: Any, found: ContextSweep, site: str, seed: int) -> tuple[Any, Any]:
    """Mass that goes to the furthest node's neighbours as the last state moves to its place in the plane, by walk."""
    means = found.means[site][-1].nan_to_num()
    plane = torch.linalg.svd(means - means.mean(0), full_matrices=False).Vh[:2]
    rows: tuple[list[float], list[float]] = ([], [])
    for row in range(len(walks)):
        here = int(walks.nodes[row, -1])
        far = (~walks.links[here]).nonzero().flatten().tolist()
        there = max((j for j in far if j != here), key=lambda j: float(((means[j] - means[here]) @ plane.T).norm()))
        new = walks.links[there] & ~walks.links[here]
        move = (plane.T @ (plane @ (means[there] - means[here]))).float()
        anyhow = random_directions(move, data=means.float(), seed=seed + row)[0]
        for kept, step in zip(rows, (move, anyhow), strict=True):
            values = []
            for edits in ([], [ins.add(ins.Direction(site, step, "to another place"), at=-1)]):
                logits = ins.run(model, [list(walks.ids[row])], edits=edits, output="last").output.logits[0, -1]
                values.append(float(logits.float().softmax(-1)[walks.tokens[new]].sum()))
            kept.append(values[1] - values[0])
    return torch.tensor(rows[0]), torch.tensor(rows[1])


def _gemma(name: str, n: int, length: int, seed: int, progress: Any) -> dict[str, Any]:
    """The grid in a real model's own words, and weekdays against the week."""
    model = ins.open(name, dtype=torch.float32)
    toy = name.startswith("toy-")
    listed = sorted(w for w in model.tokenizer.get_vocab() if w.isalpha()) if toy else None
    walks = tasks.graph_walk(model, n, words=listed, length=length, seed=seed + 3)
    common: dict[str, Any] = dict(window=min(50, length), seed=seed, progress=progress)
    lengths = sorted({min(t, length) for t in (50, 100, 200, 400, length)})
    found = context_sweep(model, walks, lengths=lengths, **common)
    fell, mixed = (found.ratio[k][:, 0] - found.ratio[k][:, -1] for k in ("graph", "shuffled_text"))
    half = n // 2
    at = int(fell[:half].mean(0).argmax())
    share, other = (x[:, -1] - x[:, 0] for x in (found.share, found.shuffled_share))
    names = listed[:7] if listed else DAYS
    days = tasks.graph_walk(model, max(2, n // 2), graph="ring", size={"nodes": 7}, words=names, arrange="conflicting",
                            length=min(300, length), seed=seed + 4)  # fmt: skip
    walked = context_sweep(model, days, lengths=[days.nodes.shape[1]], shuffled=False, **common)
    week = spectral_embedding(ring(7), 2).vectors[days.order]
    fits = [alignment(walked.means[s][-1], week, components=2, n=500, seed=seed) for s in walked.sites]
    p = min(1.0, min(float(f.p or 1) for f in fits) * len(fits))
    rows = [{"layer": s, "sees": found.sees[i] or "all", "ratio at 50": found.ratio["graph"][:, 0, i].mean(),
             "ratio at the end": found.ratio["graph"][:, -1, i].mean(),
             "shuffled words": found.ratio["shuffled_text"][:, -1, i].mean(),
             "without predecessor": found.ratio["no_predecessor"][:, -1, i].mean(),
             "aligned": found.aligned[-1, i], "aligned p": found.aligned_p[-1, i], "week": fits[i].value,
             "week p": fits[i].p} for i, s in enumerate(found.sites)]  # fmt: skip
    return {
        "measured": {"gemma_share": bootstrap(share, seed=seed), "gemma_energy": bootstrap(fell[half:, at], seed=seed),
                     "gemma_days": p},
        "controls": {"gemma_share": other.mean(), "gemma_energy": mixed[half:, at].mean()},
        "also": {"gemma_mass_50": found.mass[:, 0].mean(), "gemma_mass_end": found.mass[:, -1].mean(),
                 "gemma_share_end": found.share[:, -1].mean(), "gemma_chance": found.chance,
                 "gemma_fall_global": fell[:, found.is_global].mean(),
                 "gemma_fall_sliding": fell[:, ~found.is_global].mean()},
        "layers": rows,
        "said": f"{name}: {found}; the layer where energy fell most on the first {half} walks is {found.sites[at]}.",
    }  # fmt: skip
