"""How strongly to steer so that predictions move by a given KL: closed forms from one derivative, or measured.

1. Prompts, and what the plain model writes after them, are the tokens whose predictions count (`engine.predictions`).
2. The derivative of their logits by the strength, g = dz/ds at 0, is exact: forward-mode, or reverse-mode twice.
3. KL(plain || steered) is s^2 / 2 Var_p(g) to second order, and at most s^2 (max g - min g)^2 / 8 where logits are
   linear in s (Hoeffding's lemma); or the KL itself is measured and the strength searched.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.edit import Edits, listed
from inscape.core.edits.add import add
from inscape.core.errors import InputError, ModelError
from inscape.core.interval import Interval
from inscape.core.nulls import bootstrap
from inscape.core.progress import Progress
from inscape.engine.predictions import Predictions, Sequences, mean_by, measured_sequences, short
from inscape.models.model import Model
from inscape.steer.derivatives import derivatives
from inscape.steer.kl_search import search_strength

RULES = ("second_order", "hoeffding", "bisect")


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A strength for a KL budget. gamma: the strength; predicted: the KL that the rule expects there, None of a search.

    measured: mean KL a prediction in nats, plain to steered, with its interval by prompt; per_prompt: of each prompt,
    predicted_per_prompt beside it. warnings: what is wrong with this strength, in words. edits: ready for a run.
    """

    gamma: float
    kl_budget: float
    rule: str
    predicted: float | None
    measured: Interval
    per_prompt: Float[Tensor, " prompt"]
    predicted_per_prompt: Float[Tensor, " prompt"] | None
    warnings: tuple[str, ...]
    make: Callable[[Any], Edits]
    how: dict[str, Any]

    @property
    def edits(self) -> list[Any]:
        return listed(self.make(self.gamma))

    def held(self, model: Model, prompts: Any, *, progress: Progress = None) -> Interval:
        """The mean KL on other prompts, measured in the same way: is the budget held there?

        Raises: InputError for fewer than two prompts.
        """
        return _interval(_Measure.of(model, prompts, self.how, progress).by_prompt(self.make(self.gamma)))

    def __float__(self) -> float:
        return self.gamma


def calibrate_strength(
    model: Model,
    direction: Direction | Directions | None,
    prompts: Any,
    kl_budget: float,
    *,
    rule: str = "bisect",
    unit: str = "vector",
    at: Any = None,
    edit: Callable[[Any], Edits] | None = None,
    tokens: str = "new",
    max_new_tokens: int = 16,
    batch_rows: int = 16,
    seed: int = 0,
    progress: Progress = None,
    **generate_kwargs: Any,
) -> Calibrated:
    """The strength at which steering moves a prediction by `kl_budget` nats in the mean: KL(plain || steered).

    rule:
      "bisect"        searched: the KL is measured, and is at most the budget and within 2 % of it on these prompts
      "second_order"  sqrt(2 budget / mean Var_p(g)), g the derivative of the logits by the strength: right for small
                      budgets, at the cost of about four forwards
      "hoeffding"     sqrt(8 budget) / max (max g - min g): no single prediction moves further, where logits are linear
                      in the strength (the stream after the last block, without a norm after it); else a cautious guess
    Choose the search; the closed forms say where the budget would be without one. The KL adds up over a text: 0.05
    nats a token are 5 nats in a hundred.

    direction, unit, at: added by `ins.add(direction, strength, unit=unit, at=at)`; edit: a function from the strength
    to other edits in its place (for the closed forms differentiable in it, as all of ours are).
    tokens: whose predictions count: "new", along what the plain model writes after each prompt, `max_new_tokens` of it;
    "last", the first new token; "all", every token of the prompts as given. Calibrate on prompts like those of use, and
    measure with `.held` on others. generate_kwargs: for the model's own generate, to count along sampled texts where
    texts will be sampled (do_sample=True, temperature=0.7; greedy without); seed: of that sampling.
    Cost: one plain generation; a plain forward, then one forward a step of the search (about ten).
    Raises: InputError for a budget that is not above 0, fewer than two prompts, a strength on which nothing depends;
    SiteError for a site that is read after the final state; NotConvergedError where the KL never reaches the budget;
    ModelError for a direction of another model, or one that predicts no next tokens.
    Source: Azizi et al. 2025, arXiv:2507.04742, whose constant we could not verify: both closed forms are derived here.
    """
    if not kl_budget > 0 or not isfinite(kl_budget):
        raise InputError(f"kl_budget={kl_budget}: it is a KL in nats a token, above 0; 0.05 is a small one.")
    if rule not in RULES:
        raise InputError(f"rule={rule!r} is none of {', '.join(map(repr, RULES))}.")
    make = strengths(model, direction, edit, unit, at)
    how = {"tokens": tokens, "max_new_tokens": max_new_tokens, "batch_rows": batch_rows, "seed": seed}
    how |= generate_kwargs
    measure = _Measure.of(model, prompts, how, progress)
    measure.predictions.check_before(make(1.0))
    spread, predicted = None, None
    if rule != "bisect":
        each = measure.responses(make, rule) / (2 if rule == "second_order" else 8)
        spread = mean_by(each, measure.owner)
        scale = float(each.max() if rule == "hoeffding" else spread.mean())
        if not scale > 0:
            raise InputError(f"no prediction depends on the strength of {make(1.0)!r}: there is nothing to calibrate.")
        gamma = sqrt(kl_budget / scale)
        spread = spread * gamma**2
        predicted = float(spread.mean())
    else:
        first = _first_guess(measure, make, kl_budget)
        gamma = search_strength(
            lambda s: float(measure.by_prompt(make(s)).mean()), kl_budget, first=first, progress=progress
        )
    found = measure.by_prompt(make(gamma))
    interval = _interval(found)
    said = tuple(_warnings(rule, kl_budget, interval, predicted, found))
    return Calibrated(gamma, kl_budget, rule, predicted, interval, found, spread, said, make, how)


