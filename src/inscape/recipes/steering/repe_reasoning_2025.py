"""RepE for reasoning: one vector from solved examples, added in the middle of a net, bends what it answers.

Stories of the pattern of bAbI's task 15 are asked about names that the net was never asked about. Right answers after
their questions, and the net's own likeliest wrong ones, give three vectors after the third of six blocks: the mean
state of the right, the mean difference, the first component of the differences, turned towards the right. They are
swept over strengths; accuracy, mass, KL and entropy are of the next token, over a closed list of answers. The strength
is chosen on some stories and tested on others. The net has learned to deduce, and also a careless habit of some of its
texts, so that there is something to steer between: see `toy-deduction`.
Pilots on other stories, and on a net stopped earlier, were seen before the bounds were final: strength 1, where the
paper stops, moved predictions by 0.01 nats, so that strengths go to 8; exchanged sides mirrored the curve to 2e-6,
since texts are read in other batches, so that the bound is no longer 0. The mean difference gained nothing, and
exchanged partners left a cosine of 0.95 to 0.98. The other task is which of the known names is asked about: that of
fewer creatures, the first choice, is the cue by which these texts are more careful, and stands beside them as what a
vector might have done.
In the full run no vector helps: the best validated strength of all three is 0, and at equal KL they stand among random
vectors. The net was not taught that answers are right or wrong, and did not learn to go by earlier ones, so that its
state after an answer says which it is and little more. Gemma 3 270M, asked for the end of a sentence on short stories
(64 for testing, too few for a gain of points), is best at strength 0 too.
Cost: three minutes on one core. Differs from the source: nets of half a million parameters in place of Pythia and
Mistral, one of three tasks; wrong answers of the net's own for bAbI too (random strings, which the released data have
there, are a curve beside them); plurals as answers.
"""

import random as dice
from itertools import product
from typing import Any

import torch

import inscape as ins
from inscape.core.drawing import Drawing
from inscape.core.interval import Interval
from inscape.core.nulls import rank_correlation
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.steer.closed_answers import closed_answers
from inscape.steer.equal_kl import beside_random
from inscape.steer.sweep_answers import AnswerSweep, mean_of, sweep_answers
from inscape.tasks.deduction import NAMES, PLURALS, WORDS, Deduction, deductions

VECTORS = ("mean difference", "component", "mean")
LIST = [f" {kind}" for kind in PLURALS]
GRID = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

PAPER = Paper(
    name="repe-reasoning",
    title="Improving Reasoning Performance in Large Language Models via Representation Engineering",
    authors="Højer, Jarvis, Heinrich",
    year=2025,
    link="https://arxiv.org/abs/2504.19483",
    code="https://github.com/bertramhojer/improve-reasoning-iclr-2025",
    control="20 random vectors at the same KL; exchanged sides; exchanged partners; a vector of another task; flipped",
    claims=(
        Claim("zero", "at strength 0 no logit changes by a bit", at_most=0),
        Claim("monotone", "KL grows with the strength on either side, of all three vectors, up to strength 1: the "
              "least Spearman correlation", at_least=0.95),
        Claim("rank_difference", "at equal KL the mean difference raises the mass of the right answers more than 19 "
              "of 20 random vectors: its rank among the 21", at_most=2, control="sides of half the pairs exchanged"),
        Claim("rank_component", "and so does the component of the differences", at_most=2,
              control="components of differences within a side"),
        Claim("not_below", "at the best validated strength accuracy on other stories is not below the base's interval: "
              "the least of the three vectors, above the lower end", at_least=0),
        Claim("gain", "of the mean difference it is higher than without: lower end of the interval of the gain",
              at_least=0.02, control="a vector of another task, its strength chosen alike"),
        Claim("mirrored", "with positives and negatives exchanged the curve of the mean difference is mirrored: the "
              "largest difference of the means of KL, entropy and mass, up to strength 1", at_most=1e-4),
        Claim("pairs_mean", "with partners exchanged the mean difference stays what it was: the relative change",
              at_most=1e-5),
        Claim("pairs_component", "and the component does not: its cosine to itself", at_most=0.9,
              control="the mean difference"),
    ),
)  # fmt: skip
QUICK = dict(pairs=6, validation=4, test=4, random=1, strengths=(0.5, 1.0), kl=0.005, gemma="")


