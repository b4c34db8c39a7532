"""Losses that many training jobs share: functions of a module and a batch."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

IGNORED = -100  # a label of this value counts nothing, as everywhere in torch


def next_token(module: nn.Module, batch: Tensor | Mapping[str, Any]) -> Float[Tensor, ""]:
    """Mean cross-entropy of every next token, in nats: for causal language models.

    batch: token ids [batch, pos], or a mapping with `input_ids` and maybe `attention_mask` and `labels`. `labels` are
    aligned with `input_ids` (the loss shifts them), and `IGNORED` where nothing is to be learned; padding never counts.
    """
    given = {"input_ids": batch} if isinstance(batch, Tensor) else dict(batch)
    labels = given.pop("labels", None)
    if labels is None:
        labels = given["input_ids"]
    mask = given.get("attention_mask")
    if mask is not None:
        labels = labels.masked_fill(mask == 0, IGNORED)
    logits = module(**given).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)
