"""Chosen experts tuned, and nothing else: how much each should weigh for given texts to become likelier."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inscape.core.edit import Edit
from inscape.core.edits.experts import boost_experts, scale_experts
from inscape.core.errors import InputError
from inscape.core.progress import Progress
from inscape.models.model import Model
from inscape.steer.experts.scores import Expert
from inscape.steer.targets import POSITIONS, Examples, frozen
from inscape.train.history import History
from inscape.train.loop import fit
from inscape.train.schedule import cosine

NEUTRAL = {"boost": 0.0, "scale": 1.0}


@dataclass(frozen=True, eq=False)
class TunedExperts:
    """amounts: what was learned for each of `chosen`: added to its scores ("boost") or times its weight ("scale").

    before, after: mean loss over the examples, in nats a token, without and with it. `.edits` gives savable edits.
    """

    layers: tuple[str, ...]
    chosen: tuple[Expert, ...]
    kind: str
    amounts: Float[Tensor, " expert"]
    history: History
    before: float
    after: float
    control: str | None

    def edits(self, strength: float = 1.0, **places: Any) -> list[Edit]:
        """One edit an expert. strength: how far from neutral, in what was learned: 0 is the model as it is."""
        base = NEUTRAL[self.kind]
        amounts = [base + strength * (a - base) for a in self.amounts.tolist()]
        return _edits(self.kind, self.layers, self.chosen, amounts, places)


def tune_experts(
    model: Model,
    chosen: Sequence[Expert],
    prompts: Sequence[Any],
    targets: Sequence[Any],
    *,
    kind: str = "boost",
    positions: str = "all",
    penalty: float = 0.0,
    steps: int = 100,
    lr: float = 0.1,
    batch_rows: int = 8,
    control: str | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> TunedExperts:
    """Learn one number an expert, through the frozen model, so that each target becomes likelier after its prompt.

    Minimises the mean cross-entropy of the targets plus `penalty * mean |amount - neutral|`. Choose it after
    `score_experts`, where masking is too blunt. The choice of experts itself has no gradient: an expert that no token
    chooses is learned nothing about, and a boost is learned from the weights of those that are chosen.

    chosen: pairs (layer, expert). kind: "boost" (of scores; can also change who is chosen) or "scale" (of weights).
    positions: where it acts, of the prompt and target: "all", "prompt", "target", "predicting", "last".
    control: "shuffle" gives each prompt another one's target. lr: falls as a cosine.
    Cost: `steps` forwards and backwards of batch_rows texts. Raises: InputError where no target depends on the chosen
    experts, ModelError, NotFiniteError.
    """
    if kind not in NEUTRAL:
        raise InputError(f"kind={kind!r} can be {' or '.join(map(repr, NEUTRAL))}.")
    if positions not in POSITIONS:
        raise InputError(f"positions={positions!r} is none of {', '.join(map(repr, POSITIONS))}.")
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} can be 'shuffle' or None.")
    if not chosen or not all(0 <= layer < len(model.blocks) for layer, _ in chosen):
        raise InputError(
            f"chosen={list(chosen)!r}: give pairs (layer, expert) of this model's {model.n_layers} layers."
        )
    examples = Examples.of(model, prompts, targets)
    generator = torch.Generator().manual_seed(seed)
    if control == "shuffle":
        if len(examples) < 2:
            raise InputError("control='shuffle' exchanges targets: give two examples at least.")
        order = torch.randperm(len(examples), generator=generator).tolist()
        partner = dict(zip(order, [*order[1:], order[0]], strict=True))
        examples.targets[:] = [examples.targets[partner[i]] for i in range(len(examples))]
    names = tuple(b.name for b in model.blocks)
    pairs = tuple((int(layer), int(e)) for layer, e in chosen)
    learned = _Amounts(len(pairs), NEUTRAL[kind]).to(model.device)

    def losses(rows: Sequence[int], edited: bool, grad: bool = True) -> Tensor:
        batch = examples.batch(rows)
        places = {} if positions == "all" else {"at": batch.places(positions)}
        edits = _edits(kind, names, pairs, list(learned.amounts.unbind()), places) if edited else []
        return examples.losses(batch, edits, grad=grad)

    def loss(module: "_Amounts", rows: Sequence[int]) -> Tensor:
        return losses(rows, True).mean() + penalty * (module.amounts - NEUTRAL[kind]).abs().mean()

    size = min(batch_rows, len(examples))
    every = [range(i, min(i + size, len(examples))) for i in range(0, len(examples), size)]

    def rows_of(step: int) -> list[int]:
        drawn = torch.Generator().manual_seed((seed << 24) + step)
        return torch.randperm(len(examples), generator=drawn)[:size].tolist()

    with frozen(model):
        with torch.no_grad():
            before = torch.cat([losses(rows, False, False) for rows in every]).mean()
        first = torch.cat([losses(rows, True) for rows in every[:4]]).sum()
        grad = torch.autograd.grad(first, learned.amounts, allow_unused=True)[0] if first.requires_grad else None
        if grad is None or not bool((grad != 0).any()):
            raise InputError(
                f"no target depends on the chosen experts at positions={positions!r}, so there is nothing to learn.\n"
                "  choose experts that these texts use: score_experts(...).top() names some."
            )
        history = fit(learned, rows_of, loss, steps=steps, lr=lr, schedule=cosine, seed=seed, progress=progress)
        with torch.no_grad():
            after = torch.cat([losses(rows, True, False) for rows in every]).mean()
    amounts = learned.amounts.detach().cpu()
    return TunedExperts(names, pairs, kind, amounts, history, float(before), float(after), control)


class _Amounts(nn.Module):
    def __init__(self, n: int, neutral: float) -> None:
        super().__init__()
        self.amounts = nn.Parameter(torch.full((n,), neutral))


def _edits(
    kind: str, layers: Sequence[str], chosen: Sequence[Expert], amounts: Sequence[Any], places: Any
) -> list[Edit]:
    make = {"boost": boost_experts, "scale": scale_experts}[kind]
    return [make(layers[layer], e, amount, **places) for (layer, e), amount in zip(chosen, amounts, strict=True)]
