"""Texts as one unit vector each, by the mean of an encoder's last layer."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.engine.forward import run
from inscape.models.model import Model


def embedded(model: Model, texts: Sequence[str], *, batch: int = 32) -> Float[Tensor, "texts d"]:
    """Unit vectors: the mean over real tokens of the stream after the last layer, as sentence encoders are read.

    "minilm-l6" was trained to be read so; of other models it is a vector, and no more is said.
    Cost: one forward a text, texts of like length together. Raises: InputError for no texts or an empty one.
    """
    if isinstance(texts, str) or not texts:
        raise InputError("embedded takes a list of texts, at least one.")
    site = f"{model.blocks[-1].name}.resid_post"
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = []
    for start in range(0, len(order), batch):
        some = [texts[i] for i in order[start : start + batch]]
        parts.append(run(model, some, read=site, reduce="mean")[site].float().cpu())
    vectors = torch.nn.functional.normalize(torch.cat(parts), dim=-1)
    return vectors[torch.tensor(order).argsort()]
