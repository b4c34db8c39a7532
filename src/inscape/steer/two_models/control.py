"""The control of whatever is said of fine-tuning: the base changed by as much, in no particular direction."""

import copy

import torch

from inscape.models.model import Model
from inscape.models.open import open as open_model
from inscape.steer.two_models.beside import check_pair


def random_tuning(tuned: Model, base: Model, seed: int = 0) -> Model:
    """The base with a random change of every weight tensor, as long as that which fine-tuning made of it.

    A copy of the base's weights: a control for small models, or one at a time for large ones.
    Raises: ModelError where the two are no pair.
    Source: the control of our own reproduction of arXiv:2506.23423.
    """
    check_pair(tuned, base)
    module = copy.deepcopy(base.module)
    generator = torch.Generator().manual_seed(seed)
    theirs = dict(tuned.module.named_parameters())
    with torch.no_grad():
        for name, p in module.named_parameters():
            change = (theirs[name].detach() - p).float()
            drawn = torch.randn(p.shape, generator=generator).to(change)
            p.add_((drawn * change.norm() / drawn.norm()).to(p.dtype))
    return open_model(module, tokenizer=base.tokenizer)
