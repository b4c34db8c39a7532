"""What the prediction loses when a layer is skipped."""

from torch import Tensor

from inscape.circuits.skipping import SkipEffects, skip_effects
from inscape.core.errors import InputError, ModelError
from inscape.models.model import Model
from inscape.reports.material import Material
from inscape.reports.words import layer_axis, number_of
from inscape.view.charts import lines
from inscape.view.figure import Figure, Section

TITLE = "What is lost when a layer is skipped"
NAMES = {"replace": "replaced by noise as long", "shuffle": "replaced by the update of another token"}
POSITIONS = 64


def section(model: Model, material: Material) -> Section:
    """KL of the prediction, and change of the loss, for each layer skipped, beside both controls."""
    try:
        made = skip_effects(
            model,
            material.batch,
            control=tuple(NAMES),
            positions=POSITIONS,
            seed=material.seed,
            progress=material.progress,
        )
    except (ModelError, InputError) as reason:
        return Section(TITLE, skipped=str(reason).splitlines()[0])
    first = " The first token always passes every layer." if material.skip_first else ""
    says = f"Every layer in turn is taken out of the stream; {made.n_positions} positions are measured.{first}"
    call = (
        "from inscape.circuits.skipping import skip_effects\nmade = skip_effects(model, "
        f'{material.argument}[:{_rows(material)}], control=("replace", "shuffle"), positions={POSITIONS})'
    )
    figures = [_main(made, call)]
    if made.loss is not None:
        figures.append(_loss(made, made.loss, call))
    return Section(TITLE, tuple(figures), says=says)


def _rows(material: Material) -> int:
    return len(material.batch) if isinstance(material.batch, list) else len(material.runs)


def _main(made: SkipEffects, call: str) -> Figure:
    has = made.kl is not None
    title = "KL from the full model's prediction, nats" if has else "change of the final stream, relative"

    def of(e: SkipEffects) -> Tensor:
        return e.kl if e.kl is not None else e.stream

    values = of(made)
    worst, least = int(values.argmax()), int(values.argmin())
    positive = all(bool((of(e) > 0).all()) for e in (made, *made.control.values()))
    spec = lines(
        {"layer skipped": values},
        x=layer_axis(made.layers),
        y_title=title,
        control={NAMES[n]: of(e) for n, e in made.control.items()},
        scale="log" if positive else "linear",
    )
    less = {n: int((values < of(e)).sum()) for n, e in made.control.items()}
    return Figure(
        "vega",
        spec,
        f"Skipping {number_of(made.layers[worst])} moves the prediction most "
        f"({float(values[worst]):.2g}), {number_of(made.layers[least])} least "
        f"({float(values[least]):.2g}).",
        control=(
            "random noise as long as the update in its place: worse than no update in "
            f"{less['replace']} of {len(made.layers)} layers; and the same layer's update of another token: worse than "
            f"no update in {less['shuffle']}."
        ),
        call=call + (".kl" if has else ".stream"),
    )


def _loss(made: SkipEffects, loss: Tensor, call: str) -> Figure:
    spec = lines(
        {"layer skipped": loss},
        x=layer_axis(made.layers),
        y_title="change of the next-token loss, nats",
        control={NAMES[n]: e.loss for n, e in made.control.items() if e.loss is not None},
        scale="symlog",
    )
    better = int((loss < 0).sum())
    words = (
        f" Without {better} of the layers the loss is lower than with them."
        if better
        else " No layer can be left out for free."
    )
    return Figure(
        "vega",
        spec,
        f"The loss of the full model on these positions is {made.clean_loss:.2f}.{words}",
        control="the same two replacements. The scale is linear near zero and logarithmic beyond one.",
        call=call + ".loss",
    )
