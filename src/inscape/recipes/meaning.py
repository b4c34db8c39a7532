"""Sentences as vectors, by the packaged MiniLM: for finding a paper by what it is about."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from inscape.engine import embed
from inscape.models.open import open


def embedded(texts: Sequence[str]) -> Float[Tensor, "texts d"]:
    """Unit vectors of texts. Raises: MissingExtraError without the extra `demo`."""
    return embed.embedded(open("minilm-l6"), texts)
