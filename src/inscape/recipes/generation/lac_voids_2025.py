"""Voids: layers that hardly lengthen the stream of a token are void for it, and skipping them costs less than others.

Texts are read once to map voids, then again with voids skipped for real, beside as many random layers for each token,
layers with updates as long, and the same layers for all tokens. Prompts and the responses to them are mapped while the
model generates. The first token is never skipped: it carries the attention sink, and any layer less there breaks all.
Cost: a few minutes. Differs from the source: Gemma 3 270M and public texts in place of models of 7 billion parameters
and benchmarks; the gain of accuracy by skipping is reported on name completion and not claimed. Bounds were written
before any run; alpha is chosen by how many voids there are, on texts that are not measured.
"""

from itertools import pairwise
from typing import Any

import torch

import inscape as ins
from inscape import tasks
from inscape.core.drawing import Drawing
from inscape.core.nulls import bootstrap, permutation_p
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.read.generation.void_nulls import fixed_voids, magnitude_matched_voids, random_voids
from inscape.read.generation.void_stream import VoidStream
from inscape.read.generation.voids import VoidMap, void_map
from inscape.train import next_token

PAPER = Paper(
    name="lac-voids",
    title="Void in Language Models",
    authors="Shemiranifar",
    year=2025,
    link="https://arxiv.org/abs/2505.14467",
    code="https://github.com/manishemirani/void_in_language_models",
    control="as many random layers for each token; layers with updates as long; halves of one phase",
    claims=(
        Claim("same_map", "padding, batch mates and the cache change the map of a token in at most one cell of a "
              "thousand", at_most=0.001, control="the map of the next token in its place"),
        Claim("alpha", "as alpha grows from 0 to 1.5 no void becomes active again, as a share of cells", at_most=0.0),
        Claim("random_costs_more", "skipping as many random layers for each token costs more loss than skipping its "
              "voids, in nats: low end of the 95 % interval over texts", above=0.0,
              control="another random draw in place of the voids"),
        Claim("matched_costs_more", "and so does skipping layers whose updates are as long", above=0.0),
        Claim("phases", "prompt and response use the layers differently, p of exchanging the phases within texts",
              at_most=0.01, control="two random halves of the prompts' tokens"),
        Claim("carried", "carrying gives the output of each token's last active layer, to", at_most=1e-4),
    ),
)  # fmt: skip
QUICK = dict(model="toy-reasoner", texts=4, prompts=6, new=6, draws=2, flips=200, pairs=4)
ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5)


