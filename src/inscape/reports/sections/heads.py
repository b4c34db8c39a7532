"""What the attention heads look at."""

from inscape.circuits.heads import KINDS, HeadScores, head_scores
from inscape.core.errors import InputError, ModelError
from inscape.models.model import Model
from inscape.reports.material import Material
from inscape.reports.words import layer_labels, number_of
from inscape.view.charts import heatmap
from inscape.view.figure import Figure, Section
from inscape.view.table import table

TITLE = "What the attention heads look at"
WORDS = {
    "previous": "the token before",
    "duplicate": "the same token one period ago",
    "induction": "what followed the same token one period ago",
    "first": "the first position",
}


def section(model: Model, material: Material) -> Section:
    """Scores of every head on repeated random tokens: a table of the best, and one map a kind."""
    if material.kind in ("image", "other"):
        return Section(TITLE, skipped="the probe is made of tokens that come twice; these inputs are no tokens.")
    try:
        made = head_scores(model, seed=material.seed, progress=material.progress)
    except (ModelError, InputError) as reason:
        return Section(TITLE, skipped=str(reason).splitlines()[0])
    says = (
        f"A probe of {made.length} random tokens that come twice, {made.n_rows} of "
        "them: a score is the mean attention on the key "
        "that each kind of head would look at."
    )
    return Section(TITLE, (_best(made), *(_map(made, kind) for kind in KINDS)), says=says)


def _best(made: HeadScores, n: int = 3) -> Figure:
    rows = []
    for kind in KINDS:
        for layer, head, score in made.top(kind, n):
            at = made.layers.index(layer)
            control = float(made.control[kind][at, head]) if made.control is not None else None
            rows.append([kind, WORDS[kind], number_of(layer), head, score, control, float(made.chance[kind][at])])
    layer, head, score = made.top("induction", 1)[0]
    at = made.layers.index(layer)
    there = float(made.control["induction"][at, head]) if made.control is not None else float("nan")
    verdict = (
        "an induction head"
        if score > 5 * max(there, float(made.chance["induction"][at]))
        else "no clear induction head"
    )
    return Figure(
        "table",
        table(["kind", "looks at", "layer", "head", "score", "shuffled probe", "chance"], rows),
        f"The best heads of each kind; {number_of(layer)} head {head} is {verdict} ({score:.2f} of its attention).",
        control=(
            "the shuffled probe has the same tokens in its second half in another order: "
            "duplicate and induction heads must fall there, "
            "heads that go by position (previous, first) must not. Chance is even attention over the keys in sight."
        ),
        call="from inscape.circuits.heads import head_scores\nmade = head_scores(model)\nmade.top('induction')",
    )


def _map(made: HeadScores, kind: str) -> Figure:
    scores = made.scores[kind]
    spec = heatmap(
        scores,
        layer_labels(made.layers),
        [str(h) for h in range(scores.shape[1])],
        rows_up=True,
        x_title="head",
        y_title="layer",
        value_title="attention",
    )
    chance = made.chance[kind].nanmean()
    above = int((scores > 5 * chance).sum())
    unseen = int(scores.isnan().all(1).sum())
    hidden = f" {unseen} layers cannot see that far and stay empty." if unseen else ""
    control = (
        ""
        if made.control is None
        else f" On the shuffled probe {int((made.control[kind] > 5 * chance).sum())} heads are above five times chance."
    )
    return Figure(
        "vega",
        spec,
        (f"{kind.capitalize()}: attention on {WORDS[kind]}; {above} heads are above five times chance.{hidden}"),
        control=f"chance is {float(chance):.3f}.{control}",
        call=f"head_scores(model).scores[{kind!r}]",
    )