def run(model="toy-deduction", *, gemma: str = "gemma-3-270m", pairs: int = 300, validation: int = 300,
        test: int = 1000, random: int = 20, kl: float = 0.1, strengths=GRID, seed: int = 0,
        progress=None) -> Result:  # fmt: skip
    model = ins.open(model) if isinstance(model, str) else model
    tell(progress, "vectors", 0.02)
    fitted, held, new = (_stories(n, 10 * seed + i) for i, n in enumerate((pairs, validation, test)))
    made = _vectors(model, fitted, seed)
    shown = ("mean difference", "component", "mean", "other task", "random strings", "fewer creatures", "swapped")
    tell(progress, "sweep", 0.1)
    grid = [sign * a for sign, a in product((1, -1), strengths)]
    swept = sweep_answers(model, {c: made[c] for c in shown}, *_asked(held), LIST, grid, seed=seed)
    tell(progress, "test", 0.5)
    kept = closed_answers(model, *_asked(new), LIST)
    tests = {c: swept.test(model, kept, curve=c) for c in (*shown[:6], "random")}
    tell(progress, "equal KL", 0.6)
    shuffles = ("sides exchanged", "within a side")
    some = {c: made[c] for c in (*VECTORS, "fewer creatures", *shuffles)}
    beside = beside_random(model, some, *_asked(held[: len(held) // 2]), LIST, kl, n=random, seed=seed)
    tell(progress, "Gemma", 0.85)
    large = _language_model(gemma, seed) if gemma else None
    logits = [ins.run(model, _asked(held)[0][:16], edits=e).output.logits
              for e in ([], ins.add(made["mean difference"], 0.0))]  # fmt: skip
    at, zero, alphas = swept.curves.index, swept.alphas.index(0.0), torch.tensor(swept.alphas)
    size = {m: swept.mean(m).value for m in ("right", "kl", "entropy", "mass", "share")}
    near = alphas.abs() <= 1
    monotone = [rank_correlation(alphas[side & near].abs().tolist(), size["kl"][at(c)][side & near].tolist())
                for c in VECTORS for side in (alphas >= 0, alphas <= 0)]  # fmt: skip
    mirrored = [(size[m][at("swapped")].flip(0) - size[m][0]).abs()[near].max() for m in ("kl", "entropy", "mass")]
    first, last = swept.mean("right"), beside.random_changes()
    pair = {c: (made[c].vector, made[f"{c}, partners exchanged"].vector) for c in VECTORS[:2]}
    cosine = {c: float(torch.cosine_similarity(*both, dim=0)) for c, both in pair.items()}
    before, after = pair["mean difference"]
    also = {f"{m}_base": _mean_at(swept, m, zero) for m in size} | {"test_base": tests["mean"].base}
    for c, tested in tests.items():
        also |= {f"{_key(c)}_alpha": tested.alpha, f"{_key(c)}_gain": tested.change}
    also |= {f"{_key(c)}_{m}": tests[c].also[m] for c in VECTORS for m in ("kl", "entropy", "mass", "share", "others")}
    also |= {f"{_key(c)}_at_equal_kl": beside.change(c) for c in some}
    also |= {f"{_key(c)}_strength_at_equal_kl": beside.strengths[c] for c in some}
    also |= {"mean_rank": beside.rank("mean")} | (
        {"random_most": last.max(), "random_least": last.min()} if len(last) else {}
    )
    also |= {f"gemma_{k}": v for k, v in (large or {}).items()}
    return Result(
        PAPER,
        {"zero": float((logits[0] - logits[1]).abs().max()), "monotone": min(monotone),
         "rank_difference": beside.rank("mean difference"), "rank_component": beside.rank("component"),
         "not_below": min(tests[c].steered.value - tests[c].base.low for c in VECTORS),
         "gain": tests["mean difference"].change.low, "mirrored": float(max(mirrored)),
         "pairs_mean": float((before - after).norm() / before.norm()),
         "pairs_component": cosine["component"]},
        controls={"rank_difference": beside.rank(shuffles[0]), "rank_component": beside.rank(shuffles[1]),
                  "gain": tests["other task"].change.low, "pairs_component": cosine["mean difference"]},
        series={c: size["right"][at(c)] for c in swept.curves if c != "swapped"}
        | {"low": first.low[0], "high": first.high[0]}
        | {f"{m} of the mean difference": size[m][0] for m in ("kl", "entropy", "mass", "share")},
        also=also, seed=seed,
        notes="right: share of stories where the right answer is the likeliest of the list, on validation stories; "
        "gains are on test stories. mass, others: raw; share: of the list. at_equal_kl: change of the raw mass.",
        figure=Drawing("lines", show=("mean difference", "component", "mean"),
                       control=("other task", "random strings", "fewer creatures", "random"),
                       band={"mean difference": ("low", "high")}, x=swept.alphas, x_title="strength",
                       y_title="right of the validation stories"),
    )  # fmt: skip


def _stories(n: int, seed: int) -> list[Deduction]:
    return deductions(n, names=(2, 4), new_names=True, last=True, seed=seed)


def _asked(stories: list[Deduction]) -> tuple[list[str], list[str]]:
    return [d.prompt for d in stories], [f" {d.answer}" for d in stories]


def _solved(model: Any, prompts: list[str], answers: list[str]) -> tuple[list[str], list[str]]:
    """Prompts with their right answers, and with what the model finds the likeliest of the wrong ones."""
    rivals = closed_answers(model, prompts, answers, LIST).plain.rival.tolist()
    return ([p + a for p, a in zip(prompts, answers, strict=True)],
            [p + LIST[i] for p, i in zip(prompts, rivals, strict=True)])  # fmt: skip


def _vectors(model: Any, stories: list[Deduction], seed: int) -> dict[str, ins.Direction]:
    """At the middle site: the three kinds, and what stands beside them."""
    site = f"layers.{model.n_layers // 2 - 1}.resid_post"
    right, wrong = _solved(model, *_asked(stories))
    draw = dice.Random(seed)
    strings = [" ".join(draw.choices(WORDS, k=len(text.split()))) for text in right]
    many, few = ([d.prompt for d in deductions(len(stories), names=n, last=True, seed=10 * seed + 5)] for n in (4, 2))
    told = deductions(4 * len(stories), last=True, seed=10 * seed + 6)
    names = [[d.prompt for d in told if (d.asked in NAMES[:3]) == side][: len(stories)] for side in (True, False)]

    def fit(method: str, positive: Any = right, negative: Any = wrong, control: str | None = None) -> ins.Direction:
        return ins.fit_directions(model, positive, negative, site, method=method, control=control, seed=seed)[site]

    two = {"mean difference": "mean_difference", "component": "pca_difference"}
    return (
        {c: fit(m) for c, m in two.items()}
        | {f"{c}, partners exchanged": fit(m, control="pairs") for c, m in two.items()}
        | {"mean": fit("mean", negative=None), "swapped": fit("mean_difference", wrong, right),
           "sides exchanged": fit("mean_difference", control="shuffle"),
           "within a side": fit("pca_difference", control="shuffle"),
           "random strings": fit("mean_difference", right, strings),
           "other task": fit("mean_difference", names[0], names[1]),
           "fewer creatures": fit("mean_difference", few, many)}
    )  # fmt: skip


def _language_model(name: str, seed: int) -> dict[str, Any]:
    """The mean difference in a language model, on short stories: nothing is claimed of it."""
    model = ins.open(name)
    site = f"layers.{model.n_layers // 2 - 1}.resid_post"
    sets = [deductions(n, kinds=3, names=2, last=True, seed=10 * seed + 7 + i) for i, n in enumerate((32, 32, 64))]
    fitted, held, new = ([d.english for d in s] for s in sets)
    answers = [[f" {d.answer}" for d in s] for s in sets]
    vector = ins.fit_directions(model, *_solved(model, fitted, answers[0]), site)[site]
    swept = sweep_answers(model, vector, held, answers[1], LIST, (1, 3), controls=("random",), batch_rows=16)
    kept = closed_answers(model, new, answers[2], LIST, batch_rows=16)
    found = {c: swept.test(model, kept, curve=c) for c in swept.curves}
    tested = found["direction"]
    return {"base": tested.base, "alpha": tested.alpha, "gain": tested.change, "kl": tested.also["kl"],
            "share": tested.also["share"], "random_alpha": found["random"].alpha,
            "random_gain": found["random"].change}  # fmt: skip


def _mean_at(swept: AnswerSweep, measure: str, alpha: int) -> Interval:
    return mean_of(getattr(swept, measure)[0, alpha])


def _key(curve: str) -> str:
    return curve.replace(" ", "_")
