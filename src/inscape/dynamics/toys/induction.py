"""toy-induction: two layers of attention alone learn to repeat, by a previous-token head and an induction head.

A row is `<bos>`, some random syllables, a random stretch of different syllables, and the same stretch again:
`<bos> ku fa | be mo ti ra | be mo ti ra`. Only the second time can be predicted, and only by looking back. Lengths
change from row to row, so that no fixed distance helps.
Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Olsson et al. 2022, arXiv:2209.11895.
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

SYLLABLES = tuple(c + v for c in "bcdfghjklmnprstvwxyz" for v in "aeiou")
LENGTH = 64


def train(seed: int = 0, *, steps: int = 1500, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about a minute on one core."""
    transformers = package("transformers", "hf", "training a toy net")
    tokenizer = word_tokenizer(SYLLABLES, max_length=128)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=4, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.LlamaForCausalLM(config)
    for layer in module.model.layers:  # attention alone: the MLP writes nothing, and stays so
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
        layer.mlp.requires_grad_(False)
    history = fit(
        module, partial(rows, seed=seed), next_token, steps=steps, lr=3e-3, schedule=cosine, warmup=50, seed=seed,
        checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return Trained(module.eval(), tokenizer, history, store_as=torch.float16)


def rows(step: int, n: int = 64, *, seed: int) -> dict[str, Int[Tensor, "row pos"]]:
    """A batch of rows, labelled where the stretch comes again."""
    generator = torch.Generator().manual_seed((seed << 32) + step)
    ids = torch.full((n, LENGTH), SPECIAL.index("<pad>"))
    labels = torch.full((n, LENGTH), IGNORED)
    for row in range(n):
        length = int(torch.randint(4, 29, (), generator=generator))
        before = int(torch.randint(0, LENGTH - 2 * length, (), generator=generator)) if 2 * length < LENGTH - 1 else 0
        words = torch.randperm(len(SYLLABLES), generator=generator)[: before + length] + len(SPECIAL)
        stretch = words[before:]
        whole = torch.cat([torch.tensor([SPECIAL.index("<bos>")]), words, stretch])
        ids[row, : len(whole)] = whole
        labels[row, 2 + before + length : len(whole)] = stretch[1:]  # the first one cannot be known
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def check(model: Model) -> dict[str, Check]:
    """Accuracy on the second of two equal stretches, beside one in another order; and the two heads it takes."""
    length = 24
    generator = torch.Generator().manual_seed(12345)
    half = torch.stack([torch.randperm(len(SYLLABLES), generator=generator)[:length] for _ in range(64)]) + len(SPECIAL)
    other = half[:, torch.randperm(length, generator=generator)]
    bos = torch.full((len(half), 1), SPECIAL.index("<bos>"))
    trace = run(model, torch.cat([bos, half, half], 1), read="layers.*.attn.pattern", output=True)
    logits: Any = trace.output
    shuffled: Any = run(model, torch.cat([bos, half, other], 1), output=True).output
    q = torch.arange(length + 1, 2 * length + 1)
    heads = {
        "previous_head": trace["layers.0.attn.pattern"][:, :, q, q - 1].mean((0, 2)).max(),
        "induction_head": trace["layers.1.attn.pattern"][:, :, q, q - length + 1].mean((0, 2)).max(),
    }
    return {
        "accuracy": Check(second_time(logits.logits, half), at_least=0.95),
        "accuracy_shuffled": Check(second_time(shuffled.logits, other), at_most=0.1),
        **{name: Check(float(score), at_least=0.5) for name, score in heads.items()},
    }


def second_time(logits: Tensor, second: Tensor) -> float:
    """How often the top token is the next one of the second stretch; its first cannot be known and does not count."""
    n = second.shape[1]
    return float((logits[:, -n:-1].argmax(-1) == second[:, 1:]).float().mean())
