"""The loss of every next token, edited or not, without ever holding the scores of all positions."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import InputError, ModelError
from inscape.engine.forward import run
from inscape.engine.inputs import Inputs, prepare
from inscape.engine.unembed import in_chunks, reads_as_the_model_does, unembedding
from inscape.models.model import Model


def token_losses(
    model: Model, inputs: Sequence[Any], *, edits: Sequence[Edit] = (), whole: bool | None = None
) -> tuple[Float[Tensor, " n"], ...]:
    """Cross-entropy of each real token that follows a real one, in nats, one tensor an input of runs, rows in order.

    inputs: one entry a run (a text, token ids, a batch). whole: take the scores from the model's own output; by default
    they are made from the final stream in chunks where that gives the model's scores (tried on the first input).
    Cost: one forward a run; the scores of a chunk of positions at a time.
    Raises: ModelError for a model without scores; InputError without a token that follows another.
    """
    head = None
    if whole is not True:
        try:
            head = unembedding(model)
            first = prepare(model, inputs[0])
            if whole is None and reads_as_the_model_does(model, head, _short(first)) > 5e-2:
                head = None
        except ModelError:
            head = None
    if head is None and "logits" not in model.sites:
        raise ModelError(f"{type(model.module).__name__} does not score tokens, so there is no loss of the next one.")
    prefix = model.blocks[0].name.rsplit("layers.", 1)[0]
    final = f"{prefix}final_norm"
    normed = head is not None and head.norm is not None and final in model.sites
    site = final if normed else f"{model.blocks[-1].name}.resid_post"
    found = []
    for one in inputs:
        ready = prepare(model, one)
        if ready.tokens is None:
            raise InputError("token_losses takes texts or token ids: these inputs are no tokens.")
        mask = ready.mask.bool().cpu() if ready.mask is not None else torch.ones_like(ready.tokens.cpu()).bool()
        here = mask[:, :-1] & mask[:, 1:]
        target = ready.tokens.cpu()[:, 1:][here]
        losses = torch.zeros(len(target))
        if head is None:
            scores: Any = run(model, ready, edits=edits, output=True).output
            at = scores.logits[:, :-1][here.to(scores.logits.device)].float()
            losses = torch.nn.functional.cross_entropy(at, target.to(at.device), reduction="none").cpu()
        else:
            state = run(model, ready, read=site, edits=edits)[site][:, :-1]

            def use(scores: Tensor, rows: slice, losses: Tensor = losses, target: Tensor = target) -> None:
                wanted = target[rows].to(scores.device)
                losses[rows] = (scores.logsumexp(-1) - scores.gather(-1, wanted[:, None])[:, 0]).cpu()

            in_chunks(head, state[here.to(state.device)], use, normed=normed)
        found.append(losses)
    if not sum(map(len, found)):
        raise InputError("no token follows another in these inputs: give texts of two tokens or more.")
    return tuple(found)


def perplexity(model: Model, inputs: Sequence[Any], *, edits: Sequence[Edit] = ()) -> float:
    """exp of the mean loss over all tokens that follow another. Costs and errors as `token_losses`."""
    return float(torch.cat(token_losses(model, inputs, edits=edits)).double().mean().exp())


def _short(ready: Inputs) -> Any:
    """A few tokens of the first row are enough to see whether head and stream fit."""
    if ready.tokens is None or ready.mask is None:
        return ready
    row = ready.tokens[0][ready.mask[0].bool()][:12]
    return {"input_ids": row[None]} if len(row) else ready
