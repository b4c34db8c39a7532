"""Sentences as vectors, by the packaged MiniLM: for finding a paper by what it is about."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.engine.forward import run
from inscape.models.open import open


def embedded(texts: Sequence[str]) -> Float[Tensor, "texts d"]:
    """Unit vectors: the mean of MiniLM's last layer over real tokens, as it was trained to be read.

    Raises: MissingExtraError without the extra `demo`.
    """
    model = open("minilm-l6")
    trace = run(model, list(texts), output=True)
    assert trace.mask is not None
    hidden, mask = trace.output.last_hidden_state, trace.mask[..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean.float(), dim=-1)
