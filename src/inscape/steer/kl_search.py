"""A strength at which a KL meets a budget: bracketed, then closed in on, in logarithms."""

from collections.abc import Callable
from math import exp, isfinite, log, sqrt

from inscape.core.errors import NotConvergedError, NotFiniteError
from inscape.core.progress import Progress, tell

CLOSE = 0.02  # of the budget: where a search stops
ROUNDS = 40


def search_strength(
    measure: Callable[[float], float], budget: float, *, first: float = 1.0, progress: Progress = None
) -> float:
    """The largest strength found whose KL is within the budget, and within 2 % of it where the KL does not jump.

    measure: the KL at a strength, growing with it; NotFiniteError counts as too much. first: where to begin.
    Cost: about ten measurements. Raises: NotConvergedError where the KL never reaches the budget.
    """

    def kl(gamma: float) -> float:
        tell(progress, f"measuring the KL at strength {gamma:.3g}", None)
        try:
            return measure(gamma)
        except NotFiniteError:
            return float("inf")

    low, high, at_low, at_high = 0.0, float("inf"), 0.0, float("inf")
    gamma, most = first, 0.0
    for _ in range(ROUNDS):
        found = kl(gamma)
        most = max(most, found if isfinite(found) else 0.0)
        if found <= budget:
            low, at_low = gamma, found
        else:
            high, at_high = gamma, found
        if budget * (1 - CLOSE) <= at_low:
            return low
        if low and high / low < 1 + 1e-4:  # it jumps over the budget, or numbers end there
            break
        if high == float("inf"):
            gamma = low * (min(4.0, max(1.2, sqrt(budget / at_low) * 1.02)) if at_low > 0 else 4.0)
        elif low == 0.0:
            gamma = high * (max(0.25, sqrt(budget / at_high) * 0.99) if isfinite(at_high) else 0.25)
        elif at_low > 0 and isfinite(at_high):
            share = (log(budget * (1 - CLOSE / 2)) - log(at_low)) / (log(at_high) - log(at_low))
            gamma = exp(log(low) + min(max(share, 0.05), 0.95) * (log(high) - log(low)))
        else:
            gamma = sqrt(low * high)
    if low and (isfinite(at_high) or at_low >= budget / 2):
        return low
    raise NotConvergedError(
        f"the mean KL did not reach {budget:g} nats: it is {most:.3g} at the most, up to a strength of {low:.3g}.\n"
        "  is the direction at a site and at positions that these predictions depend on?"
    )
