"""Which layers later ones depend on, at the same and at later tokens."""

import torch
from torch import Tensor

from inscape.core.errors import EditError, InputError, ModelError
from inscape.core.nulls import bootstrap, bootstrap_each
from inscape.models.model import Model
from inscape.read.depth.downstream import DownstreamEffects, downstream_effects
from inscape.read.depth.report import half_difference
from inscape.reports.material import Material
from inscape.reports.words import layer_axis, layer_labels, number_of
from inscape.view.charts import lines
from inscape.view.figure import Figure, Section
from inscape.view.heatmap import heatmap

TITLE = "Which layers the later ones depend on"
RUNS, LENGTH = 2, 48  # inputs, and their longest length in tokens
CALL = "from inscape.read.depth.downstream import downstream_effects\ndownstream_effects(model, {texts}{more})"


def section(model: Model, material: Material) -> Section:
    """Relative change of later layers' updates when one is skipped, on present and on future tokens."""
    runs = [[x[0][:LENGTH]] if material.names and isinstance(x, list) else x for x in material.runs[:RUNS]]
    try:
        present = downstream_effects(model, runs, skip_first=material.skip_first, seed=material.seed,
                                     progress=material.progress)  # fmt: skip
        future = None
        if material.kind == "causal" and present.n_tokens > 2 * len(runs):
            future = downstream_effects(model, runs, tokens="future", splits=1, control=None, seed=material.seed,
                                        progress=material.progress)  # fmt: skip
    except (ModelError, InputError, EditError) as reason:
        return Section(TITLE, skipped=str(reason).splitlines()[0])
    says = (
        "Each layer is taken out of the stream in turn, and the updates that the layers after it add are compared "
        f"with those of the full model; {present.n_tokens} positions of {len(runs)} inputs."
    )
    if material.skip_first:
        says += " The first token always passes every layer."
    first = f"{material.listed}[:{len(runs)}]"
    figures = [_reach(present, future, first), _matrix(present, first)]
    return Section(TITLE, tuple(figures), says=says)


def _reach(present: DownstreamEffects, future: DownstreamEffects | None, texts: str) -> Figure:
    assert present.control is not None
    several = len(present.per_input) > 1
    names = {"same tokens": present.reach_per_input} | ({"later tokens": future.reach_per_input} if future else {})
    band = None
    if several:
        ends = {name: bootstrap_each(x) for name, x in names.items()}
        band = {name: (e.low, e.high) for name, e in ends.items()}
    noise = present.control.reach_per_input.mean(0)
    spec = lines(
        {name: x.mean(0) for name, x in names.items()},
        x=layer_axis(present.layers[:-1]),
        control={"noise as long as the update": noise},
        band=band,
        y_title="mean relative change of later updates",
        zero=True,
    )
    told = names["later tokens" if future else "same tokens"]
    most = int(told.mean(0).argmax())
    where = "later tokens" if future else "the same tokens"
    halves = ""
    if several and told.shape[1] > 3:
        gap = bootstrap(half_difference(told))
        side = "more" if gap.low > 0 else "less" if gap.high < 0 else "not surely more or less"
        halves = f" A layer of the first half changes them {side} than one of the second ({gap.value:+.2f})."
    less = int((present.reach_per_input.mean(0) < noise).sum())
    return Figure(
        "vega",
        spec,
        f"At {where} most hangs on {number_of(present.layers[most])}.{halves}",
        control=(
            "the layer left in and random noise as long as its update added: later layers mind that more than the "
            f"skip in {less} of {len(noise)} layers. Shaded: 95 % over inputs."
        ),
        call=CALL.format(texts=texts, more="") + ".reach()",
    )


def _matrix(made: DownstreamEffects, texts: str) -> Figure:
    shown: Tensor = made.mean.triu(1)
    later = shown[torch.ones_like(shown).triu(1).bool()]
    s, layer = divmod(int(shown.argmax()), shown.shape[1])
    next_one = shown.diagonal(1).mean()
    return Figure(
        "vega",
        heatmap(shown, layer_labels(made.layers), layer_labels(made.layers), x_title="layer that is measured",
                y_title="layer that is skipped", value_title="relative change of its update", rows_up=True),
        f"Skipping {number_of(made.layers[s])} changes {number_of(made.layers[layer])} most "
        f"({float(shown[s, layer]):.2f}); the very next layer changes by {float(next_one):.2f} on average, any later "
        f"one by {float(later.mean()):.2f}.",
        control="layers before the skipped one, which nothing can reach: exactly zero.",
        call=CALL.format(texts=texts, more="") + ".mean",
    )  # fmt: skip
