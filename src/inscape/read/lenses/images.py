"""What each patch of an image would be called, if the classifier read it after each layer."""

from typing import Any

import torch
from torch import Tensor

from inscape.core.errors import InputError, ModelError
from inscape.core.progress import Progress
from inscape.engine.forward import run
from inscape.engine.unembed import Unembedding, unembedding
from inscape.models.model import Model
from inscape.read.lenses.logit import TOLERANCE, LensReading, derangement
from inscape.read.lenses.states import spread, stream
from inscape.read.lenses.vocabulary import read_vocabulary


def class_lens(
    model: Model,
    images: Any,
    layers: Any = None,
    *,
    k: int = 3,
    control: str | None = "shuffle",
    seed: int = 0,
    budget: int | None = None,
    progress: Progress = None,
) -> LensReading:
    """Read every patch after each layer with a vision transformer's own final norm and classifier.

    The classifier was trained on one token (the first); that patches speak its language is a finding, not a given. So:
    final is the model's own class of the image, at every position; rank is that class's rank at the patch; kl is to the
    model's answer; control ranks the class of another image there, where the images have several classes.
    Choose `logit_lens` for models that score every position. Cost: one forward, one row of the classifier a patch.
    Raises: ModelError where the classifier does not read the first token alone (a pool, several tokens together).
    Source: the logit lens on ViT patches, e.g. Vilas et al. 2023, arXiv:2310.18969.
    """
    if control not in (None, "shuffle"):
        raise InputError(f"control={control!r} is none of this lens; it can be 'shuffle' or None.")
    unembed = unembedding(model)
    read = stream(model, images, layers, progress=progress)
    whole = spread(read.ends[None].float().cpu(), read.mask)[0]
    first = whole[:, 0].to(read.ends.device, read.ends.dtype)
    _check(model, unembed, images, first)
    n_images = len(first)
    end = read_vocabulary(unembed, first[None], k=1, budget=budget)
    final = end.top[0, :, 0]
    asked = torch.stack([final, final[derangement(n_images, seed)]], 1)[:, : 2 if control else 1]
    found = read_vocabulary(
        unembed,
        read.states,
        k=k,
        tokens=asked[read.items],
        reference=first[read.items.to(first.device)],
        reference_log_z=end.log_z[0, read.items],
        budget=budget,
        progress=progress,
    )
    assert found.kl is not None
    return LensReading(
        read.layers,
        spread(found.top, read.mask),
        spread(found.top_log.exp(), read.mask),
        spread(found.entropy, read.mask),
        spread(found.rank[..., 0], read.mask),
        spread(found.kl, read.mask),
        spread(final[read.items], read.mask),
        None,
        read.mask,
        f"{unembed.how}, which was trained on the first token",
        unembed.n_vocab,
        spread(found.rank[..., 1], read.mask) if control and n_images > 1 else None,
    )


def _check(model: Model, unembed: Unembedding, images: Any, first: Tensor) -> None:
    """Raise unless the norm and classifier make the model's own scores from its first token."""
    own = getattr(run(model, images, output=True).output, "logits", None)
    name = type(model.module).__name__
    if not isinstance(own, Tensor) or own.ndim != 2:
        raise ModelError(f"the output of {name} is not one row of scores an image.\n  logit_lens reads the others.")
    try:
        with torch.no_grad():
            made = unembed(first)
    except RuntimeError as error:
        raise ModelError(f"the classifier of {name} does not read one token alone: {error}") from error
    error = (
        float((made - own.float()).abs().max() / own.abs().max().clamp(min=1e-9)) if made.shape == own.shape else 1.0
    )
    if error > TOLERANCE.get(model.dtype, 5e-2):
        raise ModelError(
            f"scores made from the first token differ from those of {name} by {error:.2g} of the largest: it reads "
            f"more than {unembed.how} of one token."
        )
