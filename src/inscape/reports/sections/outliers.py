"""Massive activations and attention sinks."""

from inscape.core.errors import ModelError
from inscape.models.model import Model
from inscape.read.outliers.massive import Massive, MassiveReading, massive
from inscape.read.outliers.sinks import Sinks, attention_sinks
from inscape.reports.material import Material
from inscape.reports.words import layer_axis, number_of, times
from inscape.view.charts import lines
from inscape.view.figure import Figure, Section
from inscape.view.strip import strip
from inscape.view.table import table

TITLE = "Massive activations and attention sinks"
N_ROWS = 12


def section(model: Model, material: Material) -> Section:
    """The largest values of the stream, where they sit, and how much attention each position draws."""
    figures: list[Figure] = []
    try:
        found = massive(model, material.runs, seed=material.seed)
        figures.append(_sizes(found, material))
        if found.found:
            figures.append(_table(found, material))
    except ModelError as reason:
        return Section(TITLE, skipped=str(reason).splitlines()[0])
    says = (
        "A value of the stream counts as massive when it exceeds 100 and a thousand times the median size of its layer."
    )
    try:
        sinks = attention_sinks(model, material.runs)
        figures += _sinks(sinks, material)
    except ModelError as reason:
        says += f" Attention sinks are not shown: {str(reason).splitlines()[0]}"
    return Section(TITLE, tuple(figures), says=says)


def _sizes(found: MassiveReading, material: Material) -> Figure:
    n = len(found.found)
    layers = {m.site for m in found.found}
    if n:
        dims = sorted({m.dim for m in found.found})
        told = (
            f"{times(n, 'massive activation')} in {times(len(layers), 'layer')}, "
            f"{found.first_only:.0%} at the first position"
        )
        told += (
            f", in {times(len(dims), 'dimension')} ({', '.join(map(str, dims[:6]))}{', ...' if len(dims) > 6 else ''})."
        )
    else:
        ratio = float((found.top[:, 0] / found.median.clamp(min=1e-9)).max())
        told = (
            f"No value reaches the bar: the largest is {float(found.top.max()):.3g}, at "
            f"most {ratio:,.0f} times the median of its layer."
        )
    spec = lines(
        {"largest of all positions": found.top[:, 0], "largest behind the first position": found.later},
        x=layer_axis(found.sites),
        control={"median |value|": found.median},
        scale="log" if bool((found.median > 0).all()) else "linear",
        y_title="size of single values of the stream",
    )
    return Figure(
        "vega",
        spec,
        told,
        control=f"the median of all {found.n_values:,} values, layer by layer.",
        call=(f"from inscape.read.outliers.massive import massive\nmassive(model, {material.listed})"),
    )


def _table(found: MassiveReading, material: Material) -> Figure:
    def token(m: Massive) -> str:
        known = material.names[m.row] if m.row < len(material.names) else ()
        return known[m.pos] if m.pos < len(known) else "–"

    best: dict[str, Massive] = {}
    for m in found.found:  # one row a layer: the same scalar comes back in every text
        best.setdefault(m.site, m)
    rows = [
        [_number(m.site), m.pos, token(m), m.dim, *map(_whole, (m.value, m.ratio, m.same_dim, m.same_token))]
        for m in list(best.values())[:N_ROWS]
    ]
    apart = [m for m in found.found if m.same_dim == m.same_dim]
    bars = [max(found.above, found.ratio * abs(m.value) / m.ratio) for m in apart]
    same_dim = sum(m.same_dim >= bar for m, bar in zip(apart, bars, strict=True))
    same_token = sum(m.same_token >= bar for m, bar in zip(apart, bars, strict=True))
    return Figure(
        "table",
        table(
            [
                "layer",
                "pos",
                "token",
                "dim",
                "value",
                "x median",
                "same dim, other token",
                "same token, other dim",
            ],
            rows,
        ),
        "The largest massive activation of each layer.",
        control=(
            f"for each of the {len(apart):,} finds, the same dimension at a random other token (massive too in "
            f"{same_dim / max(len(apart), 1):.0%}) and another dimension of the same "
            f"token ({same_token / max(len(apart), 1):.0%})."
        ),
        call=f"massive(model, {material.listed}).found",
    )


def _number(site: str) -> int | str:
    return layer_axis([site])[0]


def _whole(value: float) -> float | int:
    """Large values without an exponent."""
    return round(value) if abs(value) >= 100 else value


def _sinks(sinks: Sinks, material: Material) -> list[Figure]:
    strongest = int(sinks.first.nan_to_num(-1).argmax())
    ratio = sinks.first.nanmean() / sinks.chance.nanmean()
    spec = lines(
        {"first position": sinks.first},
        x=layer_axis(sinks.layers),
        control={"mean of the later positions": sinks.elsewhere, "even attention": sinks.chance},
        zero=True,
        y_title=("attention received from later queries")
        if material.kind == "causal"
        else "attention received from other queries",
    )
    figures = [
        Figure(
            "vega",
            spec,
            f"The first position draws {float(sinks.first.nanmean()):.0%} of "
            "the attention of every query that sees it, "
            f"{float(ratio):.1f} times an even share; most in {number_of(sinks.layers[strongest])}.",
            control=(
                "what a later position draws, and what the first would draw if "
                "every query looked evenly at all it may see."
            ),
            call=f"from inscape.read.outliers.sinks import attention_sinks\nattention_sinks(model, {material.listed})",
        )
    ]
    if material.names:
        received = sinks.received[0]
        values = {
            "all layers": received.nanmean(0),
            number_of(sinks.layers[strongest]): received[strongest],
            "all layers, minus an even share": (received - sinks.even[0]).nanmean(0),
        }
        figures.append(
            Figure(
                "tokens",
                strip(material.names[0], values),
                "Attention each token of the first text draws from the others.",
                control=(
                    "the third view takes away what a token would draw if every query looked evenly at all it may see."
                ),
                call="attention_sinks(model, [texts[:1]]).received[0]",
            )
        )
    return figures
