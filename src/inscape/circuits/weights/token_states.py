"""What a token is to later layers before it has met another: its embedding, what the first MLP makes of it, or both."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.edits.sources import ablate
from inscape.core.edits.values import replace
from inscape.core.errors import InputError, ModelError
from inscape.engine.evidence import twin_of
from inscape.engine.forward import run
from inscape.engine.probe import evaluating
from inscape.models.model import Model

STATES = ("embed", "mlp0", "embed+mlp0")
ROWS = 512  # tokens at once


@dataclass(frozen=True, eq=False)
class TokenStates:
    """States of the stream, one a token, and what they are made of, in words."""

    values: Float[Tensor, "token d_model"]
    how: str


def token_states(model: Model, tokens: Int[Tensor, " token"], which: str = "embed+mlp0") -> TokenStates:
    """The stream of lone tokens with the first layer's attention (and any recurrence) switched off, from modules alone.

    which: "embed", the embedding as the first layer receives it (scaled, normed, as this family does); "mlp0", what the
        first MLP adds to it; "embed+mlp0", both: the stream after the first layer. Later layers of trained models
        read "embed+mlp0" or "mlp0" far better than bare embeddings, which are often tied to the head.
    A learned position embedding is left out, since a token has no position here.
    Cost: the first layer, on one row a token.
    Raises: InputError for another `which`; ModelError for a model without these sites.
    """
    if which not in STATES:
        raise InputError(f"pre={which!r} is no state of a token; it can be {', '.join(map(repr, STATES))}.")
    first = model.blocks[0] if model.blocks else None
    if first is None or "resid_pre" not in first.points:
        raise ModelError(f"{type(model.module).__name__} has no residual stream that tokens enter.")
    if which != "embed" and "mlp_out" not in first.points:
        raise ModelError(
            f"the first layer of {type(model.module).__name__} has no MLP, which pre={which!r} asks for.\n"
            "  give pre='embed'."
        )
    start = first.points["resid_pre"].name
    with evaluating(model.module), torch.no_grad():
        pieces = [_of(model, tokens[i : i + ROWS, None], which, start) for i in range(0, len(tokens), ROWS)]
    with_position = pieces[0][1]
    said = {"embed": "embedding", "mlp0": "first MLP's output", "embed+mlp0": "embedding + first MLP's output"}[which]
    said += ", first attention off" if which != "embed" else ""
    said += ", without its position embedding" if with_position else ""
    return TokenStates(torch.cat([p[0] for p in pieces]), said)


def _of(model: Model, ids: Tensor, which: str, start: str) -> tuple[Tensor, bool]:
    first, inputs = model.blocks[0].points, _inputs(model, ids)
    prefix = model.blocks[0].points["resid_pre"].prefix
    embed = f"{prefix}embed"
    wanted = [start, *([embed] if embed in model.sites else [])]
    seen = run(model, inputs, read=wanted)
    states, placed = seen[start], False
    if embed in seen and seen[embed].shape == states.shape:
        moved = (states - seen[embed]).flatten(0, 1)
        placed = bool(moved.abs().max() > 0) and _same_everywhere(moved, states)
        states = seen[embed] if placed else states
    if which == "embed":
        return states[:, 0].float(), placed
    twin = twin_of(model.blocks[0])
    off: list[Edit] = [replace(start, states)] if placed else []
    off += [ablate(first[n].name, "zero") for n in ("attn_out", "ssm_out") if n in first and n != twin]
    end = first["mlp_out"] if which == "mlp0" else first["resid_post"]
    return run(model, inputs, read=end.name, edits=off)[end.name][:, 0].float(), placed


def _same_everywhere(moved: Tensor, states: Tensor) -> bool:
    """Is what was added to the embedding the same for all tokens, up to rounding?"""
    spread = (moved - moved.mean(0)).abs().max()
    return len(moved) > 1 and bool(spread <= 8 * torch.finfo(states.dtype).eps * states.abs().max())


def _inputs(model: Model, ids: Tensor) -> object:
    if getattr(model.config, "is_encoder_decoder", False):
        return {"input_ids": ids, "decoder_input_ids": ids}
    return ids if model.config is not None else (ids,)
