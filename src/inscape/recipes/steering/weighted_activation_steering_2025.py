"""WAS: a small controller decides how strongly each prompt is steered, so that harmless ones are left alone.

A net refuses questions on three topics half of the time. A two-layer network learns from the first two blocks, at the
end of the prompt, which questions these are; its strength, one number a question, times a weight a layer, says how far
a unit direction pushes the later blocks' outputs at the last token and every new one. Fitted on three wordings and
measured on three others, by the exact probability that the whole refusal is written, which is the share at temperature
1. Beside it stand one push for all questions, tuned to refuse as many of the marked ones; controllers of shuffled
labels; random unit directions pushed by as much at every token. Three directions are tried in this order: between words
of refusals and of answers in the embedding (the authors' code), between mean states of the two kinds of questions, and
trained to make the refusal likely. The claims are of the first that gains 20 points where it was fitted; alpha is the
one of a grid that refuses most marked questions there.
Bounds are those of the page but for the difference of increases, which is ours. Pilots on another net and other seeds
were seen: the words' direction lowered refusals a little, the mean difference gained 10 points, the trained one 23 to
25; strengths decided anew at every token broke the refusal off where pushes were large. Which topics are marked is
plain in one word of a question: telling them apart is easy here.
In the recorded run the words' direction does nothing (the net's two embeddings are not tied). The weights of the layers
stay at a half, since labels give them no gradient; trained through the model they come to 0.04, 0.86 and 0.76, and the
gain at an equal push to 0.31 from 0.29. A harmless question's strength is below 0: it is pushed away from refusing.
Cost: a minute and a half on one core. Differs from the source: a net of 0.7 million parameters that hesitates by
training in place of Llama and Mistral with public jailbreak sets; strengths are decided once a prompt, the authors'
anew at every token (`also`); alpha is chosen, theirs is 4; a fixed string in place of GPT-4o as judge.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import inscape as ins
from inscape.core.drawing import Drawing
from inscape.core.nulls import auc, bootstrap, random_directions
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.dynamics.toys.refuser import HARMLESS_TOPICS
from inscape.engine.answer_log_probs import answer_log_probs
from inscape.steer.controller import SteeringController
from inscape.steer.fit_controller import fit_controller
from inscape.steer.matched_dose import matched_dose
from inscape.steer.optimise import optimise_direction
from inscape.steer.tokens import token_direction
from inscape.tasks.place_questions import ANSWERS, REFUSAL, SENSITIVE_TOPICS, place_questions

PAPER = Paper(
    name="was",
    title="Guiding Giants: Lightweight Controllers for Weighted Activation Steering in LLMs",
    authors="Hegazy, Elhoushi, Alanwar",
    year=2025,
    link="https://arxiv.org/abs/2505.20309",
    code="https://github.com/Amr-Hegazy1/GuidingGiantsWAS",
    control="one push for all questions; random unit directions pushed by as much; controllers of shuffled labels",
    claims=(
        Claim("gain", "on new wordings marked questions are refused more often, by 0.2 at least: lower limit",
              at_least=0.2, control="random unit directions, pushed by as much at every token"),
        Claim("harmless", "refusals of harmless questions change by 0.05 at most: the limit farther from 0",
              at_most=0.05, control="one push for all questions that refuses as many marked ones"),
        Claim("constant_ratio", "one push for all, tuned to refuse as many marked questions, adds 3 times as many "
              "refusals of harmless ones, an addition below 0.005 taken for 0.005", at_least=3),
        Claim("constant_more", "and 0.05 more of them in plain numbers: lower limit", at_least=0.05),
        Claim("auroc", "the strength tells new questions of the two kinds apart: lower limit", at_least=0.9,
              control="labels shuffled, mean over controllers"),
        Claim("shuffled_auroc", "with shuffled labels it does not, in the mean over controllers",
              at_least=0.4, at_most=0.6),
        Claim("random_share", "random unit directions, pushed by as much, give less than a third of the gain: upper "
              "limit of their mean", below=0.333),
    ),
)  # fmt: skip
QUICK = dict(n=10, steps=4, model_steps=2, shuffles=1, draws=1, grid=(0.1, 0.3))
GRID = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)
SEEN = ("layers.0.resid_post", "layers.1.resid_post")
ACT = ("layers.1.resid_post", "layers.2.resid_post", "layers.3.resid_post")
NONE = float("nan")


def run(model="toy-refuser", *, n: int = 200, steps: int = 400, model_steps: int = 60, shuffles: int = 20,
        draws: int = 8, grid: tuple[float, ...] = GRID, seed: int = 0, progress=None) -> Result:  # fmt: skip
    model = ins.open(model) if isinstance(model, str) else model
    fitted, new = (_questions(n, wordings, seed) for wordings in ((0, 1, 2), (3, 4, 5)))
    states = [ins.run(model, side, read=SEEN, reduce="last") for side in fitted]

    def laid(vector: Tensor) -> ins.Directions:
        return ins.Directions.of(*(ins.Direction(site, vector, model=model.fingerprint) for site in ACT))

    def controller(vector: Tensor, sides: Any = states, **more: Any) -> SteeringController:
        options: dict[str, Any] = {"hidden": 1024, "steps": steps, "seed": seed, **more}
        return fit_controller(model, laid(vector), sides[0], sides[1], SEEN, **options)

    def refused(sides: Any, edits: Any = ()) -> Tensor:
        return torch.stack([answer_log_probs(model, side, f" {REFUSAL}", edits).exp() for side in sides])

    base, vectors, found = refused(new), _directions(model, fitted, model_steps, seed), {}
    for i, (name, vector) in enumerate(vectors.items()):
        tell(progress, f"steering by {name}", 0.1 + 0.15 * i)
        c = controller(vector)
        gains = {alpha: float((refused(fitted[:1], c.edits(alpha)) - refused(fitted[:1])).mean()) for alpha in grid}
        alpha = max(gains, key=gains.__getitem__)
        found[name] = (c, alpha, gains[alpha], refused(new, c.edits(alpha)))
    chosen = next((x for x in found if found[x][2] >= 0.2), max(found, key=lambda x: found[x][2]))
    c, alpha, _, after = found[chosen]
    decided = [c.score(model, side) for side in new]
    push = _push(decided[0])
    tell(progress, "one push for all questions", 0.6)

    def constant(dose: float) -> Tensor:
        return refused(new, [ins.add(d, dose, at="newest") for d in c.directions.values()])

    doses = [a * float(push.mean()) for a in grid]
    curve, same = ([f(x) for x in xs] for f, xs in ((lambda a: refused(new, c.edits(a)), grid), (constant, doses)))
    dose = matched_dose(lambda d: float(constant(d)[0].mean()), float(after[0].mean()), doses)
    level = constant(dose) if dose else base * NONE
    gain, change, more = (after - base)[0], (after - base)[1], (level - base)[1]
    tell(progress, "controls", 0.75)
    drawn = random_directions(vectors[chosen], draws, seed=seed + 1)
    chance = torch.stack([refused(new, replace(c, directions=laid(v)).edits(alpha))[0] - base[0] for v in drawn])
    dark = [controller(vectors[chosen], control="shuffle", **{"seed": seed + k}) for k in range(shuffles)]
    areas = [auc(*_labelled([d.score(model, side) for side in new]), n=1, seed=seed).value for d in dark]
    area, shuffled = auc(*_labelled(decided), seed=seed), sum(areas) / len(areas)
    tell(progress, "trained through the model", 0.9)
    through = controller(vectors[chosen], fitted, training="end_to_end", targets=REFUSAL, alpha=alpha,
                         model_steps=model_steps)  # fmt: skip
    own = through.score(model, new[0])
    same_norm = float(push.norm(dim=1).mean() / _push(own).norm(dim=1).mean())
    further = {"end_to_end": refused(new, through.edits(same_norm)),
               "each_token": refused(new, controller(vectors[chosen], timing="each").edits(alpha)),
               **{name: x[3] for name, x in found.items()}}  # fmt: skip
    share = bootstrap((chance.mean(0), gain), lambda a, b: a.mean() / b.mean().clamp(min=1e-3), n=500)
    mine = _ends(gain)[0]
    return Result(
        PAPER,
        {
            "gain": mine,
            "harmless": max(map(abs, _ends(change))),
            "constant_ratio": float(more.mean()) / max(float(change.mean()), 0.005),
            "constant_more": _ends(more - change)[0],
            "auroc": area.interval.low,
            "shuffled_auroc": shuffled,
            "random_share": share.high if mine > 0 else NONE,
        },
        controls={"gain": _ends(chance.mean(0))[0], "harmless": max(map(abs, _ends(more))), "auroc": shuffled},
        series={f"{side}{who}": [float(x[k].mean()) for x in what] for k, side in enumerate(("marked", "harmless"))
                for who, what in (("", curve), (", one push", same))} | {"shuffled AUROC": areas},
        also={f"{name}_{side}": float((x - base)[k].mean()) for name, x in further.items()
              for k, side in enumerate(("marked", "harmless"))}
        | {f"{name}_{what}": x[k] for name, x in found.items() for k, what in ((1, "alpha"), (2, "marked_fitted"))}
        | {"marked_before": float(base[0].mean()), "harmless_before": float(base[1].mean()),
           "constant_marked": float((level - base)[0].mean()), "constant_harmless": float(more.mean()),
           "random_marked_most": float(chance.mean(1).max()), "auroc_itself": area.interval,
           "gain_itself": bootstrap(gain), "harmless_itself": bootstrap(change), "random_share_itself": share,
           "weights_over_questions": float(decided[0].weights.std(0).mean()),
           **{f"weight_{k}{who}": float(w) for who, d in (("", decided[0]), ("_end_to_end", own))
              for k, w in zip((1, 2, 3), d.weights.mean(0), strict=True)}},
        notes=f"claims are of the direction {chosen!r}. also: changes from before; end_to_end at an equal push",
        seed=seed,
        figure=Drawing("lines", show=("marked", "harmless"), control=("marked, one push", "harmless, one push"),
                       x=tuple(doses), x_title="mean push of marked questions, at a layer", y_title="refused"),
    )  # fmt: skip


def _questions(n: int, wordings: tuple[int, ...], seed: int) -> list[list[str]]:
    """Marked and harmless ones: to fit of those that the net was trained on, to measure of the others."""
    held_out = 0 not in wordings
    return [[q.prompt for q in place_questions(n, topics, wordings, held_out=held_out, seed=seed)]
            for topics in (SENSITIVE_TOPICS, HARMLESS_TOPICS)]  # fmt: skip


def _directions(model: Any, fitted: list[list[str]], steps: int, seed: int) -> dict[str, Tensor]:
    """Unit vectors from answering to refusing."""
    said = [word for words in ANSWERS.values() for word in words.split()]
    marked, harmless = fitted
    trained = optimise_direction(model, ACT[0], marked, [REFUSAL] * len(marked), positions="predicting", steps=steps,
                                 seed=seed)  # fmt: skip
    made = {"words": token_direction(model, REFUSAL.split(), said), "trained": trained.direction,
            "mean": ins.fit_directions(model, marked, harmless, ACT[0])[ACT[0]]}  # fmt: skip
    return {name: made[name].vector / made[name].vector.norm() for name in ("words", "mean", "trained")}


def _push(decided: Any) -> Tensor:
    """How far each question is pushed at each layer, at alpha = 1."""
    return decided.strength[:, None] * decided.weights


def _labelled(decided: Any) -> tuple[Tensor, Tensor]:
    """The strengths of both kinds, and which are marked."""
    strength = torch.cat([d.strength for d in decided])
    return strength, torch.arange(len(strength)) < len(decided[0].strength)


def _ends(change: Tensor) -> tuple[float, float]:
    """The interval of a mean; none where nothing was measured."""
    found = bootstrap(change) if bool(change.isfinite().all()) else None
    return (found.low, found.high) if found else (NONE, NONE)
