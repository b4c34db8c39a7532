"""Every tiny random model of the tests, by name, with inputs for it."""

from typing import Any

import torch
from torch import nn

from tests.common.shared import shared
from tests.common.zoo_decoders import DECODER_ZOO
from tests.common.zoo_others import OTHER_ZOO
from tests.common.zoo_others import inputs_for as other_inputs

ZOO = {**DECODER_ZOO, **OTHER_ZOO}


@shared
def build(name: str) -> nn.Module:
    return ZOO[name]().eval()


def is_causal_text(name: str) -> bool:
    """A decoder of text that generates."""
    return name in DECODER_ZOO


def inputs_for(name: str) -> Any:
    """A small batch this model can run on."""
    if name in OTHER_ZOO:
        return other_inputs(name)
    return {"input_ids": torch.tensor([[5, 9, 13, 17, 21, 25, 29], [6, 10, 14, 18, 22, 26, 30]])}
