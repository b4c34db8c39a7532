"""What a model says when only some answers may be said, of one token or of several."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.progress import Progress
from inscape.models.model import Model
from inscape.read.behaviour.continuations import continuation_log_probs


@dataclass(frozen=True, eq=False)
class Choices:
    """index: the most probable option of every item. log_probs: of every item, those of its options, in nats."""

    index: Int[Tensor, " item"]
    log_probs: tuple[Float[Tensor, " _"], ...]

    @property
    def log_prob(self) -> Float[Tensor, " item"]:
        """How probable the chosen options are."""
        return torch.stack([each[i] for each, i in zip(self.log_probs, self.index.tolist(), strict=True)])


def choose(
    model: Model,
    prompts: Sequence[str],
    options: Sequence[str] | Sequence[Sequence[str]],
    *,
    per_token: bool = False,
    rows: int = 64,
    progress: Progress = None,
) -> Choices:
    """The option of each item that the model finds most probable after its prompt; the first of equal ones.

    Choose it where answers have several tokens or each item its own options. Where all share options of one token,
    the logits of one run say the same at one row an item. An option of more tokens has the lower sum, by itself:
    compare options of about equal length, or take `per_token`, and know what a guess would get (1 / options).
    options: continuations with their space, the same for all items or a list an item.
    Cost, per_token, rows: as `continuation_log_probs`. Raises: as there, and InputError for an item without options.
    """
    shared = bool(options) and all(isinstance(option, str) for option in options)
    each = [list(options)] * len(prompts) if shared else [list(some) for some in options]
    if len(each) != len(prompts) or not all(each):
        raise InputError(
            f"{len(prompts)} prompts, {len(each)} lists of options, {sum(not some for some in each)} of them empty: "
            "give every prompt one list that holds something."
        )
    pairs = [(prompt, str(option)) for prompt, some in zip(prompts, each, strict=True) for option in some]
    flat = continuation_log_probs(
        model, [p for p, _ in pairs], [o for _, o in pairs], per_token=per_token, rows=rows, progress=progress
    )
    parts = flat.split([len(some) for some in each])
    return Choices(torch.tensor([int(part.argmax()) for part in parts]), parts)
