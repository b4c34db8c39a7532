"""toy-arithmetic: six layers add two or three numbers, and say the sum as the next token.

    <bos> 12 + 30 + 4 =              -> 46
    <bos> what is 12 + 30 + 4 ?      -> 46

Numbers from 0 to 49 are one token each, and no sum is larger than 49. Two forms of asking, so that what is found on one
can be tried on the other. Nothing tells the net in which layers to add: it is there to be looked into.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inscape.core.extra import package
from inscape.core.progress import Progress
from inscape.dynamics.toys.making import Check, Trained
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.models.toy.words import SPECIAL, word_tokenizer
from inscape.train import cosine, fit, next_token
from inscape.train.losses import IGNORED

LARGEST = 49
WORDS = (*map(str, range(LARGEST + 1)), "+", "=", "what", "is", "?")
FORMS = ("{sum} =", "what is {sum} ?")
WIDTH = 10  # of the longest row, its answer included


def train(seed: int = 0, *, steps: int = 4000, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about nine minutes on one core."""
    transformers = package("transformers", "hf", "training a toy net")
    tokenizer = word_tokenizer(WORDS, max_length=32)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.LlamaForCausalLM(config)
    history = fit(
        module, partial(rows, seed=seed), next_token, steps=steps, lr=2e-3, schedule=cosine, warmup=100, seed=seed,
        optimizer=partial(torch.optim.AdamW, weight_decay=0.1), checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


def rows(step: int, n: int = 128, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch of sums with their results, labelled at the result: three operands three times in four, both forms."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    ids, labels = torch.full((n, WIDTH), SPECIAL.index("<pad>")), torch.full((n, WIDTH), IGNORED)
    start = 0
    for operands, count in ((2, n // 4), (3, n - n // 4)):
        values = drawn(count, operands, generator)
        for form, part in zip(FORMS, values.tensor_split(2), strict=True):
            made = asked(part, form)
            here = slice(start, start + len(part))
            ids[here, : made.shape[1]] = made
            ids[here, made.shape[1]] = labels[here, made.shape[1]] = number(part.sum(1))
            start += len(part)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def drawn(n: int, operands: int, generator: torch.Generator) -> Int[Tensor, "n operands"]:
    """Operands, every choice whose sum is a number of the vocabulary as likely as any other."""
    kept = torch.zeros(0, operands, dtype=torch.long)
    while len(kept) < n:
        tried = torch.randint(LARGEST + 1, (8 * n, operands), generator=generator)
        kept = torch.cat([kept, tried[tried.sum(1) <= LARGEST]])
    return kept[:n]


def asked(values: Int[Tensor, "n operands"], form: str) -> Int[Tensor, "n pos"]:
    """Prompts in tokens, up to where the result is due."""
    made: list[Tensor] = [torch.full((len(values),), SPECIAL.index("<bos>"))]
    for word in form.split():
        if word != "{sum}":
            made.append(torch.full((len(values),), _id(word)))
            continue
        for i, operand in enumerate(values.T):
            made += [torch.full((len(values),), _id("+"))] * (i > 0) + [number(operand)]
    return torch.stack(made, 1)


def number(values: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Token ids of numbers."""
    return values + len(SPECIAL)


def _id(word: str) -> int:
    return WORDS.index(word) + len(SPECIAL)


def check(model: Model) -> dict[str, Check]:
    """Accuracy on sums of two and three operands in both forms, and against the sums of other rows."""
    generator = torch.Generator().manual_seed(12345)
    found = {}
    for operands in (2, 3):
        values = drawn(500, operands, generator)
        for name, form in zip(("equals", "question"), FORMS, strict=True):
            found[f"{name}_{operands}"] = Check(_accuracy(model, asked(values, form), values.sum(1)), at_least=0.98)
        other = drawn(500, operands, generator).sum(1)
        found[f"other_sums_{operands}"] = Check(_accuracy(model, asked(values, FORMS[0]), other), at_most=0.1)
    return found


def _accuracy(model: Model, prompts: Tensor, sums: Tensor) -> float:
    logits: Any = run(model, prompts, output="last").output.logits
    return float((logits[:, -1].argmax(-1) == number(sums)).float().mean())
