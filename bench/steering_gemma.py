"""A sentiment direction on Gemma 3 270M, from texts to a layer and a dose under a KL budget, beside four controls.

Bounds, written before the run, on prompts that the dose was not chosen on: the judge's score rises, with the lower end
of its interval above 0.05; it ends above each control's score; KL stays within the budget for the dose of the grid. A
strength searched by bisection spends the whole budget where it was searched, so that other prompts are above it half
of the time: within 1.5 times the budget. The figure goes to docs/images.
These were 11 prompts, too few: `confirm` takes the layer and the dose to 60 new ones, with the direction of all texts.
Its bounds, written after the first part and before itself: the score rises, lower end above 0.05; the direction is
ahead of the random, shuffled and wrong-layer controls prompt by prompt, and what is flipped lowers the score, lower
ends above 0; KL within the budget.
A first run, which steered where the texts lie furthest apart (layer 17, doses up to 0.04), missed three of these: the
score rose by 0.03 [-0.04, 0.15] at a KL of 0.002. Since then sites are tried at an equal KL.

    python -m bench.steering_gemma
    python -m bench.steering_gemma confirm
"""

import json
import sys
from itertools import product
from typing import Any

import inscape as ins
from bench.common import RESULTS, ROOT, SEED, Row, machine, set_up, write
from bench.table import placed
from inscape.core.nulls import bootstrap
from inscape.reports.steering import steering_report
from inscape.steer.judges import classifier
from inscape.steer.shuffles import fit_shuffles
from inscape.view.png import png

BUDGET = 0.1  # nats a token
RISE = 0.05
PAGE = ROOT / "docs" / "steering.md"
FIGURE = ROOT / "docs" / "images" / "steering.png"
SUBJECTS = (
    "The soup they brought us", "The flat by the river", "Last night's concert", "The speech at the wedding",
    "Our journey north", "The new garden", "That hotel on the coast", "The second half of the match",
    "The play at school", "Her first novel", "The walk home", "This old museum",
)  # fmt: skip
FEELINGS = (
    ("was wonderful, and I was happy all day", "was terrible, and I was sad all day"),
    ("made everybody smile, it was a joy", "made everybody cry, it was a misery"),
    ("is the best thing that I can remember, I love it", "is the worst thing that I can remember, I hate it"),
    ("turned out beautifully and we laughed a lot", "turned out horribly and we quarrelled a lot"),
)
PROMPTS = (
    "The morning was", "My brother said that", "When we came home,", "Our neighbours", "Later that week",
    "The road to town", "I opened the letter and", "She looked at me and", "The teacher told us that", "On Sunday we",
    "After the long winter", "The children in the yard", "My first day at work", "He called from the station and",
    "Grandmother always", "In the evening the sea", "The news about the house", "This year the village",
    "They moved to the city and", "The dog next door", "My friend wrote that", "The dinner was", "At the airport",
)  # fmt: skip


WHO = ("My aunt", "The postman", "Our teacher", "The old man", "A friend of mine", "The woman upstairs", "My cousin",
       "The captain", "Somebody", "The new girl", "His father", "The baker")  # fmt: skip
WHAT = ("came in and", "wrote that the", "looked at the", "said that it", "thinks that")
NEW = 16


def texts() -> list[list[str]]:
    return [[f"{subject} {feeling[side]}." for subject, feeling in product(SUBJECTS, FEELINGS)] for side in (0, 1)]


def main() -> None:
    set_up()
    model = ins.open("gemma-3-270m")
    high, low = texts()
    found = steering_report(model, high, low, PROMPTS, kl_budget=BUDGET, max_new_tokens=NEW, seed=SEED, progress=_tell)
    FIGURE.write_bytes(png(found.dose.draw(f"Sentiment at {found.direction.site} of Gemma 3 270M")))
    best = found.best
    rows: list[Row] = [
        row("rise of the score, lower end", best.change.low, RISE, above=True),
        row("KL of the chosen dose, other prompts", best.kl.value, BUDGET),
    ]
    rows += [
        row(f"score above the {name} control", best.effect.value - span.value, 0.0, above=True)
        for name, span in best.controls.items()
    ]
    chosen, held = (list(p) for p in (PROMPTS[::2], PROMPTS[1::2]))
    strength = ins.calibrate_strength(
        model, found.direction, chosen, BUDGET, unit="relative", max_new_tokens=NEW, progress=_tell
    )
    rows += [
        row("KL of the searched strength where it was searched", strength.measured.value, 1.02 * BUDGET),
        row("KL of the searched strength, other prompts", strength.held(model, held).value, 1.5 * BUDGET),
    ]
    write("steering_gemma", rows, searched=strength.gamma, new_tokens=NEW, **found.numbers())


