"""Surrogate sequences: what a measure of dynamics has to exceed."""

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError, ShapeError

KINDS = ("time", "phase", "units")


def surrogate(x: Float[Tensor, "time d"], kind: str, *, seed: int = 0) -> Float[Tensor, "time d"]:
    """The sequence with one thing destroyed.

    "time": the order of the rows; what rows there are stays, and with it every measure without dynamics.
    "phase": random phases, the same for all units: each unit keeps its spectrum (autocorrelation) and the units their
        cross-spectra; what is not linear and Gaussian goes. "units": every unit's own random shift in time, around the
        end: units keep their dynamics and lose their relation.
    Deterministic in seed. Raises: InputError for another kind, ShapeError.
    Source: Theiler et al. 1992, 10.1016/0167-2789(92)90102-S (phases; common ones: Prichard & Theiler 1994).
    """
    if kind not in KINDS:
        raise InputError(f"kind={kind!r} is no surrogate; it can be {', '.join(map(repr, KINDS))}.")
    if x.ndim != 2 or len(x) < 2:
        raise ShapeError(f"a sequence is [time, d] with two rows or more; got {tuple(x.shape)}.")
    generator = torch.Generator().manual_seed(seed)
    n, d = x.shape
    if kind == "time":
        return x[torch.randperm(n, generator=generator).to(x.device)]
    if kind == "units":
        shift = torch.randint(n, (d,), generator=generator)
        rows = (torch.arange(n)[:, None] + shift) % n
        return x.gather(0, rows.to(x.device))
    spectrum = torch.fft.rfft(x.double(), dim=0)
    phases = torch.rand(len(spectrum), generator=generator, dtype=torch.float64) * 2 * torch.pi
    phases[0] = 0.0  # the mean stays
    if n % 2 == 0:
        phases[-1] = 0.0  # this one is real
    turned = spectrum * torch.polar(torch.ones_like(phases), phases)[:, None].to(x.device)
    return torch.fft.irfft(turned, n=n, dim=0).to(x.dtype)