def strengths(
    model: Model, direction: Direction | Directions | None, edit: Callable[[Any], Edits] | None, unit: str, at: Any
) -> Callable[[Any], Edits]:
    """What edits a strength comes to. Raises: InputError for neither or both, ModelError for another model's."""
    if (direction is None) == (edit is None):
        raise InputError("give a direction, or edit=, a function from a strength to edits: one of the two.")
    if edit is not None:
        return edit
    assert direction is not None
    check_model(direction, model)
    chosen = direction
    return lambda strength: add(chosen, strength, unit=unit, at=at)


def check_model(direction: Direction | Directions, model: Model) -> None:
    """Raises: ModelError for a direction of another model."""
    model.check_meant(direction.model)


@dataclass(frozen=True, eq=False)
class _Measure:
    """Sequences with their plain predictions, to compare others with."""

    predictions: Predictions
    sequences: list[Sequences]
    base: list[Tensor]

    @classmethod
    def of(cls, model: Model, prompts: Any, how: dict[str, Any], progress: Progress) -> "_Measure":
        made = measured_sequences(model, prompts, progress=progress, **how)
        if sum(len(seq.rows) for seq in made) < 2:
            raise InputError("an interval takes two prompts at least; there is one.")
        predictions = Predictions.of(model, short(made[0]))
        return cls(predictions, made, [predictions.states(seq) for seq in made])

    @property
    def owner(self) -> Tensor:
        return torch.cat([seq.owner for seq in self.sequences])

    def by_prompt(self, edits: Edits) -> Float[Tensor, " prompt"]:
        """Mean KL of each prompt."""
        kl = [
            self.predictions.kl(base, self.predictions.states(seq, edits))
            for seq, base in zip(self.sequences, self.base, strict=True)
        ]
        return mean_by(torch.cat(kl), self.owner)

    def responses(self, make: Callable[[Any], Edits], rule: str) -> Float[Tensor, " n"]:
        """Var_p(g), or (max g - min g)^2, of every prediction."""
        out = []
        for seq in self.sequences:
            for z, g in derivatives(self.predictions, seq, make):
                p = z.softmax(-1)
                if rule == "second_order":
                    out.append((p * (g - (p * g).sum(-1, keepdim=True)).square()).sum(-1).cpu())
                else:
                    out.append((g.amax(-1) - g.amin(-1)).square().cpu())
        return torch.cat(out)


def _first_guess(measure: _Measure, make: Callable[[Any], Edits], budget: float) -> float:
    """By the second-order rule on the first batch, where it can be had; else 1."""
    try:
        one = replace(measure, sequences=measure.sequences[:1], base=measure.base[:1])
        scale = float(one.responses(make, "second_order").mean())
    except (ModelError, RuntimeError, TypeError, ValueError):
        return 1.0
    return sqrt(2 * budget / scale) if scale > 0 and isfinite(scale) else 1.0


def _interval(values: Float[Tensor, " prompt"]) -> Interval:
    return bootstrap(values, method="percentile")


def _warnings(
    rule: str, budget: float, measured: Interval, predicted: float | None, by_prompt: Sequence[float] | Tensor
) -> Iterator[str]:
    if rule != "bisect" and measured.low > budget:
        yield (
            f"the KL is {measured} nats at this strength, above the budget of {budget:g}: the rule does not hold this "
            "far. Take rule='bisect'."
        )
    elif rule == "second_order" and predicted and measured.value < predicted / 1.5:
        yield (
            f"the KL is {measured} nats, and second order says {predicted:.3g}: the strength is below what the budget "
            "allows. Take rule='bisect'."
        )
    elif rule == "bisect" and measured.value < budget / 2:
        yield (
            f"the KL jumps: it is {measured} nats at this strength, and above the budget of {budget:g} just beyond it."
        )
    values = torch.as_tensor(by_prompt)
    far = int((values > 3 * budget).sum())
    if far:
        yield f"{far} of {len(values)} prompts move by more than three times the budget; it is held in the mean only."
