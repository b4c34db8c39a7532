"""Prompts with their answers as batches for `next_token`: only the answer's tokens are learned."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.models.continuation import continued
from inscape.train.losses import IGNORED

Batch = dict[str, Int[Tensor, "row pos"]]


def answer_batches(
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    size: int = 16,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Callable[[int], Batch]:
    """A function of the step that gives `size` pairs, every pair once an epoch, in another order each time.

    The text of a row is `prompt + answer`, so an answer brings the space before it. Rows are padded on the right.
    Raises: InputError for unequal lists or none, TokenError where an answer changes the prompt's last tokens, has no
    tokens, or has one the tokenizer does not know.
    """
    if len(prompts) != len(answers) or not prompts:
        raise InputError(
            f"{len(prompts)} prompts and {len(answers)} answers: there must be one a prompt, and one pair."
        )
    rows = [continued(tokenizer, p, a) for p, a in zip(prompts, answers, strict=True)]
    pad = getattr(tokenizer, "pad_token_id", None) or 0
    size = min(size, len(rows))
    per_epoch = -(-len(rows) // size)

    def batch(step: int) -> Batch:
        epoch, at = divmod(step, per_epoch)
        generator = torch.Generator().manual_seed((seed << 24) + epoch)
        order = torch.randperm(len(rows), generator=generator).tolist()
        chosen = [rows[i] for i in order[at * size : (at + 1) * size]]
        width = max(len(ids) for ids, _ in chosen)
        ids = torch.full((len(chosen), width), pad)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, IGNORED)
        for i, (row, n_prompt) in enumerate(chosen):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
            labels[i, n_prompt : len(row)] = torch.tensor(row[n_prompt:])
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}

    return batch
