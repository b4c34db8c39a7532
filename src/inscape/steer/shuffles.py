"""Many shuffles of one fit, in one pass: the null of directions from texts."""

from collections.abc import Sequence
from typing import Any

import torch

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.models.model import Model
from inscape.steer.fit_directions import ONE_SIDED, checked
from inscape.steer.fitting import SiteFit, exchanged, logistic_weights
from inscape.steer.states import TextStates


def fit_shuffles(
    model: Model,
    positive: Sequence[Any],
    negative: Sequence[Any],
    sites: Any = "layers.*.resid_post",
    *,
    n: int = 20,
    method: str = "mean_difference",
    position: Any = "last",
    centre: bool = True,
    C: float = 1.0,
    seed: int = 0,
    batch_tokens: int = 4096,
    max_length: int | None = None,
    progress: Progress = None,
) -> list[Directions]:
    """The directions of `n` shuffles of the sides: `fit_directions(..., control="shuffle", seed=seed + k)` for each k.

    One shuffle of few pairs keeps some of the direction by chance, so compare with the distribution over many: what the
    direction does beyond the best of 19 has p <= 0.05. Arguments as in `fit_directions`.
    Cost: one forward a text whatever n; n times the statistics of a fit (little next to the forwards for the means).
    Raises: as `fit_directions`; InputError for n below 1.
    """
    if n < 1:
        raise InputError(f"n={n}: draw one shuffle at least, 20 to compare with.")
    if method in ONE_SIDED:
        raise InputError(f"method={method!r} has no sides to shuffle.")
    high, low = checked(positive, negative, method, "shuffle")
    reader = TextStates(model, sites, position, batch_tokens, max_length)
    said = [exchanged(len(high), len(low), torch.Generator().manual_seed(seed + k)) for k in range(n)]
    fits = [{site: SiteFit(method, centre, True) for site in reader.sites} for _ in range(n)]
    step, longest = reader.step(2), max(len(high), len(low))
    for start in range(0, longest, step):
        tell(progress, f"reading {len(high) + len(low)} texts", start / longest)
        part = slice(start, start + step)
        for site, x in reader.both(high[part], low[part], first=start).items():
            for fit, flags in zip(fits, said, strict=True):
                fit[site].update(x, len(high[part]), torch.cat([f[part] for f in flags]))
    fingerprint, out = model.fingerprint, []
    for k, one in enumerate(fits):
        for site, fit in one.items():
            fit.check(site, position)
        found = logistic_weights(one, C) if method == "logistic" else {s: fit.vector() for s, fit in one.items()}
        about = f"shuffle {k} of {method} of {len(high)} texts from {len(low)} at {position}"
        out.append(
            Directions.of(*(Direction(s, one[s].finished(v).float(), about, fingerprint) for s, v in found.items()))
        )
    return out
