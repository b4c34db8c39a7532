"""States that were read before, by a run or into a file, in place of inputs to read."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, NotFiniteError, ShapeError
from inscape.core.trace import Trace


def given_states(states: Mapping[str, Any], sites: tuple[str, ...], name: str) -> dict[str, Tensor]:
    """States that were read before, one vector an input. Raises: InputError, ShapeError, NotFiniteError."""
    if missing := [site for site in sites if site not in states]:
        raise InputError(
            f"{name} has no states of {missing[0]}, which is observed; it has {', '.join(map(str, states)) or 'none'}."
        )
    found = {site: states[site] for site in sites}
    if isinstance(states, Trace) and states.mask is not None:
        at = (states.mask * torch.arange(states.mask.shape[1], device=states.mask.device)).amax(1)
        found = {s: x[torch.arange(len(x)), at.to(x.device)] if x.ndim == 3 else x for s, x in found.items()}
    for site, x in found.items():
        if x.ndim != 2 or len(x) != len(found[sites[0]]):
            raise ShapeError(
                f"{name}: the states of {site} have shape {tuple(x.shape)}; they are [n, d], one row an input."
            )
        if not bool(torch.isfinite(x).all()):
            raise NotFiniteError(f"{name}: {int((~torch.isfinite(x)).any(1).sum())} states are not finite at {site}.")
    return found


def joined(states: dict[str, Tensor], sites: tuple[str, ...]) -> Float[Tensor, "n width"]:
    return torch.cat([states[site].float() for site in sites], -1)
