"""How straight the stream drifts while a model speaks."""

import torch
from torch import Tensor

from inscape.core.errors import InputError, ModelError
from inscape.engine.generate import generate
from inscape.models.model import Model
from inscape.read.generation.trajectory import null_path, signals_of_means
from inscape.read.generation.trajectory_stream import TrajectoryStream
from inscape.reports.material import Material
from inscape.view.charts import lines
from inscape.view.figure import Figure, Section

TITLE = "How the stream drifts over generated tokens"
PROMPTS, READ, SAID, BLOCK, SHUFFLES = 4, 24, 33, 4, 8


def section(model: Model, material: Material) -> Section:
    """Aligned change, and net over cumulative change, after more and more tokens, beside segments in another order."""
    if material.kind != "causal" or not material.names:
        return Section(TITLE, skipped="trajectories are watched while a model generates text, and this one does not.")
    path = TrajectoryStream(BLOCK, keep_means=True)
    rows = [run[0][:READ] for run in material.runs[:PROMPTS]]
    try:
        generate(model, rows, watch=path, max_new_tokens=SAID)
        means = [m for m in path.means if len(m) >= 4]
    except (ModelError, InputError) as reason:
        return Section(TITLE, skipped=str(reason).splitlines()[0])
    if not means:
        return Section(TITLE, skipped=f"no response had {4 * BLOCK} tokens: too few segments for a trajectory.")
    call = (
        "from inscape.read.generation.trajectory_stream import TrajectoryStream\n"
        f"ins.generate(model, {material.beginnings(PROMPTS, READ)}, watch=(path := "
        f"TrajectoryStream({BLOCK}, keep_history=True)), max_new_tokens={SAID})\npath.history"
    )
    longest = max(map(len, means))
    steps = list(range(3, longest + 1))
    own = _by_step(means, steps)
    shuffled = torch.stack(
        [
            _by_step([null_path(m, "shuffle", seed=100 * s + i) for i, m in enumerate(means)], steps)
            for s in range(material.seed, material.seed + SHUFFLES)
        ]
    ).nanmean(0)
    names = ("aligned change", "net over cumulative change")
    spec = lines(
        dict(zip(names, own, strict=True)),
        x=[step * BLOCK for step in steps],
        control={f"{name}, segments shuffled": line for name, line in zip(names, shuffled, strict=True)},
        zero=True,
        x_title="generated tokens",
        y_title="1 is a straight line",
    )
    figure = Figure(
        "vega",
        spec,
        f"Over {longest * BLOCK} tokens the aligned change is {float(own[0, -1]):.2f}: a step of {BLOCK} tokens heads "
        f"{'for' if own[0, -1] > 0 else 'away from'} where the text ends by that cosine, mean over layers; the way "
        f"is {1 / max(float(own[1, -1]), 1e-6):.1f} times as long as its ends are apart.",
        control=f"the same segments in another order: {float(shuffled[0, -1]):.2f} and "
        f"{1 / max(float(shuffled[1, -1]), 1e-6):.1f} times.",
        call=call,
    )
    says = (
        f"Mean states of {BLOCK} tokens each make a path at every layer, here of {len(means)} responses; whether it "
        "says that an answer is right has to be calibrated on answers: see the paper latent-trajectory."
    )
    return Section(TITLE, (figure,), says=says)


def _by_step(means: list[Tensor], steps: list[int]) -> Tensor:
    """Aligned change and straightness of the first n segments, mean over responses that have so many."""
    out = []
    for n in steps:
        made = [signals_of_means(m[:n]) for m in means if len(m) >= n]
        aligned = torch.stack([s.aligned.nanmean() for s in made]).mean()
        straight = torch.stack([(s.net / s.cumulative.clamp(min=1e-12)).mean() for s in made]).mean()
        out.append(torch.stack([aligned, straight]))
    return torch.stack(out, 1)
