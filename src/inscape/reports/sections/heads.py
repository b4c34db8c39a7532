"""The atlas of heads: which of them are of which known kind."""

from inscape.circuits.heads import KINDS, HeadAtlas, Kind, head_atlas
from inscape.core.errors import InputError, ModelError
from inscape.models.model import Model
from inscape.reports.material import Material
from inscape.reports.words import layer_labels, times
from inscape.view.charts import heatmap
from inscape.view.figure import Figure, Section
from inscape.view.table import table

TITLE = "What the attention heads do"
DRAWS = 500
ALPHA = 0.05


def section(model: Model, material: Material) -> Section:
    """Every head tried for every known kind: a table of the kinds with their strongest heads, and one map a kind."""
    if material.kind in ("image", "other"):
        return Section(TITLE, skipped="the probe is made of tokens that come twice; these inputs are no tokens.")
    try:
        made = head_atlas(model, draws=DRAWS, seed=material.seed, progress=material.progress)
    except (ModelError, InputError) as reason:
        return Section(TITLE, skipped=str(reason).splitlines()[0])
    says = (
        "Every head was tried for every kind, each beside its own control; p counts that all heads were looked at. "
        "Names are by behaviour: a mover brings the answer on these prompts, whatever else it is for."
    )
    if made.skipped:
        says += f" Not tried here: {'; '.join(f'{kind} ({_short(why)})' for kind, why in made.skipped.items())}."
    shown = [kind for kind in KINDS if kind.name in made.found]
    return Section(TITLE, (_kinds(made, shown), *(_map(made, kind) for kind in shown)), says=says)


def _short(why: str) -> str:
    return why.rstrip(".:")


def _kinds(made: HeadAtlas, kinds: list[Kind], n: int = 4) -> Figure:
    rows = []
    for kind in kinds:
        measured, found = made.of(kind.name), made.heads(kind.name, ALPHA)
        (layer, head, score, p), *rest = found[:n] or made.top(kind.name, 1)
        line = float(measured.line[made.layers.index(layer), head])
        strongest = ", ".join(f"{a.removeprefix('layers.')}.{h}" for a, h, *_ in [(layer, head), *rest])
        strongest += ", …" if len(found) > n else ""
        numbers = [round(x, 3) + 0.0 for x in (score, line, measured.chance)]
        rows.append([kind.name, kind.does, len(found), strongest, *numbers, round(p, 4), measured.unit])
    several = sum(1 for layer in made.layers for head in range(_width(made)) if len(made.kinds(layer, head, ALPHA)) > 1)
    none = sum(1 for layer in made.layers for head in range(_width(made)) if not made.kinds(layer, head, ALPHA))
    return Figure(
        "table",
        table(["kind", "what it does", "heads", "strongest", "score", "line", "chance", "p", "score is"], rows),
        f"Kinds of heads, the strongest of each as layer.head, and the first one's score; {times(several, 'head')} "
        f"{'is' if several == 1 else 'are'} of several kinds, {none} of none.",
        control=(
            "a head counts when the best of all heads does as well in at most 5 of 100 draws of the kind's control; "
            "line is the score that takes, chance the control's mean."
            + "".join(f" A {kind.name} also has {kind.floor:g} at least." for kind in kinds if kind.floor)
            + " Controls: "
            + "; ".join(f"{kind.name}, {kind.control}" for kind in kinds)
            + "."
        ),
        call="from inscape.circuits.heads import head_atlas\natlas = head_atlas(model)\natlas.heads('previous')",
    )


def _width(made: HeadAtlas) -> int:
    return next(iter(made.found.values())).score.shape[1]


def _map(made: HeadAtlas, kind: Kind) -> Figure:
    measured, found = made.of(kind.name), made.heads(kind.name, ALPHA)
    spec = heatmap(
        measured.score,
        layer_labels(made.layers),
        [str(h) for h in range(measured.score.shape[1])],
        rows_up=True,
        x_title="head",
        y_title="layer",
        value_title=measured.unit,
        diverging=bool((measured.score < 0).any()),
    )
    unseen = int(measured.score.isnan().all(1).sum())
    hidden = f" {times(unseen, 'layer')} cannot be tried for it and stay empty." if unseen else ""
    notes = f" {'; '.join(measured.notes)}." if measured.notes else ""
    return Figure(
        "vega",
        spec,
        f"{kind.name.capitalize()}: {kind.does}; {times(len(found), 'head')}.{hidden}",
        control=f"{kind.control}; chance is {measured.chance:.3f}.{notes}",
        call=f"head_atlas(model).of({kind.name!r}).score",
    )
