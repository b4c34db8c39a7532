"""Where to steer: sites compared by what a direction does there, all at the same KL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.directions import Directions
from inscape.core.errors import InputError, NotConvergedError
from inscape.core.progress import Progress, part, tell
from inscape.models.model import Model
from inscape.steer.calibrate import calibrate_strength
from inscape.steer.dose_response import dose_response


@dataclass(frozen=True, eq=False)
class Where:
    """Sites at the strength where the KL is the budget. scores [site, prompt] of the judge; plain: unsteered.

    best: the site of the largest mean change. missed: sites at which the KL never reaches the budget.
    """

    sites: tuple[str, ...]
    strengths: tuple[float, ...]
    scores: Float[Tensor, "site prompt"]
    plain: Float[Tensor, " prompt"]
    best: str
    missed: tuple[str, ...]

    @property
    def strength(self) -> float:
        """Of the best site."""
        return self.strengths[self.sites.index(self.best)]

    def rows(self) -> list[dict[str, Any]]:
        """A line a site."""
        change = (self.scores - self.plain).mean(1).tolist()
        columns = zip(self.sites, self.strengths, change, strict=True)
        return [{"site": site, "strength": t, "change": c} for site, t, c in columns]


def choose_site(
    model: Model,
    directions: Directions,
    prompts: Sequence[Any],
    judge: Any,
    kl_budget: float,
    *,
    n_sites: int = 5,
    goal: str = "raise",
    unit: str = "relative",
    max_new_tokens: int = 16,
    progress: Progress = None,
) -> Where:
    """The site at which a direction changes the judge's score most, when every site may spend the same KL.

    Where two kinds of text lie furthest apart is mostly the last layers, and steering there does little but exchange
    the next word; where it does most for its price is found by trying. The best of several is too good on the prompts
    it was chosen on: measure on others.

    n_sites: so many, evenly spread over those that have a direction. The rest as in `dose_response`.
    Cost: for each site about ten forwards of `prompts` with `max_new_tokens` behind them, and one generation.
    Raises: InputError for fewer than 4 prompts or no sites; NotConvergedError where no site reaches the budget.
    """
    if n_sites < 1:
        raise InputError(f"n_sites={n_sites}: one at least.")
    every = directions.sites
    step = (len(every) - 1) / max(n_sites - 1, 1)
    tried = list(dict.fromkeys(every[round(i * step)] for i in range(n_sites)))
    found: dict[str, tuple[float, Tensor, Tensor]] = {}
    how = {"unit": unit, "max_new_tokens": max_new_tokens}
    for i, site in enumerate(tried):
        tell(progress, f"trying {site}", i / len(tried))
        inner = part(progress, i / len(tried), (i + 1) / len(tried))
        try:
            gamma = calibrate_strength(model, directions[site], prompts, kl_budget, **how, progress=inner).gamma
        except NotConvergedError:
            continue
        dose = dose_response(
            model, directions[site], prompts, [gamma], judge, goal=goal, controls=(), validation=0.0, **how
        )
        found[site] = gamma, dose.scores[0, dose.index(gamma)], dose.scores[0, dose.index(0.0)]
    if not found:
        raise NotConvergedError(
            f"at none of {', '.join(tried)} does the KL reach {kl_budget:g} nats.\n  give a smaller budget."
        )
    scores = torch.stack([f[1] for f in found.values()])
    plain = next(iter(found.values()))[2]
    change = (scores - plain).mean(1) * (1 if goal == "raise" else -1)
    names = tuple(found)
    missed = tuple(s for s in tried if s not in found)
    return Where(names, tuple(f[0] for f in found.values()), scores, plain, names[int(change.argmax())], missed)
