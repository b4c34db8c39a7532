"""A sentiment direction on Gemma 3 270M, from texts to a layer and a dose under a KL budget, beside four controls.

Bounds, written before the run, on prompts that the dose was not chosen on: the judge's score rises, with the lower end
of its interval above 0.05; it ends above each control's score; KL stays within the budget for the dose of the grid. A
strength searched by bisection spends the whole budget where it was searched, so that other prompts are above it half
of the time: within 1.5 times the budget. The figure goes to docs/images.
A first run, which steered where the texts lie furthest apart (layer 17, doses up to 0.04), missed three of these: the
score rose by 0.03 [-0.04, 0.15] at a KL of 0.002. Since then sites are tried at an equal KL.

    python -m bench.steering_gemma [new tokens]
"""

import sys
from itertools import product

import inscape as ins
from bench.common import ROOT, SEED, Row, set_up, write
from inscape.reports.steering import steering_report
from inscape.view.png import png

BUDGET = 0.1  # nats a token
RISE = 0.05
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


def main(new: int = 16) -> None:
    set_up()
    model = ins.open("gemma-3-270m")
    sides = [[f"{subject} {feeling[side]}." for subject, feeling in product(SUBJECTS, FEELINGS)] for side in (0, 1)]
    found = steering_report(
        model, sides[0], sides[1], PROMPTS, kl_budget=BUDGET, max_new_tokens=new, seed=SEED, progress=_tell
    )
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
        model, found.direction, chosen, BUDGET, unit="relative", max_new_tokens=new, progress=_tell
    )
    rows += [
        row("KL of the searched strength where it was searched", strength.measured.value, 1.02 * BUDGET),
        row("KL of the searched strength, other prompts", strength.held(model, held).value, 1.5 * BUDGET),
    ]
    write("steering_gemma", rows, searched=strength.gamma, new_tokens=new, **found.numbers())


def row(what: str, value: float, bound: float, *, above: bool = False) -> Row:
    met = value > bound if above else value <= bound
    print(f"  {what}: {value:.4f} ({'above' if above else 'at most'} {bound:g}: {'met' if met else 'MISSED'})")
    return {"case": what, "value": value, "above" if above else "at_most": bound, "met": met}


def _tell(message: str, fraction: float | None = None) -> None:
    print(f"  {0 if fraction is None else fraction:4.0%} {message}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
