"""Which layers hardly do anything, for tokens that are read and tokens that are said."""

from inscape.core.errors import InputError, ModelError
from inscape.engine.generate import generate
from inscape.models.model import Model
from inscape.read.generation.void_nulls import random_voids
from inscape.read.generation.void_stream import VoidStream
from inscape.read.generation.voids import VoidMap
from inscape.reports.material import Material
from inscape.reports.words import layer_axis, number_of
from inscape.view.charts import heatmap, lines
from inscape.view.figure import Figure, Section

TITLE = "Layers that are void"
ALPHA, PROMPTS, READ, SAID = 0.8, 4, 24, 16


def section(model: Model, material: Material) -> Section:
    """Share of tokens that each layer is active for, in prompts and responses, beside random voids; and one text."""
    if material.kind != "causal" or not material.names:
        return Section(TITLE, skipped="voids are watched while a model generates text, and this one does not.")
    voids = VoidStream(ALPHA)
    rows = [run[0][:READ] for run in material.runs[:PROMPTS]]
    try:
        generate(model, rows, watch=voids, max_new_tokens=SAID)
        found = voids.map
    except (ModelError, InputError) as reason:
        return Section(TITLE, skipped=str(reason).splitlines()[0])
    call = (
        "from inscape.read.generation.void_stream import VoidStream\n"
        f"ins.generate(model, {material.beginnings(PROMPTS, READ)}, watch=(voids := "
        f"VoidStream({ALPHA})), max_new_tokens={SAID})\nvoids.map"
    )
    says = (
        f"A layer is void for a token when it lengthens the stream by less than {ALPHA:g} of the range of what the "
        f"layers before it added. {int(found.of('prompt').sum())} tokens were read, {int(found.of('response').sum())} "
        "said. Every block runs: voids say which output could be dropped, not what time is saved."
    )
    return Section(TITLE, (_usage(found, material, call), _one(found, call)), says=says)


def _usage(found: VoidMap, material: Material, call: str) -> Figure:
    drawn = random_voids(found.void, seed=material.seed)
    random = (~drawn & found.mask)[:, found.mask].float().mean(1)
    shares = {phase: found.usage(phase) for phase in ("prompt", "response") if bool(found.of(phase).any())}
    least = found.usage().argmin()
    spec = lines(
        shares,
        x=layer_axis(found.layers),
        control={"as many random voids a token": random},
        zero=True,
        y_title="share of tokens that the layer is active for",
    )
    used = " and ".join(f"{found.used(phase):.0%} in the {phase}" for phase in shares)
    return Figure(
        "vega",
        spec,
        f"Of the layers, tokens use {used}; {number_of(found.layers[int(least)])} is active for fewest.",
        control=f"as many voids for every token at random layers: between {float(random.min()):.0%} and "
        f"{float(random.max()):.0%} of the tokens use a layer.",
        call=call + ".usage('response')",
    )


def _one(found: VoidMap, call: str) -> Figure:
    here = found.mask[0]
    shown = (found.change / found.norm[:-1].clamp(min=1e-9))[:, 0, here].clamp(-1, 1)
    spec = heatmap(
        shown, layer_axis(found.layers), range(int(here.sum())), y_title="layer", x_title="token", rows_up=True,
        value_title="change of length", diverging=True,
    )  # fmt: skip
    began = int(here[: found.prompt].sum())
    share = float(found.void[:, 0, here].float().mean())
    first = float(found.void[:, 0, here][:, :1].float().mean())
    return Figure(
        "vega",
        spec,
        f"By how much of its length each layer lengthens the stream of the first text, at most 1; the response begins "
        f"at token {began}. {share:.0%} of the cells are void.",
        control=f"the first token, whose stream carries the attention sink: {first:.0%} of its cells are void.",
        call=call + ".change",
    )
