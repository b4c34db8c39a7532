"""A latent of a dictionary as a direction."""

import torch

from inscape.core.dictionary import Dictionary
from inscape.core.direction import Direction
from inscape.core.errors import InputError, ShapeError


def latent_direction(dictionary: Dictionary, latent: int) -> Direction:
    """What one unit of a latent adds where its dictionary writes: `decode(e_i) - decode(0)`, its decoder row.

    `ins.add(latent_direction(sae, 7), a)` adds what the latent at activation `a` would; take `a` from what `encode`
    gives on texts where it fires. Choose it where a latent that reads well is known, `fit_directions` where there are
    texts of what is wanted: a latent that fires on something need not cause it, so look at its `dose_response`.
    Raises: InputError for a latent that is not there, or a decoder that is not affine, which has no such row;
    ShapeError for a row of zeros (a dead latent).
    """
    if isinstance(latent, bool) or not 0 <= latent < dictionary.n_latents:
        raise InputError(f"latent={latent}: this dictionary has latents 0 to {dictionary.n_latents - 1}.")
    amounts = torch.zeros(3, dictionary.n_latents)
    amounts[1, latent], amounts[2, latent] = 1.0, 2.0
    with torch.no_grad():
        zero, one, two = dictionary.decode(amounts).float().cpu()
    vector = one - zero
    if not torch.allclose(two - zero, 2 * vector, rtol=1e-3, atol=1e-5 * float(one.abs().max() + zero.abs().max())):
        raise InputError(f"twice latent {latent} is not decoded to twice as much: this decoder has no row for it.")
    if not bool(vector.any()):
        raise ShapeError(f"latent {latent} is decoded to nothing: it is dead, and points nowhere.")
    return Direction(dictionary.site_out, vector, f"latent {latent}", dictionary.model)
