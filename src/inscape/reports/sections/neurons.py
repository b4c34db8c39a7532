"""How sparse the neurons are."""

from inscape.core.errors import ModelError
from inscape.models.model import Model
from inscape.read.sparsity.cett import Cett, cett_curves
from inscape.read.sparsity.profile import Profile, profile
from inscape.reports.material import Material
from inscape.reports.words import layer_axis, number_of
from inscape.view.charts import lines
from inscape.view.figure import Figure, Section

TITLE = "How many neurons are at work"
ERRORS = (0.1, 0.2, 0.5)  # of an MLP's output, by which neurons may be left out
N_TEXTS, TOKENS, POINTS = 4, 96, 12


def section(model: Model, material: Material) -> Section:
    """Near-zero share and Hoyer sparsity of the MLP's neurons by layer, beside Gaussian values of equal variance."""
    try:
        made = profile(model, material.runs, seed=material.seed)
    except ModelError as reason:
        return Section(TITLE, skipped=str(reason).splitlines()[0])
    zero = 1 - float(made.nonzero.mean())
    exact = f"{zero:.0%} of the neurons are exactly zero" if zero > 0.005 else "Almost no neuron is exactly zero"
    says = (
        f"{exact}; near zero means at most {made.eps:g} of the token's root mean square. {made.n_tokens:,} positions."
    )
    call = f"from inscape.read.sparsity.profile import profile\nprofile(model, {material.listed})"
    figures = [_near(made, call), _hoyer(made, call)]
    try:
        few = material.runs[:N_TEXTS]
        curves = cett_curves(model, few, made.sites, points=POINTS, max_tokens=TOKENS, seed=material.seed)
        figures.append(_needed(curves, material))
    except ModelError as reason:
        says += f" What cutting neurons costs is not shown: {str(reason).splitlines()[0]}"
    return Section(TITLE, tuple(figures), says=says)


def _near(made: Profile, call: str) -> Figure:
    gaussian, near = 1 - made.control["active"], 1 - made.active
    spec = lines(
        {"near zero for a token": near, "near zero at every token": made.dead},
        x=layer_axis(made.sites),
        zero=True,
        control={"Gaussian values of equal variance": gaussian},
        y_title="share of the neurons",
    )
    most = int(near.argmax())
    return Figure(
        "vega",
        spec,
        f"For a token {float(near.mean()):.0%} of the neurons are near zero, most in "
        f"{number_of(made.sites[most])} ({float(near[most]):.0%}).",
        control=(f"Gaussian values of the same variance through the same threshold: {float(gaussian.mean()):.0%}."),
        call=call + ".active",
    )


def _hoyer(made: Profile, call: str) -> Figure:
    gaussian = made.control["hoyer"]
    spec = lines(
        {"neurons": made.hoyer},
        x=layer_axis(made.sites),
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


def _needed(made: Cett, material: Material) -> Figure:
    kept = {e: made.kept_at(e) for e in ERRORS}
    spec = lines(
        {f"off by {e:.0%}": k for e, k in kept.items()},
        x=layer_axis(made.sites),
        zero=True,
        control={"off by 20%, neurons left out at random": [1 - 0.2**2] * len(made.sites)},
        y_title="share of the neurons needed",
    )
    fewest = int(kept[0.2].argmin())
    return Figure(
        "vega",
        spec,
        f"With {float(kept[0.2].mean()):.0%} of the neurons, those that write most for a token, an MLP's output is off "
        f"by 20%; fewest are needed in {number_of(made.sites[fewest])} ({float(kept[0.2][fewest]):.0%}).",
        control=(
            "what would be needed if neurons were left out at random and wrote independently of one another: all but "
            "the error squared, 96%."
        ),
        call="from inscape.read.sparsity.cett import cett_curves\n"
        f"cett_curves(model, {material.listed}, points={POINTS}, max_tokens={TOKENS}).kept_at(0.2)",
    )
