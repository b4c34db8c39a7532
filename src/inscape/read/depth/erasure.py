"""Until which layer a token's own state is needed: its state there is replaced by the mean one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import make_edit
from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.core.step import Step
from inscape.engine.cells import Cell, run_cells
from inscape.engine.forward import run
from inscape.engine.unembed import predicts_next
from inscape.models.model import Model
from inscape.read.depth.last_token import lost_from
from inscape.read.geometry.updates import stream_layers


@dataclass(frozen=True, eq=False)
class Erasure:
    """KL(clean || erased) of the last token's prediction, nats, [input, layer, place].

    control: the same with a random change as long as the erasure's; what any push of that size does.
    """

    layers: tuple[str, ...]
    kl: Float[Tensor, "input layer place"]
    control: Float[Tensor, "input layer place"] | None


def residual_erasure(
    model: Model,
    inputs: Sequence[Any],
    at: Sequence[int] | Sequence[Sequence[int]] = (-2,),
    *,
    control: str | None = "noise",
    seed: int = 0,
    progress: Progress = None,
) -> Erasure:
    """Replace one token's state after a layer by the mean state there, and see what the last prediction loses.

    `h_l[t] := mean over all inputs and tokens but the first of h_l`; what of the token was moved elsewhere before, or
    is read from its keys in earlier layers, stays. The layer from which on it costs nothing is where the token has
    been used up.
    at: positions among real tokens, the same for every input, or one list an input, of equal lengths. The last token
    itself (-1) always matters in the end. control: "noise" moves the state as far in a random direction.
    Cost: for each input and place one run from each layer on, (1 + control) times, and two forwards.
    Raises: InputError for a model that predicts no next token, no inputs, or places that differ in number.
    Source: Csordas et al. 2025, arXiv:2505.13898 (residual erasure); KL of the last prediction here.
    """
    if control not in (None, "noise"):
        raise InputError(f"control={control!r} is none of residual_erasure; it can be 'noise' or None.")
    if not predicts_next(model):
        raise InputError(f"{type(model.module).__name__} predicts no next token, so there is no prediction to lose.")
    if not len(inputs):
        raise InputError("there are no inputs to measure.")
    places = _places(at, len(inputs))
    names = stream_layers(model)
    sites = [f"{x}.resid_post" for x in names]
    states = [{s: v[0] for s, v in run(model, one, read=sites).items()} for one in inputs]
    mean = {s: torch.cat([x[s][1:] for x in states]).float().mean(0) for s in sites}
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, list[Tensor]] = {"mean": [], "noise": []}
    for number, (one, held, where) in enumerate(zip(inputs, states, places, strict=True)):
        tell(progress, f"erasing on input {number + 1} of {len(inputs)}", number / len(inputs))
        lost = lost_from(run(model, one, output="last").output.logits[0, -1])
        for job in ("mean", *([control] if control else [])):
            cells = [_cell(s, p, mean[s] - held[s][p].float(), job, generator) for s in sites for p in where]
            found = run_cells(model, one, cells, measure=lost)
            assert found.measured is not None
            made[job].append(found.measured.reshape(len(sites), len(where)).clamp(min=0))
    beside = torch.stack(made["noise"]) if control else None
    return Erasure(tuple(names), torch.stack(made["mean"]), beside)


def _places(at: Any, n: int) -> list[list[int]]:
    """One list of positions an input."""
    shared = all(isinstance(p, int) for p in at)
    places = [list(at) for _ in range(n)] if shared else [[int(p) for p in one] for one in at]
    if len(places) != n or len({len(p) for p in places}) != 1 or not places[0]:
        raise InputError("at= is one list of positions for all inputs, or one list an input, all of one length.")
    return places


def _cell(site: str, place: int, away: Tensor, job: str, generator: torch.Generator) -> Cell:
    if job == "noise":
        random = torch.randn(away.shape, generator=generator).to(away)
        away = random / random.norm() * away.norm()

    def fn(x: Tensor, step: Step) -> Tensor:
        return x + away.to(x)

    return Cell((make_edit(site, fn, f"erase {site}", at=place, contextual=True),))
