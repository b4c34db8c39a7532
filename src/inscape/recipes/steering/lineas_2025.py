"""LinEAS: affine maps of single units, trained through the frozen model, make texts look like others inside.

A net writes chains of sums out wordily or tersely. 32 wordy and 32 terse texts, not pairs, fit one scale and one shift
a unit at the inputs of all its attention and MLP blocks; everything is measured on other chains. The training begins at
the maps of Lin-AcT, its strongest baseline. Style is read off exactly after the first sentence of a wordy rationale, as
the probability of a terse word among the words that begin the next.
Pilots on other seeds were seen before the bounds were written: with 50 steps from the identity the trained maps left
0.24 of the loss on new texts, Lin-AcT 0.14, shifts of means 1.06, Gaussian maps 1.03; the first word after the
question, the style measured then, did not move under any of them. A penalty of 0.1 left 18 % of the units changed.
In the full run two bounds are met by next to nothing: the trained maps leave 0.0948 and Lin-AcT 0.0949, which is a tie
(in forward order Lin-AcT is as good here; training from the identity is not there after 50 steps), and no maps make a
terse sentence likelier than 0.01: activations of whole texts are met, and the style does not move.
Cost: three minutes. Differs from the source: a trained four-layer net in place of 1.5B-7B models, two ways of writing
in place of toxicity, a start at Lin-AcT, penalties in standard deviations of a unit.
"""

from itertools import pairwise
from typing import Any

import torch

import inscape as ins
from inscape.core.drawing import Drawing
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.steer.affine_steer import AffineSteer
from inscape.steer.fit_affine import fit_affine
from inscape.steer.transport import transport
from inscape.tasks.chains import chains

PAPER = Paper(
    name="lineas",
    title="LinEAS: End-to-end Learning of Activation Steering with a Distributional Loss",
    authors="Rodriguez, Klein, Gualdoni, Maiorca, Blaas, Zappella, Cuturi, Suau",
    year=2025,
    link="https://arxiv.org/abs/2503.10679",
    code="https://github.com/apple/ml-lineas",
    control="maps of shuffled samples and between samples of one style; random units; four closed forms",
    claims=(
        Claim("left_over_best", "on new texts the trained maps leave less of the transport loss than none, "
              "mean, Gaussian and Lin-AcT maps", below=1, control="samples dealt to both sides anew"),
        Claim("style_over_mean", "after a wordy sentence a terse one becomes likelier than with mean shifts", above=0),
        Claim("sparse_changed", "with the penalty on, at most a fifth of the units change", at_most=0.2),
        Claim("sparse_kept", "and at least 80 % of what the maps take off the loss is kept", at_least=0.8,
              control="as many random units, fitted anew"),
        Claim("monotone", "the loss falls at each quarter of the strength from 0 to 1", above=0),
        Claim("strength_zero", "strength 0 is the model itself, to the bit", at_most=0),
        Claim("same_style", "between samples of one style the maps stay within a tenth of the real ones", at_most=0.1),
    ),
)  # fmt: skip
QUICK = dict(n=6, held=6, steps=2)
SITES = ("layers.*.attn.in", "layers.*.mlp.in")
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
BASELINES = {"mean": "mean", "Gaussian": "gaussian", "Lin-AcT": "linear"}


