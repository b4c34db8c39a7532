"""Fine-tuning turned up or down while a model runs: the share of every block's update that its base would not write."""

from collections.abc import Sequence

from torch import Tensor

from inscape.core.edit import Edit, make_edit
from inscape.core.edits.strength import Strength, Strengths
from inscape.core.errors import EditError
from inscape.core.step import Step
from inscape.models.model import Model
from inscape.steer.two_models.beside import Beside, wide


def scale_tuning(
    tuned: Model,
    base: Model,
    scale: Strengths,
    *,
    layers: Sequence[int] | None = None,
    rows: Sequence[int] | None = None,
) -> list[Edit]:
    """Multiply what fine-tuning adds to each block's update.

    `x_{l+1} = base_l(x_l) + scale * (tuned_l(x_l) - base_l(x_l))`, of blocks with their residual paths.

    Both blocks read the scaled stream; embedding, final norm and head are the tuned model's. 1 is the tuned model, 0
    its base's blocks between the tuned ends, above 1 more of the tuning than there was. Edits of the tuned model's
    parts act on its own block alone.

    scale: a number (it may be trained), one a row, or `ins.schedule(...)` over generated tokens. layers: numbers of
    those that are scaled, all by default. rows: as in every edit; for positions give a schedule, since the base's
    cache needs every token. The edits hold the base itself and cannot be written to a file.
    Cost: the base's blocks beside the tuned ones, in run and cached generation, beams included; no copy of weights.
    Raises: ModelError where the two are no pair, EditError.
    Source: Nuti et al. 2025, arXiv:2506.23423, section 3 (their FTC-alpha).
    """
    beside, strength = Beside(tuned, base), Strength(scale, "scale_tuning(scale=)")
    numbers = list(range(tuned.n_layers)) if layers is None else list(layers)
    wrong = [i for i in numbers if not 0 <= i < tuned.n_layers]
    if wrong or not numbers:
        raise EditError(f"layers={numbers}: give numbers from 0 to {tuned.n_layers - 1}.")

    def fn(x: Tensor, step: Step) -> Tensor:
        if strength.number == 1:
            return x
        kept = wide(beside.block(x, step)[1])
        return (kept + strength.of(x, step) * (wide(x) - kept)).to(x.dtype)

    label = f"fine-tuning x {strength.label.removeprefix('+')}"
    return [
        make_edit(f"{tuned.blocks[i].name}.resid_post", fn, label, contextual=True, calls=True, rows=rows)
        for i in sorted(set(numbers))
    ]