def confirm() -> None:
    """The layer and dose that `main` recorded, on new prompts."""
    set_up()
    known = json.loads((RESULTS / f"{machine()}-steering_gemma.json").read_text())
    site, dose = known["site"], known["dose"]
    model = ins.open("gemma-3-270m")
    high, low = texts()
    judge = classifier(ins.open("minilm-l6"), high, low, groups=list(range(len(high))) * 2, seed=SEED)
    direction = ins.fit_directions(model, high, low, site, position="last")[site]
    prompts = [f"{who} {what}" for who, what in product(WHO, WHAT)]
    found = ins.dose_response(
        model, direction, prompts, [dose], judge, validation=0.0, max_new_tokens=NEW, seed=SEED + 1, progress=_tell,
        shuffled=fit_shuffles(model, high, low, site, position="last", seed=SEED),
    )  # fmt: skip
    at, zero = found.index(dose), found.index(0.0)
    mine, base = found.scores[0, at], found.scores[0, zero]
    rows: list[Row] = [
        row("rise of the score, lower end", bootstrap(mine - base).low, RISE, above=True),
        row("KL of the dose", float(found.kls[0, at].mean()), BUDGET),
    ]
    for k, name in enumerate(found.curves[1:], 1):
        other = found.scores[k, at]
        ahead, what = (base - other, "lowers the score by") if name == "flipped" else (mine - other, "is behind by")
        rows.append(row(f"the {name} control {what}, lower end", bootstrap(ahead).low, 0.0, above=True))
    write("steering_gemma_confirm", rows, site=site, dose=dose, prompts=len(prompts), judge_error=str(judge.held_out),
          doses=found.rows())  # fmt: skip
    page()


def page() -> None:
    """Write both parts into docs/steering.md."""
    parts = (RESULTS / f"{machine()}-{name}.json" for name in ("steering_gemma", "steering_gemma_confirm"))
    first, second = (json.loads(part.read_text()) for part in parts)
    PAGE.write_text(placed(PAGE.read_text(), sentences(first, second)))


def sentences(first: dict[str, Any], second: dict[str, Any]) -> str:
    """What docs/steering.md says of both parts."""
    at = {r["curve"]: r for r in second["doses"] if r["dose"]}
    plain = next(r for r in second["doses"] if not r["dose"])
    mine = at["direction"]

    def score(r: dict[str, Any]) -> str:
        return f"{r['effect']:.2f} [{r['effect_low']:.2f}, {r['effect_high']:.2f}]"

    others = [(name.replace("_", " "), r) for name, r in at.items() if name != "direction"]
    controls = ", ".join(f"{name} {r['effect']:.2f} (KL {r['kl']:.3f})" for name, r in others)
    missed = "; ".join(r["case"] for r in second["rows"] if not r["met"]) or "none"
    return (
        f"{len(texts()[0])} pairs of glad and sad sentences, a budget of {first['kl_budget']:g} nats a token. "
        f"{len(first['tried'])} layers were tried at that budget; {first['site']} did most. The dose that was chosen, "
        f"on {second['prompts']} prompts that nothing was chosen on: the judge's score goes from {score(plain)} to "
        f"{score(mine)} at a KL of {mine['kl']:.3f}; the text costs the unsteered model {mine['fluency']:.2f} nats a "
        f"token, {plain['fluency']:.2f} before.\nScores of the controls: {controls}. Bounds missed: {missed}."
    )


def row(what: str, value: float, bound: float, *, above: bool = False) -> Row:
    met = value > bound if above else value <= bound
    print(f"  {what}: {value:.4f} ({'above' if above else 'at most'} {bound:g}: {'met' if met else 'MISSED'})")
    return {"case": what, "value": value, "above" if above else "at_most": bound, "met": met}


def _tell(message: str, fraction: float | None = None) -> None:
    print(f"  {0 if fraction is None else fraction:4.0%} {message}", flush=True)


if __name__ == "__main__":
    confirm() if sys.argv[1:] == ["confirm"] else main()
