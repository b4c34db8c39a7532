"""A direction a row: what one part of the input does to the state, such as an image, a document or an instruction."""

import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.directions import Directions
from inscape.core.errors import InputError, ShapeError
from inscape.core.nulls import random_directions
from inscape.engine.forward import run
from inscape.engine.planning import names_of
from inscape.models.model import Model

CONTROLS = ("another", "random")


def contrast_direction(
    model: Model,
    with_input: Any,
    without_input: Any,
    sites: Any = "layers.*.resid_post",
    *,
    position: Any = "last",
    control: str | None = None,
    seed: int = 0,
    source: str = "",
) -> Directions:
    """State with something in the input minus state without it, one vector a row: `v_r = h_r(with) - h_r(without)`.

    Vectors are [batch, d_model] (at per-head sites [batch, head, d_head]): `ins.add` gives each row of the same batch
    its own. Choose it to keep a model to what stands in this very input; choose `fit_directions` for one direction that
    holds for all inputs.

    with_input, without_input: batches of anything the model takes, row by row the same but for what is contrasted: for
    an image, the same prompt with the image's tokens taken out, not with a blank image. position: the place in either
    input: "last", "first", "mean", a position, or several, averaged. control: "another": each row is given the vector
    of the next one; "random": a vector as long, drawn by `seed`.
    Cost: two forwards without the head, stopped after the last site.
    Raises: ShapeError for batches of unlike size, InputError, SiteError. Warns where a row's vector is zero: the model
    does not look at what was taken out, and adding it changes nothing.
    Source: Li et al. 2025, arXiv:2502.03628. Their code takes the vector through PCA of one example, which is centred
    to zero and leaves an arbitrary unit vector: ours is the difference that they describe.
    """
    if control is not None and control not in CONTROLS:
        raise InputError(f"control={control!r} is none of {', '.join(map(repr, CONTROLS))}, or None.")
    names = names_of(model, sites)
    there, without = (_states(model, inputs, names, position) for inputs in (with_input, without_input))
    rows = len(there[names[0]])
    if len(without[names[0]]) != rows:
        raise ShapeError(
            f"{rows} rows with and {len(without[names[0]])} rows without: each row is compared with its own.\n"
            "  give batches of equal size, in the same order."
        )
    if control == "another" and rows < 2:
        raise InputError("control='another' takes the vector of another row: give two rows at least.")
    about = source or f"with minus without, at {position}"
    about, fingerprint = f"{control} control of {about}" if control else about, model.fingerprint
    made, still = [], {}
    for i, name in enumerate(names):
        vector = there[name] - without[name]
        size = there[name].flatten(1).norm(dim=1)
        zero = vector.flatten(1).norm(dim=1) <= 8 * torch.finfo(torch.float32).eps * size
        if bool(zero.any()):
            still[name] = zero.nonzero()[:, 0].tolist()
            vector[zero] = 0
        if control == "another":
            vector = vector.roll(1, 0)
        if control == "random":
            vector = _random(vector, seed + 7919 * i)
        made.append(Direction(name, vector, about, fingerprint))
    if still:
        name, found = next(iter(still.items()))
        warnings.warn(
            f"taking it out changes nothing at {len(still)} of {len(names)} sites, such as {name} in rows "
            f"{', '.join(map(str, found[:5]))}: these vectors are zero, and adding them does nothing.",
            stacklevel=2,
        )
    return Directions.of(*made)


def _states(model: Model, inputs: Any, names: list[str], position: Any) -> dict[str, Float[Tensor, "batch *axes"]]:
    """One state a row at every site, float32 on the CPU."""
    if position is None or position == "all":
        raise InputError(
            "position says which token's state stands for a row: 'last', 'mean', a position, or several, averaged."
        )
    reduce = [position] if isinstance(position, int) else position
    trace = run(model, inputs, read=names, reduce=reduce, output=False)
    held = {name: trace[name].float().cpu() for name in names}
    return held if isinstance(reduce, str) else {name: x.mean(1) for name, x in held.items()}


def _random(vectors: Float[Tensor, "batch *axes"], seed: int) -> Float[Tensor, "batch *axes"]:
    """A random vector for each that is not zero, of its length."""
    drawn = random_directions(torch.ones_like(vectors[0]), len(vectors), seed=seed)
    shape = (-1, *[1] * (vectors.ndim - 1))
    length = vectors.flatten(1).norm(dim=1) / drawn.flatten(1).norm(dim=1)
    return drawn * length.reshape(shape)
