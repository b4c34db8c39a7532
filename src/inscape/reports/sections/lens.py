"""What the model would say after each layer."""

import torch

from inscape.core.errors import ModelError, ShapeError
from inscape.models.model import Model
from inscape.read.lenses.logit import LensReading, logit_lens
from inscape.reports.material import Material, token_name
from inscape.reports.words import layer_labels, number_of
from inscape.view.charts import lines
from inscape.view.figure import Figure, Section
from inscape.view.lens import lens

TITLE = "What it would say after each layer"


def section(model: Model, material: Material) -> Section:
    """The logit lens on the first text as a layer x token view, and the rank of the final token by layer."""
    if material.kind in ("image", "other"):
        return Section(
            TITLE, skipped="the lens reads a token's state as scores over the vocabulary; these inputs are no tokens."
        )
    try:
        reading = logit_lens(model, material.runs[0], seed=material.seed, progress=material.progress)
    except (ModelError, ShapeError) as reason:
        return Section(TITLE, skipped=str(reason).splitlines()[0])
    return Section(
        TITLE,
        (_view(model, reading, material), _ranks(reading, material)),
        says="Each cell passes the stream after one layer through the model's own final norm and head, as if the model "
        "stopped there.",
    )


def _view(model: Model, reading: LensReading, material: Material) -> Figure:
    one = reading.row(0)
    known: dict[int, str] = {}

    def name(token: int) -> str:
        if token not in known:
            known[token] = token_name(model, token)
        return known[token]

    top = [[[name(t) for t in cell] for cell in layer] for layer in one.top[:, 0].tolist()]
    data = lens(
        material.names[0],
        layer_labels(one.layers),
        top,
        one.probability[:, 0],
        entropy=one.entropy[:, 0],
        rank=one.rank[:, 0],
        final=[name(t) for t in one.final[0].tolist()],
        how=one.how,
    )
    settled = settled_layer(one)
    share = float((one.rank[:, 0] == 1).float().mean(1)[len(one.layers) // 2])
    return Figure(
        "lens",
        data,
        "On the first text the token the model ends with is on top after half "
        f"of the layers at {share:.0%} of the positions, "
        f"and stays on top from {settled} on at most of them.",
        control="the figure below: the same ranks for a token that belongs to another position.",
        call="from inscape.read.lenses.logit import logit_lens\nlogit_lens(model, texts[:1])",
    )


def settled_layer(reading: LensReading) -> str:
    """The first layer from which on the final token is on top at more than half of the positions."""
    share = (reading.rank[:, 0] == 1).float().mean(1)
    below = (share <= 0.5).nonzero().flatten()
    first = int(below.max()) + 1 if len(below) else 0
    return number_of(reading.layers[min(first, len(reading.layers) - 1)])


def _ranks(reading: LensReading, material: Material) -> Figure:
    real = reading.mask

    def quantile(values: torch.Tensor, q: float) -> list[float]:
        return values[:, real].double().quantile(q, dim=1).clamp(min=1).tolist()

    name = "final token of this position"
    controls = (
        {"final token of another position": quantile(reading.control, 0.5)} if reading.control is not None else {}
    )
    controls["random order of the vocabulary"] = [reading.chance_rank] * len(reading.layers)
    spec = lines(
        {name: quantile(reading.rank, 0.5)},
        x=[int(label) for label in layer_labels(reading.layers)],
        control=controls,
        band={name: (quantile(reading.rank, 0.25), quantile(reading.rank, 0.75))},
        scale="log",
        y_title="rank in the lens, median and quartiles (1 is the top)",
    )
    gap = quantile(reading.control, 0.5)[-1] if reading.control is not None else float("nan")
    return Figure(
        "vega",
        spec,
        f"The median rank of the final token falls from {quantile(reading.rank, 0.5)[0]:,.0f} "
        "after the first layer to 1 after "
        f"the last, of {reading.n_vocab:,} tokens.",
        control=(
            "the final token of another position of the same text, which ends at "
            f"a median rank of {gap:,.0f}: frequent tokens "
            "rank well anywhere, and the distance between the lines is what this context adds."
        ),
        call='reading = logit_lens(model, texts[:1], control="shuffle")\nreading.rank, reading.control',
    )
