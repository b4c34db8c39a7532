"""How large the residual stream is, and what attention and MLP add to it."""

from inscape.core.errors import ModelError
from inscape.models.model import Model
from inscape.read.geometry.updates import KINDS, Contributions, contributions
from inscape.reports.material import Material
from inscape.reports.words import layer_axis
from inscape.view.charts import lines
from inscape.view.figure import Figure, Section

TITLE = "What each layer adds to the stream"
CALL = "from inscape.read.geometry.updates import contributions\n"


def section(model: Model, material: Material) -> Section:
    """Length of the stream, relative size of the updates, and their cosine with the stream."""
    try:
        made = contributions(model, material.runs, skip_first=material.skip_first, seed=material.seed)
    except ModelError as reason:
        return Section(TITLE, skipped=str(reason).splitlines()[0])
    without = ", the first token left out (its massive values drown every mean)" if material.skip_first else ""
    says = f"Means over {made.n_tokens:,} positions{without}."
    if made.error is not None:
        says += (
            f" Stream before + what was added = stream after, to {made.error:.0e} of the largest value, in every layer."
        )
    elif not made.additive:
        says += (
            " This model normalises the stream after every addition, so the "
            "parts do not add up to the change of a layer."
        )
    call = f"{CALL}contributions(model, {material.listed}{'' if material.skip_first else ', skip_first=False'})"
    return Section(TITLE, (_norm(made, call), _relative(made, call), _cosine(made, call)), says=says)


def _norm(made: Contributions, call: str) -> Figure:
    growth = float(made.norm[-1] / made.norm[0].clamp(min=1e-9))
    positive = bool((made.norm_low > 0).all())
    spec = lines(
        {"length of the stream": made.norm},
        x=layer_axis(made.layers),
        band={"length of the stream": (made.norm_low, made.norm_high)},
        scale="log" if positive and growth > 5 else "linear",
        y_title="|stream| after the layer, mean and 10-90 %",
    )
    how = (
        f"grows {growth:,.{1 if growth < 10 else 0}f}-fold"
        if growth > 1.05
        else f"shrinks to {growth:.2f} of its length"
        if growth < 0.95
        else "keeps its length"
    )
    return Figure(
        "vega",
        spec,
        f"The stream {how} from the first layer to the last.",
        control="the shaded band: 80 % of the tokens lie in it, so the line is no work of a few outliers.",
        call=call + ".norm",
    )


def _relative(made: Contributions, call: str) -> Figure:
    parts = {KINDS[k]: v for k, v in made.relative.items() if k != "layer"}
    names = parts or {"whole layer": made.relative["layer"]}
    high = max(float(v[v == v].max()) for v in names.values())
    low = min(float(v[v == v].min()) for v in names.values())
    control = {"as large as the stream itself": [1.0] * len(made.layers)}
    spec = lines(
        names,
        x=layer_axis(made.layers),
        control=control,
        y_title="|update| / |stream it is added to|",
        scale="log" if low > 0 and high / low > 20 else "linear",
        zero=True,
    )
    half = len(made.layers) // 2
    total = made.relative["layer"]
    first, second = float(total[:half].nanmean()) if half else float("nan"), float(total[half:].nanmean())
    return Figure(
        "vega",
        spec,
        (
            f"A layer changes the stream by {first:.2f} of its length in the first "
            f"half and {second:.2f} in the second, on average."
        ),
        control="the line at 1: above it a layer writes more than was there before.",
        call=call + ".relative",
    )


def _cosine(made: Contributions, call: str) -> Figure:
    kinds = [k for k in made.cosine if k != "layer"] or ["layer"]
    names = {KINDS.get(k, "whole layer"): made.cosine[k] for k in kinds}
    control = {f"{KINDS.get(k, 'whole layer')} of another token": made.control[k] for k in kinds if made.control}
    spec = lines(names, x=layer_axis(made.layers), control=control, y_title="cosine of update and stream")
    gap = {n: float((v - made.control[k]).abs().nanmean()) for (n, v), k in zip(names.items(), kinds, strict=True)}
    told = ", ".join(f"{value:.2f} for {name}" for name, value in gap.items())
    means = ", ".join(f"{name} {float(v.nanmean()):+.2f}" for name, v in names.items())
    return Figure(
        "vega",
        spec,
        f"Mean cosine with the stream: {means}; above zero a part amplifies, below it erases, near zero it is new.",
        control=(
            "the same part taken from another token; the mean distance to it is "
            f"{told}. Where the two agree the direction is "
            f"common to all tokens. Random directions have cosines within about {2 * made.chance:.2f} of zero."
        ),
        call=call + ".cosine",
    )
