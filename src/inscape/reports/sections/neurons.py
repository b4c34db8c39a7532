"""How sparse the neurons are."""

from inscape.core.errors import ModelError
from inscape.models.model import Model
from inscape.read.sparsity.neurons import Sparsity, neuron_sparsity
from inscape.reports.material import Material
from inscape.reports.words import layer_axis, number_of
from inscape.view.charts import lines
from inscape.view.figure import Figure, Section

TITLE = "How many neurons are at work"


def section(model: Model, material: Material) -> Section:
    """Near-zero share and Hoyer sparsity of the MLP's neurons by layer, beside Gaussian values of equal variance."""
    try:
        made = neuron_sparsity(model, material.runs, seed=material.seed)
    except ModelError as reason:
        return Section(TITLE, skipped=str(reason).splitlines()[0])
    zero = float(made.zero.mean())
    exact = f"{zero:.0%} of the neurons are exactly zero" if zero > 0.005 else "Almost no neuron is exactly zero"
    says = (
        f"{exact}; near zero means below {made.threshold:g} of the layer's "
        f"root mean square. {made.n_tokens:,} positions."
    )
    call = f"from inscape.read.sparsity.neurons import neuron_sparsity\nneuron_sparsity(model, {material.listed})"
    return Section(TITLE, (_near(made, call), _hoyer(made, call)), says=says)


def _near(made: Sparsity, call: str) -> Figure:
    assert made.control_near is not None  # the section asks for its control
    gaussian = made.control_near
    spec = lines(
        {"near zero for a token": made.near, "near zero at every token": made.silent},
        x=layer_axis(made.layers),
        zero=True,
        control={"Gaussian values of equal variance": gaussian},
        y_title="share of the neurons",
    )
    most = int(made.near.argmax())
    return Figure(
        "vega",
        spec,
        f"For a token {float(made.near.mean()):.0%} of the neurons are near zero, most in "
        f"{number_of(made.layers[most])} ({float(made.near[most]):.0%}).",
        control=(f"Gaussian values of the same variance through the same threshold: {float(gaussian.mean()):.0%}."),
        call=call + ".near",
    )


def _hoyer(made: Sparsity, call: str) -> Figure:
    assert made.control_hoyer is not None
    gaussian = made.control_hoyer
    spec = lines(
        {"neurons": made.hoyer},
        x=layer_axis(made.layers),
        control={"Gaussian values": gaussian},
        zero=True,
        y_title="Hoyer sparsity (0 all equal, 1 a single neuron)",
    )
    return Figure(
        "vega",
        spec,
        f"Hoyer sparsity is {float(made.hoyer.mean()):.2f} on average; it needs no threshold.",
        control=(f"Gaussian values of the same number and variance: {float(gaussian.mean()):.2f}."),
        call=call + ".hoyer",
    )