def run(model="toy-reasoner", *, n: int = 32, held: int = 64, steps: int = 40, sparsity: float = 0.1, seed: int = 0,
        progress=None) -> Result:  # fmt: skip
    model = ins.open(model) if isinstance(model, str) else model
    wordy, terse, other = (_texts(s, n, 7 * seed + i) for i, s in enumerate(("wordy", "terse", "wordy")))
    new = [_texts(style, held, 7 * seed + 3 + i) for i, style in enumerate(("wordy", "terse"))]
    maps: dict[str, AffineSteer] = {}

    def fitted(name: str, source: Any = wordy, target: Any = terse, **more: Any) -> None:
        tell(progress, name, len(maps) / 9)
        options: dict[str, Any] = {"steps": steps, "lr": 0.02, "seed": seed, **more}
        maps[name] = fit_affine(model, source, target, SITES, **options)

    for name, method in BASELINES.items():
        fitted(name, method=method)
    fitted("end to end", start=maps["Lin-AcT"])
    fitted("penalised", sparsity=sparsity, lr=0.05)
    units: dict[str, torch.Tensor] = dict(maps["penalised"].support())
    fitted("sparse", units=units, start=maps["penalised"])  # without what the penalty takes off
    fitted("random units", units=_drawn(units, seed), lr=0.05)
    fitted("shuffled", control="shuffle")
    fitted("one style", wordy, other)
    left = {"none": 1.0} | {m: transport(model, new[0], new[1], a.edits(), SITES).left for m, a in maps.items()}
    there = transport(model, new[0], new[1], maps["end to end"].edits(), SITES, scaled=False)
    doses = [transport(model, new[0], new[1], maps["end to end"].edits(t), SITES).left for t in STRENGTHS]
    begun = _begun(held, 7 * seed + 5)
    style = {m: _terse(model, begun, maps[m].edits() if m in maps else []) for m in left}
    best = min(left[m] for m in ("none", *BASELINES))
    zero = [ins.run(model, begun[:8], edits=e).output.logits for e in ([], maps["end to end"].edits(0.0))]
    taken = 1 - left["end to end"]
    return Result(
        PAPER,
        {
            "left_over_best": left["end to end"] / best,
            "style_over_mean": style["end to end"] - style["mean"],
            "sparse_changed": maps["sparse"].changed,
            "sparse_kept": (1 - left["sparse"]) / taken,
            "monotone": min(a - b for a, b in pairwise(doses)),
            "strength_zero": float((zero[0] - zero[1]).abs().max()),
            "same_style": _size(maps["one style"]) / _size(maps["end to end"]),
        },
        controls={"left_over_best": left["shuffled"] / best, "sparse_kept": (1 - left["random units"]) / taken},
        series={"left": list(left.values()), "left by strength": doses},
        also={f"left_{m}": v for m, v in left.items()} | {f"terse_{m}": v for m, v in style.items()}
        | {"raw_left": there.left, "floor": float(there.floor.sum() / there.before.sum())},
        seed=seed,
        notes="left: share of the squared transport, in variances of a unit, that stays on new texts; raw_left, and "
        "floor (between halves of the new terse texts): of the paper's loss, in squared activations.",
        figure=Drawing("bars", show=("left",), x=tuple(left), y_title="transport left on new texts", chance=1.0),
    )  # fmt: skip


def _texts(style: str, n: int, seed: int) -> list[str]:
    return [f"{c.prompt} {c.rationale(style, seed=i)}" for i, c in enumerate(chains(n, (2, 3), seed=seed))]


def _begun(n: int, seed: int) -> list[str]:
    """Questions with the first sentence of a wordy rationale."""
    return [f"{c.prompt} {c.rationale().split(' . ')[0]} ." for c in chains(n, (2, 3), seed=seed)]


def _terse(model: Any, begun: list[str], edits: Any) -> float:
    """The mean probability of a terse second sentence's word, among the words that begin one."""
    logits = ins.run(model, begun, edits=edits, output="last").output.logits[:, -1].float()
    words = model.tokenizer.convert_tokens_to_ids(["b", "now", "then", "so"])
    return float(logits[:, words].softmax(-1)[:, 0].mean())


def _drawn(units: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """As many units of every site, drawn evenly."""
    draw = torch.Generator().manual_seed(seed)
    return {site: mask[torch.randperm(len(mask), generator=draw)] for site, mask in units.items()}


def _size(maps: AffineSteer) -> float:
    """How far maps are from doing nothing: the length of all shifts and changes of scale."""
    both = [*maps.bias.values(), *(w - 1 for w in maps.weight.values())]
    return float(torch.cat([x.flatten() for x in both]).norm())