def run(model="gemma-3-270m", *, texts: int = 12, prompts: int = 60, new: int = 20, draws: int = 5, flips: int = 2000,
        pairs: int = 64, seed: int = 7, progress=None) -> Result:  # fmt: skip
    opened = ins.open(model) if isinstance(model, str) else model
    rows = [_ids(opened, text) for text in tasks.plain_text(texts)]
    pieces = [row[i : i + 12] for row in rows for i in range(0, len(row) - 12, max(1, 12 * texts * len(row) // 800))]
    asked = pieces[:: max(1, len(pieces) // prompts)][:prompts]
    tell(progress, "choosing alpha", 0.0)
    tried = {a: _share([_cleared(void_map(opened, [row], a)) for row in asked]) for a in ALPHAS}
    alpha = min(ALPHAS, key=lambda a: abs(tried[a] - 0.25))
    costs = _costs(opened, rows, alpha, draws, seed, progress)
    tell(progress, "generating", 0.6)
    maps = _generated(opened, asked, alpha, new)
    p, half_p = _phases(maps, flips, seed)
    same, other = _same(opened, asked[:8], alpha)
    found = [void_map(opened, [row], a) for row in rows[:3] for a in ALPHAS]
    back = max(float((a.void & ~b.void).float().mean()) for a, b in pairwise(found)
               if a.alpha < b.alpha)  # fmt: skip
    gain = {n: bootstrap(costs[n] - costs["voids"], seed=seed) for n in ("random", "matched", "fixed")}
    null = bootstrap(costs["random"] - costs["random again"], seed=seed)
    usage = {phase: torch.stack([m.usage(phase) for m in maps]).mean(0) for phase in ("prompt", "response")}
    right = _accuracy(opened, alpha, pairs, seed)
    count = sum(int(m.void.sum()) for m in maps)
    total = sum(m.cost.total for m in maps)
    return Result(
        PAPER,
        {"same_map": same, "alpha": back, "random_costs_more": gain["random"].low,
         "matched_costs_more": gain["matched"].low, "phases": p, "carried": _carried(opened, rows[0], alpha)},
        controls={"same_map": other, "random_costs_more": null.low, "phases": half_p}, seed=seed,
        series={**usage, "random layers": torch.full_like(usage["prompt"], 1 - count / total)},
        also={"alpha": alpha, "void_share": tried[alpha], "loss": float(costs["plain"].mean()),
              **{f"loss_{n.replace(' ', '_')}": float(v.mean()) for n, v in costs.items() if n != "plain"},
              "random_gain": gain["random"].value, "matched_gain": gain["matched"].value,
              "fixed_gain_low": gain["fixed"].low, "fixed_gain": gain["fixed"].value,
              **{f"used_{m}": float(u.mean()) for m, u in usage.items()},
              "blocks_not_run": float(sum(m.cost.saved for m in maps)),
              "leading_blocks": sum(m.cost.leading for m in maps) / total,
              **{f"accuracy_{n}": v for n, v in right.items()}},
        figure=Drawing(show=("prompt", "response"), control=("random layers",), x_title="layer",
                       y_title="share of tokens that the layer is active for"),
    )  # fmt: skip


def _ids(model: Any, text: str) -> list[int]:
    return [int(t) for t in model.tokenizer(text)["input_ids"]]


def _cleared(made: VoidMap) -> Any:
    """Voids without the first token's, [layer, row, pos]."""
    void = made.void.clone()
    void[:, :, 0] = False
    return void


def _share(voids: list) -> float:
    return float(torch.cat([v[:, 0, 1:] for v in voids], 1).float().mean())


def _costs(model: Any, rows: list, alpha: float, draws: int, seed: int, progress: Any) -> dict[str, Any]:
    """Next-token loss of every text, plain and with layers skipped for real."""
    out: dict[str, list[float]] = {}
    for i, row in enumerate(rows):
        tell(progress, f"skipping, text {i + 1} of {len(rows)}", 0.6 * i / len(rows))
        made = void_map(model, [row], alpha, "true")
        void = _cleared(made)
        masks = {"plain": [], "voids": [void], "fixed": [_first(fixed_voids(void))],
                 "matched": [_first(magnitude_matched_voids(void, made.size))]}  # fmt: skip
        for name, base in (("random", 0), ("random again", draws)):
            masks[name] = [random_voids(void, seed=seed + 1000 * i + base + d) for d in range(draws)]
        for name, several in masks.items():
            each = [_loss(model, row, ins.skip_layers(m)) for m in several] or [_loss(model, row, [])]
            out.setdefault(name, []).append(sum(each) / len(each))
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in out.items()}


def _first(void: Any) -> Any:
    void = void.clone()
    void[:, :, 0] = False
    return void


def _loss(model: Any, row: list[int], edits: list) -> float:
    ids = torch.tensor([row], device=model.device)
    with torch.no_grad():
        if not edits:
            return float(next_token(model.module, ids))
        with ins.editing(model, edits):
            return float(next_token(model.module, ids))


def _generated(model: Any, asked: list, alpha: float, new: int) -> list[VoidMap]:
    """Maps of prompts and responses, watched while generating."""
    maps = []
    for start in range(0, len(asked), 10):
        stream = VoidStream(alpha)
        ins.generate(model, asked[start : start + 10], watch=stream, max_new_tokens=new, min_new_tokens=new)
        whole = stream.map
        maps += [_row(whole, i) for i in range(whole.mask.shape[0])]
    return maps


def _row(made: VoidMap, i: int) -> VoidMap:
    from dataclasses import replace

    pick = {n: getattr(made, n)[:, i : i + 1] for n in ("void", "change", "norm", "threshold", "size")}
    return replace(made, **pick, mask=made.mask[i : i + 1])


def _phases(maps: list[VoidMap], flips: int, seed: int) -> tuple[float, float]:
    """p of the distance between the profiles of two phases, and of two random halves of the prompts."""
    generator = torch.Generator().manual_seed(seed)
    pairs, halves = [], []
    for one in maps:
        pairs.append(one.usage("response") - one.usage("prompt"))
        where = one.of("prompt").clone()[0].nonzero().flatten()[1:]
        order = where[torch.randperm(len(where), generator=generator)]
        a, b = order[::2], order[1::2]
        active = one.active[:, 0].float()
        halves.append(active[:, a].mean(1) - active[:, b].mean(1))
    return tuple(_flipped(torch.stack(d), flips, generator) for d in (pairs, halves))  # type: ignore[return-value]


def _flipped(difference: Any, flips: int, generator: Any) -> float:
    signs = torch.randint(0, 2, (flips, len(difference)), generator=generator) * 2.0 - 1
    null = (signs @ difference / len(difference)).norm(dim=1)
    return float(permutation_p(float(difference.mean(0).norm()), null))


def _same(model: Any, asked: list, alpha: float) -> tuple[float, float]:
    """Share of cells in which a token's map differs between alone and in a padded batch; and from its neighbour's."""
    rows = [row[: len(row) - i % 4] for i, row in enumerate(asked)]
    made = {side: void_map(model, rows, alpha, padding_side=side) for side in ("left", "right")}
    off, other, cells = 0, 0, 0
    for i, row in enumerate(rows):
        alone = void_map(model, [row], alpha).void[:, 0]
        stream = VoidStream(alpha)
        ins.generate(model, [row[:-3]], watch=stream, max_new_tokens=3, min_new_tokens=3)
        cached = stream.map.void[:, 0, : len(row) - 3]
        off += sum(int((m.void[:, i][:, m.mask[i]] != alone).sum()) for m in made.values())
        off += int((cached != alone[:, : len(row) - 3]).sum())
        other += int((alone.roll(1, 1) != alone).sum())
        cells += alone.numel()
    return off / (3 * cells), other / cells


def _carried(model: Any, row: list[int], alpha: float) -> float:
    """Largest difference of the scores between carrying and decoding each token's last active layer directly."""
    made = void_map(model, [row], alpha)
    names = made.layers
    trace = ins.run(model, [row], read=["layers.0.resid_pre", *(f"{n}.resid_post" for n in names)])
    states = torch.stack(list(trace.values()))
    last = (made.active.long() * torch.arange(1, len(names) + 1)[:, None, None]).amax(0)
    wanted = states.gather(0, last[None, ..., None].expand(1, *last.shape, states.shape[-1]))[0]
    patched = ins.run(model, [row], edits=[ins.replace(f"{names[-1]}.resid_post", wanted)]).output.logits
    carried = ins.run(model, [row], edits=[ins.skip_voids(alpha)]).output.logits
    return float((patched - carried).abs().max())


def _accuracy(model: Any, alpha: float, n: int, seed: int) -> dict[str, float]:
    """Names completed right (another name as the wrong answer), with voids skipped either way; reported only."""
    try:
        made = tasks.ioi(model, n, seed=seed)
    except ins.InscapeError:
        return {}
    out = {}
    for name, edits in {"plain": [], "carry": [ins.skip_voids(alpha)], "true": [ins.skip_voids(alpha, "true")]}.items():
        logits: Any = ins.run(model, list(made.clean), edits=edits, output="last").output.logits[:, -1]
        out[name] = float(made.is_right(logits).float().mean())
    return out
